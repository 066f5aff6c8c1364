//! A guest for tests: the agent in namespaces of its own on this machine, served over Unix sockets.
//!
//! `HULL_AGENT_TEST_GUEST` names a directory with sockets of a guest that runs elsewhere, such as in
//! a virtual machine, and with `ROOT` a root file system at the path that the guest has for it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio as Redirect};
use std::sync::atomic::{AtomicU64, Ordering};

use hull_agent_api::agent::*;
use hull_agent_api::agent_ttrpc::AgentClient;
use hull_agent_api::{Hello, stdio};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use ttrpc::context::Context;

/// Sets up what the kernel and the boot code do in a guest, then becomes the agent.
const START: &str = "
mount --make-rprivate / &&
mount -t tmpfs tmpfs /run &&
mount -t cgroup2 -o nsdelegate cgroup2 /sys/fs/cgroup &&
mount --make-rshared / &&
exec \"$0\" serve \"$1\"";

static NEXT: AtomicU64 = AtomicU64::new(1);

/// A running agent.
pub(crate) struct Guest {
    directory: PathBuf,
    pub(crate) root: PathBuf,
    pub(crate) client: AgentClient,
    process: Option<Child>,
    _temporary: Option<TempDir>,
}

/// What a container is made of, beyond what all have.
#[derive(Clone)]
pub(crate) struct Setup {
    pub(crate) args: Vec<String>,
    pub(crate) process: BTreeMap<String, Value>,
    pub(crate) spec: BTreeMap<String, Value>,
    pub(crate) linux: BTreeMap<String, Value>,
    pub(crate) seccomp_filter: Option<SeccompFilter>,
    pub(crate) namespaces: Vec<&'static str>,
    pub(crate) mounts: Vec<Value>,
    pub(crate) stdin: Vec<u8>,
    pub(crate) terminal: bool,
}

impl Setup {
    pub(crate) fn new(args: &[&str]) -> Self {
        Self {
            args: args.iter().map(|&a| a.to_owned()).collect(),
            process: BTreeMap::new(),
            spec: BTreeMap::new(),
            linux: BTreeMap::new(),
            seccomp_filter: None,
            namespaces: vec!["pid", "mount", "ipc", "uts", "network", "cgroup"],
            mounts: vec![
                json!({"destination": "/proc", "type": "proc", "source": "proc"}),
                json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                    "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]}),
                json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                    "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]}),
                json!({"destination": "/sys", "type": "sysfs", "source": "sysfs",
                    "options": ["nosuid", "noexec", "nodev", "ro"]}),
            ],
            stdin: Vec::new(),
            terminal: false,
        }
    }

    pub(crate) fn shell(script: &str) -> Self {
        Self::new(&["/bin/sh", "-c", script])
    }

    pub(crate) fn process(mut self, field: &str, value: Value) -> Self {
        self.process.insert(field.to_owned(), value);
        self
    }

    pub(crate) fn spec(mut self, field: &str, value: Value) -> Self {
        self.spec.insert(field.to_owned(), value);
        self
    }

    pub(crate) fn linux(mut self, field: &str, value: Value) -> Self {
        self.linux.insert(field.to_owned(), value);
        self
    }

    pub(crate) fn mount(mut self, mount: Value) -> Self {
        self.mounts.push(mount);
        self
    }

    pub(crate) fn stdin(mut self, bytes: &[u8]) -> Self {
        self.stdin = bytes.to_vec();
        self
    }

    pub(crate) fn terminal(mut self) -> Self {
        self.terminal = true;
        self
    }

    pub(crate) fn namespace(mut self, kind: &'static str) -> Self {
        self.namespaces.push(kind);
        self
    }

    pub(crate) fn without(mut self, kind: &str) -> Self {
        self.namespaces.retain(|k| *k != kind);
        self
    }

    /// The `process` object.
    pub(crate) fn process_json(&self) -> Value {
        let all: Vec<&str> = ALL_CAPABILITIES.split_whitespace().collect();
        let mut process = json!({
            "args": self.args,
            "cwd": "/",
            "env": ["PATH=/bin:/sbin", "TERM=dumb"],
            "user": {"uid": 0, "gid": 0},
            "capabilities": {"bounding": all, "effective": all, "permitted": all},
        });
        for (field, value) in &self.process {
            process[field] = value.clone();
        }
        process
    }

    /// Rules as a specification has them, which the host compiles.
    pub(crate) fn seccomp(mut self, rules: Value) -> Self {
        let rules = serde_json::from_value(rules).unwrap();
        let program = hull_seccomp::compile(&rules).unwrap();
        let mut filter = SeccompFilter::new();
        filter.program = program.instructions;
        filter.flags = program.flags;
        self.seccomp_filter = Some(filter);
        self
    }

