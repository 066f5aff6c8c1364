//! A containerd of the test's own: its state in a directory of its own, its pods in a network of their
//! own, and Hull as a runtime.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::layout::with_command;
use crate::network::Network;
use crate::traces::control_groups;
use crate::{Outcome, busybox, program};

/// The runtime's name.
pub const RUNTIME: &str = "io.containerd.hull.v2";
/// What pods name the runtime by.
pub const HULL: &str = "hull";
/// What pods name runc by.
pub const RUNC: &str = "runc";
/// The image that most tests run, in containerd's terms.
pub const BUSYBOX: &str = "localhost/busybox:1";
/// The same that waits when nothing else is said.
const WAITING: &str = "localhost/waiting:1";
/// A subnet of the pods.
pub const PODS_V4: &str = "198.51.100.0/24";
/// The same.
pub const PODS_V6: &str = "2001:db8:1::/64";

/// Longest time that containerd may take to answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// containerd's configuration, in its directory: as on a node, seen from the node's root.
pub const CONFIGURATION: &str = "etc/containerd/config.toml";
/// Hull's own, beside it.
const SETTINGS: &str = "etc/hull.toml";
/// A running containerd. Whatever it runs ends with it.
#[derive(Debug)]
pub struct Containerd {
    dir: TempDir,
    network: Network,
    process: Option<Child>,
}

impl Default for Containerd {
    fn default() -> Self {
        Self::new()
    }
}

impl Containerd {
    /// Takes the current thread into a network of its own, starts containerd there and gives it the
    /// image.
    ///
    /// # Panics
    /// When it does not start: it needs root, and the packages that `.ci/deps` lists.
    #[must_use]
    pub fn new() -> Self {
        Self::with(BUSYBOX, &[hull()])
    }