    pub(crate) fn spec_json(&self, root: &Path) -> Vec<u8> {
        let namespaces: Vec<_> = self.namespaces.iter().map(|k| json!({"type": k})).collect();
        let mut linux = json!({"namespaces": namespaces});
        for (field, value) in &self.linux {
            linux[field] = value.clone();
        }
        let mut spec = json!({
            "ociVersion": "1.0.2",
            "root": {"path": root},
            "hostname": "box",
            "process": self.process_json(),
            "mounts": self.mounts,
            "linux": linux,
        });
        for (field, value) in &self.spec {
            spec[field] = value.clone();
        }
        serde_json::to_vec(&spec).unwrap()
    }
}

const ALL_CAPABILITIES: &str = "CAP_CHOWN CAP_DAC_OVERRIDE CAP_FSETID CAP_FOWNER CAP_MKNOD \
    CAP_NET_RAW CAP_SETGID CAP_SETUID CAP_SETFCAP CAP_SETPCAP CAP_NET_BIND_SERVICE CAP_SYS_CHROOT \
    CAP_KILL CAP_AUDIT_WRITE";

/// How a process ended, and what it wrote.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) status: u32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) wait: WaitProcessResponse,
}

/// The host's ends of a process's streams.
pub(crate) struct Ends {
    pub(crate) stdin: UnixStream,
    pub(crate) stdout: UnixStream,
    pub(crate) stderr: Option<UnixStream>,
}

impl Ends {
    /// Feeds standard input, ends it, and reads the outputs to their ends.
    pub(crate) async fn exchange(self, input: &[u8]) -> (String, String) {
        let Self {
            mut stdin,
            mut stdout,
            stderr,
        } = self;
        let feed = async {
            // A process that reads nothing closes its end.
            let _fed = stdin.write_all(input).await;
            let _ended = stdin.shutdown().await;
        };
        let mut out = Vec::new();
        let mut err = Vec::new();
        let read_err = async {
            if let Some(mut stderr) = stderr {
                stderr.read_to_end(&mut err).await.unwrap();
            }
        };
        let (_, read, _) = tokio::join!(feed, stdout.read_to_end(&mut out), read_err);
        read.unwrap();
        (
            String::from_utf8_lossy(&out).into_owned(),
            String::from_utf8_lossy(&err).into_owned(),
        )
    }
}

pub(crate) fn context() -> Context {
    ttrpc::context::with_timeout(120_000_000_000)
}

/// A name that no other test uses.
pub(crate) fn unique(prefix: &str) -> String {
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{prefix}-{}-{number}", std::process::id())
}

impl Guest {
    /// Starts an agent and prepares its guest. `None` where this user may not.
    pub(crate) async fn start() -> Option<Self> {
        Self::configured(ConfigureSandboxRequest::new()).await
    }