    /// The same with a configuration that says nothing of Hull.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn without_hull() -> Self {
        Self::with(BUSYBOX, &[])
    }

    /// The same as [`new`](Self::new), whose pods may be runc's.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn with_runc() -> Self {
        // In a sandbox container of Hull nothing runs, in one of runc a process that waits has to.
        let dir = TempDir::new().expect("a directory");
        let image = with_command(&dir.path().join("waits"), &["sleep", "1000000"]);
        let containerd = Self::with(WAITING, &[hull(), runc()]);
        containerd.import("k8s.io", &image, WAITING);
        containerd
    }

    fn with(sandbox_image: &str, runtimes: &[String]) -> Self {
        let network = Network::enter();
        let dir = tempfile::Builder::new()
            .prefix("ctd-")
            .tempdir()
            .expect("a directory");
        let none = None::<&str>;
        // Files of network namespaces that nobody else sees.
        fs::create_dir_all("/run/netns").expect("/run/netns");
        mount(
            Some("tmpfs"),
            "/run/netns",
            Some("tmpfs"),
            MsFlags::empty(),
            none,
        )
        .expect("tmpfs");
        let file = dir.path().join(CONFIGURATION);
        fs::create_dir_all(file.parent().expect("a directory")).expect("a directory");
        let configuration = configuration(dir.path(), sandbox_image) + &runtimes.concat();
        fs::write(file, configuration).expect("written");
        let settings = dir.path().join(SETTINGS);
        fs::write(&settings, "").expect("written");
        crate::settings::add_beside(settings.parent().expect("a directory"));
        let networks = dir.path().join("cni");
        fs::create_dir(&networks).expect("a directory");
        fs::create_dir(dir.path().join("run")).expect("a directory");
        let ports = json!({"type": "portmap", "capabilities": {"portMappings": true}});
        let plugins = [bridge(dir.path()), ports];
        fs::write(networks.join("10-test.conflist"), network_list(&plugins)).expect("written");
        let mut containerd = Self {
            dir,
            network,
            process: None,
        };
        containerd.start();
        for namespace in ["default", "k8s.io"] {
            containerd.import(namespace, &busybox(), BUSYBOX);
        }
        containerd
    }

    /// Starts containerd, which must not run, and waits until it answers.
    ///
    /// # Panics
    /// When it does not.
    pub fn start(&mut self) {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.dir.path().join("containerd.log"))
            .expect("a log");
        let mut containerd = Command::new(program_of_containerd("containerd"));
        if !Path::new("/run/udev/control").exists() {
            // dmsetup waits for udev to make the files of devices, unless it is told to make them.
            containerd.env("DM_DISABLE_UDEV", "1");
        }
        let process = containerd
            .arg("--config")
            .arg(self.dir.path().join(CONFIGURATION))
            .env("PATH", path())
            .env("HULL_ROOT", self.hull_root())
            .env("HULL_CONFIG", self.dir.path().join(SETTINGS))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a descriptor"))
            .stderr(log)
            .spawn()
            .expect("containerd starts; is the package installed?");
        self.process = Some(process);
        let started = Instant::now();
        while self.ctr(["version"]).0.status.code() != Some(0) {
            assert!(started.elapsed() < PATIENCE, "{}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Where templates of its pods are to be (`vm.template_dir`), as the settings of the whole run have it.
    #[must_use]
    pub fn templates(&self) -> PathBuf {
        let settings = self.dir.path().join(SETTINGS);
        crate::settings::templates_beside(settings.parent().expect("a directory"))
    }

    /// Sets what pods are given that are made from now on: Hull's settings.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn set(&self, settings: &str) {
        fs::write(self.dir.path().join(SETTINGS), settings).expect("written");
    }

    /// Kills containerd. Its pods live on.
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill(&mut self) {
        let mut process = self.process.take().expect("it runs");
        process.kill().expect("killed");
        process.wait().expect("ended");
    }

    /// Starts containerd again, whose pods have a network of these CNI plug-ins from now on.
    ///
    /// # Panics
    /// When it does not start.
    pub fn use_network(&mut self, plugins: &[Value]) {
        self.kill();
        let list = self.dir.path().join("cni/10-test.conflist");
        fs::write(list, network_list(plugins)).expect("written");
        self.start();
    }

    /// Starts containerd again with this at the end of its configuration, as text.
    ///
    /// # Panics
    /// When it does not start.
    pub fn configure(&mut self, more: &str) {
        self.kill();
        let file = self.dir.path().join(CONFIGURATION);
        let configuration = fs::read_to_string(&file).expect("read") + more;
        fs::write(file, configuration).expect("written");
        self.start();
    }

    /// Whether one of its plug-ins works.
    #[must_use]
    pub fn has_plugin(&self, id: &str) -> bool {
        let list = self.ctr(["plugins", "ls"]).ok();
        let mut rows = list
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>());
        rows.any(|row| row.get(1) == Some(&id) && row.last() == Some(&"ok"))
    }

    /// The CNI plug-in of the pods' bridge.
    #[must_use]
    pub fn bridge(&self) -> Value {
        bridge(self.dir.path())
    }

    /// What gives an interface addresses of these subnets, for CNI plug-ins that make one.
    #[must_use]
    pub fn addresses(&self, subnets: [&str; 2]) -> Value {
        addresses(self.dir.path(), subnets)
    }

    /// `ctr` with these arguments.
    pub fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(program_of_containerd("ctr"));
        command
            .arg("--address")
            .arg(self.socket())
            .args(arguments)
            .stdin(Stdio::null());
        command
    }

    /// Runs `ctr` to its end.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn ctr<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Outcome {
        Outcome(self.command(arguments).output().expect("ctr starts"))
    }

    /// `ctr run --rm` with Hull.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn run(&self, options: &[&str], id: &str, command: &[&str]) -> Outcome {
        self.ctr(run_arguments(options, id, command))
    }

    /// The process id that containerd knows a container of one of its namespaces by.
    ///
    /// # Panics
    /// When it knows none.
    #[must_use]
    pub fn pid(&self, namespace: &str, id: &str) -> u32 {
        let list = self.ctr(["--namespace", namespace, "task", "ls"]).ok();
        let mut rows = list.lines().map(str::split_whitespace);
        let pid = rows.find_map(|mut row| (row.next() == Some(id)).then(|| row.next()));
        let pid = pid.flatten().and_then(|pid| pid.parse().ok());
        pid.unwrap_or_else(|| panic!("no task {id}:\n{list}"))
    }

    /// Gives it an image, in skopeo's terms, by a name.
    ///
    /// # Panics
    /// When it is refused.
    pub fn import(&self, namespace: &str, image: &str, name: &str) {
        let archive = self.dir.path().join("image.tar");
        let copied = Command::new("skopeo")
            .args(["copy", "--quiet", image])
            .arg(format!("oci-archive:{}:{name}", archive.display()))
            .output()
            .expect("skopeo runs");
        let _ = Outcome(copied).ok();
        let archive = archive.as_os_str();
        let arguments = ["--namespace", namespace, "images", "import"].map(OsStr::new);
        let imported = self.ctr(arguments.into_iter().chain([archive]));
        let _ = imported.ok();
        fs::remove_file(archive).expect("removed");
    }

    /// The network that containerd and its pods' bridge are in.
    #[must_use]
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// The directory for everything.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// containerd's socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("c.sock")
    }

    /// The state directory of the only pod that there is.
    ///
    /// # Panics
    /// When there is none, or another one.
    #[must_use]
    pub fn only_state_dir(&self) -> PathBuf {
        let states = fs::read_dir(self.hull_root().join("run")).expect("a directory");
        let states: Vec<_> = states
            .map(|state| state.expect("an entry").path())
            .collect();
        assert_eq!(states.len(), 1, "{states:?}");
        states.into_iter().next().expect("one")
    }

    /// Where Hull has its state.
    #[must_use]
    pub fn hull_root(&self) -> PathBuf {
        self.run_dir().join("hull")
    }

    /// What is in `/run` elsewhere: the state of containerd and of Hull.
    #[must_use]
    pub fn run_dir(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    /// The directory with a directory for each registry, which says how it is reached.
    #[must_use]
    pub fn registries(&self) -> PathBuf {
        self.dir.path().join("registries")
    }

    /// The control group of the host that the pods of the CRI are in, below every hierarchy's root.
    ///
    /// # Panics
    /// When the directory has no name.
    #[must_use]
    pub fn cgroup(&self) -> String {
        let name = self.dir.path().file_name().expect("a name");
        format!("/{}", name.to_string_lossy())
    }

    /// What containerd and the pods' processes said.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("containerd.log")).unwrap_or_default()
    }

    /// Waits until no pod has a state directory.
    ///
    /// # Panics
    /// When one has for a minute.
    pub fn wait_until_clean(&self) {
        let started = Instant::now();
        while !self.states().is_empty() {
            assert!(started.elapsed() < PATIENCE, "{:?}", self.states());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Whether a pod process has noted down that a process has ended with `code`, whoever asks for it
    /// later.
    #[must_use]
    pub fn has_recorded_exit(&self, code: u32) -> bool {
        let exit = format!("\"exit\":{{\"code\":{code},");
        let mut recorded = self.states().into_iter().map(|pod| {
            let file = self.hull_root().join("run").join(pod).join("state.json");
            fs::read_to_string(file).unwrap_or_default()
        });
        recorded.any(|record| record.contains(&exit))
    }

    fn states(&self) -> Vec<std::ffi::OsString> {
        let entries = fs::read_dir(self.hull_root().join("run"));
        let entries = entries.into_iter().flatten();
        entries
            .map(|entry| entry.expect("an entry").file_name())
            .collect()
    }

    /// Checks that no pod is left: no process, no mount, no file.
    ///
    /// # Panics
    /// When something is left, with what it is.
    pub fn assert_no_pods(&self) {
        let root = self.hull_root();
        // The end of its connection, for which containerd waits, is what a pod process does last but one.
        for pod in crate::traces::pids_of("containerd-shim-hull-v2", &root.display().to_string()) {
            crate::traces::wait_for_end(pod);
        }
        let processes = crate::traces::processes_with(&root.display().to_string());
        assert!(processes.is_empty(), "{processes:#?}");
        let states = self.states();
        assert!(states.is_empty(), "{states:?}");
        for dir in control_groups(&self.cgroup()) {
            let groups = crate::traces::tree(&dir, &|path| path.is_dir());
            assert!(groups.is_empty(), "{groups:#?}");
        }
        let mounts = crate::namespaces::mounts_below(&root);
        assert!(mounts.is_empty(), "{mounts:#?}");
        let networks = self.networks();
        assert!(networks.is_empty(), "{networks:#?}");
    }

    /// The network namespaces and addresses that pods have.
    fn networks(&self) -> Vec<PathBuf> {
        let is_lease = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.parse::<std::net::IpAddr>().is_ok()
        };
        let leases = paths_in(&self.dir.path().join("ipam/test"));
        let namespaces = paths_in(Path::new("/run/netns"));
        leases.filter(is_lease).chain(namespaces).collect()
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("containerd said:\n{}", self.log());
        }
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
        // Whatever a failed test left.
        crate::traces::kill_recorded(&self.hull_root().join("run"));
        crate::namespaces::unmount_all_below(self.dir.path());
        for dir in control_groups(&self.cgroup()) {
            // One that a failed test has left full stays.
            let _ = fs::remove_dir(dir);
        }
    }
}

fn paths_in(dir: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = fs::read_dir(dir).into_iter().flatten();
    entries.map(|entry| entry.expect("an entry").path())
}

/// Arguments of `ctr run --rm` with Hull.
#[must_use]
pub fn run_arguments(options: &[&str], id: &str, command: &[&str]) -> Vec<String> {
    let mut arguments = vec!["run", "--rm", "--runtime", RUNTIME];
    arguments.extend(options);
    arguments.extend([BUSYBOX, id]);
    arguments.extend(command);
    arguments.into_iter().map(str::to_owned).collect()
}

/// `HULL_CONTAINERD` names a directory with another containerd than the one in `PATH`.
const DIRECTORY: &str = "HULL_CONTAINERD";

fn program_of_containerd(name: &str) -> PathBuf {
    match std::env::var_os(DIRECTORY) {
        Some(dir) => Path::new(&dir).join(name),
        None => PathBuf::from(name),
    }
}

/// Where containerd looks for programs: Hull's are there, and those that came with another containerd.
///
/// # Panics
/// When Hull was not built.
#[must_use]
pub fn path() -> OsString {
    let shim = program("containerd-shim-hull-v2");
    let hull = shim.parent().expect("a directory").to_owned();
    let with_containerd = std::env::var_os(DIRECTORY).map(PathBuf::from);
    let inherited = std::env::var_os("PATH").unwrap_or_default();
    let dirs = [Some(hull), with_containerd].into_iter().flatten();
    std::env::join_paths(dirs.chain(std::env::split_paths(&inherited)))
        .expect("names of directories")
}