    pub(crate) async fn configured(mut request: ConfigureSandboxRequest) -> Option<Self> {
        if let Some(directory) = std::env::var_os("HULL_AGENT_TEST_GUEST") {
            return Some(Self::elsewhere(directory.into(), request).await);
        }
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: containers can only be made by root");
            return None;
        }
        let temporary = tempfile::tempdir().unwrap();
        let directory = temporary.path().to_owned();
        let ready = UnixListener::bind(directory.join("ready")).unwrap();
        let process = Command::new("unshare")
            .args(["--mount", "--pid", "--fork", "--kill-child", "--uts"])
            .args(["--ipc", "--net", "--mount-proc", "/bin/sh", "-c", START])
            .arg(env!("CARGO_BIN_EXE_hull-agent"))
            .arg(&directory)
            .stdin(Redirect::null())
            .spawn()
            .unwrap();
        let (mut hello, _) = ready.accept().await.unwrap();
        let mut line = Vec::new();
        hello.read_to_end(&mut line).await.unwrap();
        Hello::parse(&line).unwrap();
        let root = directory.join("root");
        make_root(&root);
        let client = connect(&directory).await;
        request.sandbox_id = "pod".to_owned();
        client.configure_sandbox(context(), &request).await.unwrap();
        Some(Self {
            directory,
            root,
            client,
            process: Some(process),
            _temporary: Some(temporary),
        })
    }

    async fn elsewhere(directory: PathBuf, mut request: ConfigureSandboxRequest) -> Self {
        let root = fs::read_to_string(directory.join("ROOT")).unwrap();
        let root = PathBuf::from(root.trim());
        let client = connect(&directory).await;
        let mut share = Storage::new();
        share.driver = storage::Driver::VIRTIO_FS.into();
        share.source = "hull".to_owned();
        share.target = "/run/hull/shared".to_owned();
        request.sandbox_id = "pod".to_owned();
        request.storages.push(share);
        if client.configure_sandbox(context(), &request).await.is_ok() {
            make_root(&directory.join("share/root"));
        }
        Self {
            client,
            directory,
            root,
            process: None,
            _temporary: None,
        }
    }

    /// A new stream, and its token.
    pub(crate) async fn stream(&self) -> (String, UnixStream) {
        let token = format!("{:x}", rand());
        let mut stream = UnixStream::connect(self.directory.join("stdio"))
            .await
            .unwrap();
        let line = stdio::handshake(&token).unwrap();
        stream.write_all(line.as_bytes()).await.unwrap();
        let mut answer = [0; 3];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, stdio::ACCEPTED);
        (token, stream)
    }

    /// Streams for a process.
    pub(crate) async fn streams(&self, terminal: bool) -> (Stdio, Ends) {
        let mut names = Stdio::new();
        names.terminal = terminal;
        let (token, stdin) = self.stream().await;
        names.stdin = token;
        let (token, stdout) = self.stream().await;
        names.stdout = token;
        let mut stderr = None;
        if !terminal {
            let (token, stream) = self.stream().await;
            names.stderr = token;
            stderr = Some(stream);
        }
        (
            names,
            Ends {
                stdin,
                stdout,
                stderr,
            },
        )
    }

    pub(crate) async fn create(&self, id: &str, setup: &Setup) -> ttrpc::Result<Ends> {
        let (names, ends) = self.streams(setup.terminal).await;
        self.create_with(id, setup, names).await?;
        Ok(ends)
    }

    pub(crate) fn create_request(
        &self,
        id: &str,
        setup: &Setup,
        streams: Stdio,
    ) -> CreateContainerRequest {
        let mut request = CreateContainerRequest::new();
        request.container_id = id.to_owned();
        request.spec = setup.spec_json(&self.root);
        request.seccomp_filter = setup.seccomp_filter.clone().into();
        request.stdio = Some(streams).into();
        request
    }

    pub(crate) async fn create_with(
        &self,
        id: &str,
        setup: &Setup,
        streams: Stdio,
    ) -> ttrpc::Result<ProcessCreated> {
        let request = self.create_request(id, setup, streams);
        self.client.create_container(context(), &request).await
    }

    /// In the pod's PID namespace.
    pub(crate) async fn create_sharing(
        &self,
        id: &str,
        setup: &Setup,
        streams: Stdio,
    ) -> ttrpc::Result<ProcessCreated> {
        let mut request = self.create_request(id, setup, streams);
        request.shared_pid_namespace = true;
        self.client.create_container(context(), &request).await
    }

    /// Makes a container that joins the PID namespace of another.
    pub(crate) async fn create_beside(
        &self,
        id: &str,
        other: &str,
        setup: &Setup,
        streams: Stdio,
    ) -> ttrpc::Result<ProcessCreated> {
        let mut request = self.create_request(id, setup, streams);
        request.pid_namespace_of = other.to_owned();
        self.client.create_container(context(), &request).await
    }

    /// Whether the guest runs outside this test's reach, and was configured by another.
    pub(crate) fn is_elsewhere(&self) -> bool {
        self.process.is_none()
    }

    /// Waits for the agent's end.
    pub(crate) fn end(&mut self) -> ExitStatus {
        self.process.take().unwrap().wait().unwrap()
    }

    /// Whether the guest's cgroup hierarchy has the controllers for limits.
    pub(crate) async fn has_controllers(&self) -> bool {
        let setup = Setup::new(&["cat", "/sys/fs/cgroup/cgroup.controllers"])
            .mount(json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup"}));
        let outcome = self.run(&setup).await;
        let has = outcome.stdout.contains("memory") && outcome.stdout.contains("pids");
        if !has {
            eprintln!("skipped: this machine's cgroup v2 hierarchy has no controllers");
        }
        has
    }

    pub(crate) async fn start_container(&self, id: &str) -> ttrpc::Result<Empty> {
        self.client.start_container(context(), &container(id)).await
    }

    /// Creates and starts.
    pub(crate) async fn launch(&self, id: &str, setup: &Setup) -> ttrpc::Result<Ends> {
        let ends = self.create(id, setup).await?;
        self.start_container(id).await?;
        Ok(ends)
    }

    pub(crate) async fn wait(&self, id: &str, exec_id: &str) -> WaitProcessResponse {
        let request = process(id, exec_id);
        self.client.wait_process(context(), &request).await.unwrap()
    }

    pub(crate) async fn signal(
        &self,
        id: &str,
        exec_id: &str,
        signal: i32,
    ) -> ttrpc::Result<Empty> {
        let mut request = SignalProcessRequest::new();
        request.container_id = id.to_owned();
        request.exec_id = exec_id.to_owned();
        request.signal = u32::try_from(signal).unwrap();
        self.client.signal_process(context(), &request).await
    }

    pub(crate) async fn kill_all(&self, id: &str) {
        let mut request = SignalProcessRequest::new();
        request.container_id = id.to_owned();
        request.signal = 9;
        request.all = true;
        self.client
            .signal_process(context(), &request)
            .await
            .unwrap();
    }

    pub(crate) async fn remove(&self, id: &str) -> ttrpc::Result<Empty> {
        self.client
            .remove_container(context(), &container(id))
            .await
    }

    /// A container from beginning to end.
    pub(crate) async fn run(&self, setup: &Setup) -> Outcome {
        self.try_run(setup).await.unwrap()
    }

    pub(crate) async fn try_run(&self, setup: &Setup) -> ttrpc::Result<Outcome> {
        let id = unique("run");
        let ends = self.create(&id, setup).await?;
        if let Err(error) = self.start_container(&id).await {
            self.wait(&id, "").await;
            self.remove(&id).await?;
            return Err(error);
        }
        let (stdout, stderr) = ends.exchange(&setup.stdin).await;
        let wait = self.wait(&id, "").await;
        self.remove(&id).await?;
        Ok(Outcome {
            status: wait.exit_status,
            stdout,
            stderr,
            wait,
        })
    }

    /// Starts a further process.
    pub(crate) async fn exec(&self, id: &str, exec_id: &str, setup: &Setup) -> ttrpc::Result<Ends> {
        let (names, ends) = self.streams(setup.terminal).await;
        let mut request = ExecProcessRequest::new();
        request.container_id = id.to_owned();
        request.exec_id = exec_id.to_owned();
        request.process = serde_json::to_vec(&setup.process_json()).unwrap();
        request.stdio = Some(names).into();
        self.client.exec_process(context(), &request).await?;
        Ok(ends)
    }

    /// A further process from beginning to end.
    pub(crate) async fn run_exec(&self, id: &str, setup: &Setup) -> ttrpc::Result<Outcome> {
        let exec_id = unique("exec");
        let ends = self.exec(id, &exec_id, setup).await?;
        let (stdout, stderr) = ends.exchange(&setup.stdin).await;
        let wait = self.wait(id, &exec_id).await;
        let request = process(id, &exec_id);
        self.client.remove_process(context(), &request).await?;
        Ok(Outcome {
            status: wait.exit_status,
            stdout,
            stderr,
            wait,
        })
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            // Dead already is as good.
            let _killed = process.kill();
            let _waited = process.wait();
        }
    }
}

async fn connect(directory: &Path) -> AgentClient {
    let address = format!("unix://{}", directory.join("rpc").display());
    AgentClient::new(ttrpc::r#async::Client::connect(&address).await.unwrap())
}

pub(crate) fn container(id: &str) -> ContainerRequest {
    let mut request = ContainerRequest::new();
    request.container_id = id.to_owned();
    request
}

pub(crate) fn process(id: &str, exec_id: &str) -> ProcessRequest {
    let mut request = ProcessRequest::new();
    request.container_id = id.to_owned();
    request.exec_id = exec_id.to_owned();
    request
}

/// Unlikely to come twice.
fn rand() -> u128 {
    let bytes = fs::read("/proc/sys/kernel/random/uuid").unwrap();
    let hex: String = String::from_utf8(bytes)
        .unwrap()
        .chars()
        .filter(char::is_ascii_hexdigit)
        .collect();
    u128::from_str_radix(&hex, 16).unwrap()
}

/// A root file system with busybox and little else.
fn make_root(root: &Path) {
    for directory in [
        "bin",
        "sbin",
        "etc",
        "root",
        "tmp",
        "home/user",
        "data",
        "proc",
        "sys",
        "dev",
    ] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    let busybox = ["/bin/busybox", "/usr/bin/busybox"]
        .into_iter()
        .find(|path| Path::new(path).exists())
        .expect("busybox is installed");
    fs::copy(busybox, root.join("bin/busybox")).unwrap();
    let list = Command::new(busybox).arg("--list").output().unwrap();
    for name in String::from_utf8(list.stdout).unwrap().lines() {
        // busybox itself is the file.
        let _linked = std::os::unix::fs::symlink("busybox", root.join("bin").join(name));
    }
    fs::write(
        root.join("etc/passwd"),
        "root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n",
    )
    .unwrap();
    fs::write(root.join("data/text"), "not a program\n").unwrap();
    let script = root.join("bin/broken");
    fs::write(&script, "#!/no/such/interpreter\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let foreign = root.join("bin/foreign");
    fs::write(&foreign, [0x7f, b'E', b'L', b'F', 9, 9, 9, 9]).unwrap();
    fs::set_permissions(&foreign, fs::Permissions::from_mode(0o755)).unwrap();
}