/// Whether pods are left to Hull as a whole, by containerd's sandboxer `shim` and not its default:
/// `HULL_SANDBOXER`.
#[must_use]
pub fn is_sandboxer() -> bool {
    std::env::var_os("HULL_SANDBOXER").is_some_and(|name| name == "shim")
}

/// Hull among the runtimes.
fn hull() -> String {
    let sandboxer = match is_sandboxer() {
        true => "sandboxer = \"shim\"",
        false => "",
    };
    format!(
        r#"
[plugins."io.containerd.grpc.v1.cri".containerd]
  default_runtime_name = "{HULL}"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.{HULL}]
  runtime_type = "{RUNTIME}"
  pod_annotations = ["dev.hull.*", "io.katacontainers.config.*"]
  privileged_without_host_devices = true
  {sandboxer}
"#
    )
}

fn runc() -> String {
    format!(
        r#"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.{RUNC}]
  runtime_type = "io.containerd.runc.v2"
"#
    )
}

fn configuration(dir: &Path, sandbox_image: &str) -> String {
    let dir = dir.display();
    format!(
        r#"
version = 2
root = "{dir}/root"
state = "{dir}/run/containerd"
# They would have a socket and a directory of the host's.
disabled_plugins = ["io.containerd.nri.v1.nri", "io.containerd.internal.v1.opt"]
[debug]
  level = "warn"
[grpc]
  address = "{dir}/c.sock"
[ttrpc]
  address = "{dir}/c.sock.ttrpc"
[plugins."io.containerd.grpc.v1.cri"]
  restrict_oom_score_adj = true
  disable_apparmor = true
  sandbox_image = "{sandbox_image}"
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{dir}/cni"
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "{dir}/registries"
"#
    )
}

/// A list of CNI plug-ins as containerd reads it.
fn network_list(plugins: &[Value]) -> String {
    json!({"cniVersion": "0.4.0", "name": "test", "plugins": plugins}).to_string()
}

/// An address of each family, from the test's own ranges.
fn addresses(dir: &Path, subnets: [&str; 2]) -> Value {
    json!({
        "type": "host-local",
        "dataDir": dir.join("ipam"),
        "ranges": subnets.map(|subnet| [json!({"subnet": subnet})]),
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
    })
}

fn bridge(dir: &Path) -> Value {
    json!({
        "type": "bridge",
        "bridge": "pods0",
        "isGateway": true,
        "mtu": 1400,
        "ipam": addresses(dir, [PODS_V4, PODS_V6]),
    })
}
