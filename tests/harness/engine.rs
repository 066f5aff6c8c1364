//! What Podman and Docker have in common for a test: a command line, an image, a runtime, and a place of their own.
//!
//! Each test has a process of its own, as nextest gives it: that process adopts what the engine leaves to itself,
//! and ends it.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::network::Network;
use crate::orphans::descendants;
use crate::terminal::Terminal;
use crate::traces::control_groups;
use crate::user::User;
use crate::{Outcome, program};

/// The image that most tests run.
pub const BUSYBOX: &str = "localhost/busybox:1";
/// What the engines know the runtime by.
pub const RUNTIME: &str = "hull";

/// Longest time that a command or something that is waited for may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// The runtime that the engines run. `HULL_TEST_RUNTIME` names another one.
///
/// # Panics
/// When it was not built.
#[must_use]
pub fn runtime() -> PathBuf {
    std::env::var_os("HULL_TEST_RUNTIME").map_or_else(|| program("hull-runtime"), PathBuf::from)
}

/// Whether that is Hull, and not what the tests themselves are checked with.
#[must_use]
pub fn is_hull() -> bool {
    runtime().file_name() == Some(OsStr::new("hull-runtime"))
}

/// Where [`Engine::enter`] shows the other engines, to all users. `tests/newest/engines` makes programs for there. Podman
/// hides what is in `/run` from some of its own.
const ENGINES: &str = "/srv";

/// The root of unpacked packages of other engines.
fn engines() -> Option<PathBuf> {
    std::env::var_os("HULL_ENGINES").map(PathBuf::from)
}

/// What Debian has at `path`, among the other engines.
fn among_engines(path: &str) -> Option<PathBuf> {
    let other = engines()?.join(path.trim_start_matches('/'));
    other.exists().then_some(other)
}

/// Where one of an engine's programs is that Debian has at `path`: among the other engines, or on this machine.
pub(crate) fn place(path: &str) -> PathBuf {
    match among_engines(path) {
        Some(_) => Path::new(ENGINES).join(path.trim_start_matches('/')),
        None => path.into(),
    }
}

/// Where an engine looks for programs: `first`, where the other engines are, and in `PATH`.
pub(crate) fn search_path(first: Option<&Path>) -> OsString {
    let own = std::env::var_os("PATH").unwrap_or_default();
    let others = ["/usr/sbin", "/usr/bin"].map(place);
    let dirs = first.map(Path::to_owned).into_iter().chain(others);
    std::env::join_paths(dirs.chain(std::env::split_paths(&own))).expect("no colon in their names")
}

/// A program that is ended when it hangs, so that its test fails and cleans up.
pub(crate) fn limited(program: &Path) -> Command {
    let mut command = Command::new("timeout");
    command
        .args(["--foreground", "--kill-after=5"])
        .arg(PATIENCE.as_secs().to_string())
        .arg(program)
        .stdin(Stdio::null());
    command
}

/// Whether an engine's programs are all there. What is missing is said.
pub(crate) fn is_installed(engine: &str, programs: &[&str]) -> bool {
    let missing: Vec<_> = programs
        .iter()
        .filter(|program| among_engines(program).is_none() && !Path::new(program).exists())
        .collect();
    if !missing.is_empty() {
        eprintln!("skipped: {engine} is not installed, {missing:?} missing");
    }
    missing.is_empty()
}

/// An engine and all that it has made. Everything ends with it.
#[derive(Debug)]
pub struct Engine {
    program: PathBuf,
    /// What each of its commands is told first, and in which environment.
    options: Vec<String>,
    environment: Vec<(&'static str, String)>,
    pub(crate) daemon: Option<Child>,
    /// Whose commands they are, when not root's.
    pub(crate) user: Option<User>,
    network: Network,
    dir: TempDir,
}

impl Engine {
    /// Takes the current thread into a network and mounts of its own, with nothing in `/run`, and the other engines.
    ///
    /// # Panics
    /// When that cannot be done: it needs root.
    pub(crate) fn enter(program: &str) -> Self {
        crate::orphans::adopt();
        let network = Network::enter();
        let (tmpfs, none) = (Some("tmpfs"), None::<&str>);
        mount(tmpfs, "/run", tmpfs, MsFlags::empty(), none).expect("tmpfs");
        if let Some(engines) = engines() {
            let shown = mount(Some(&engines), ENGINES, none, MsFlags::MS_BIND, none);
            shown.expect("they can be shown");
        }
        let dir = tempfile::Builder::new()
            .prefix("hull-")
            .tempdir()
            .expect("a directory");
        Self {
            program: place(program),
            options: Vec::new(),
            environment: Vec::new(),
            daemon: None,
            user: None,
            network,
            dir,
        }
    }

    /// Writes Hull's settings and returns the file, as the variable for it.
    pub(crate) fn settings(&self) -> (&'static str, String) {
        let file = self.dir().join("hull.toml");
        // For a network that comes later.
        fs::write(&file, "[network]\nspare_interfaces = 1\n").expect("written");
        crate::settings::add_beside(self.dir());
        ("HULL_CONFIG", file.display().to_string())
    }

    /// Adds to what each of its commands is told.
    pub fn always(&mut self, options: &[&str], environment: &[(&'static str, String)]) {
        self.options.extend(options.iter().map(ToString::to_string));
        self.environment.extend_from_slice(environment);
    }

    /// Gives it an image, in skopeo's terms, by a name.
    ///
    /// # Panics
    /// When it is refused.
    pub fn add_image(&self, image: &str, name: &str) {
        let archive = self.dir().join("image.tar");
        let copied = Command::new("skopeo")
            .args(["copy", "--quiet", image])
            .arg(format!("docker-archive:{}:{name}", archive.display()))
            .output();
        let _ = Outcome(copied.expect("skopeo runs")).ok();
        let loaded = ["load", "--quiet", "--input"].map(OsStr::new);
        let _ = self
            .call(loaded.into_iter().chain([archive.as_os_str()]))
            .ok();
        fs::remove_file(archive).expect("removed");
    }

    /// The directory of everything.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Whose engine it is, when not root's.
    #[must_use]
    pub fn user(&self) -> Option<&User> {
        self.user.as_ref()
    }

    /// The network that the engine is in.
    #[must_use]
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Whether it is Docker and not Podman.
    #[must_use]
    pub fn is_docker(&self) -> bool {
        self.program.ends_with("docker")
    }

    /// A command of the engine, without input.
    fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = limited(&self.program);
        if let Some(user) = &self.user {
            user.own(&mut command);
        }
        command
            .args(&self.options)
            .args(arguments)
            .envs(self.environment.iter().cloned());
        command
    }

    /// A command of the engine at a terminal.
    #[must_use]
    pub fn terminal(&self, arguments: &[&str]) -> Terminal {
        Terminal::start(self.command(arguments))
    }

    /// Runs a command of the engine to its end.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn call<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Outcome {
        self.call_with(arguments, &[])
    }

    /// The same with an input.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn call_with<S: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = S>,
        input: &[u8],
    ) -> Outcome {
        let mut command = self.command(arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        if !input.is_empty() {
            command.stdin(Stdio::piped());
        }
        let mut child = command.spawn().expect("the engine's program starts");
        let stdin = child.stdin.take();
        let output = std::thread::scope(|scope| {
            if let Some(mut stdin) = stdin {
                // A command that does not read its input is for its own test to judge.
                scope.spawn(move || stdin.write_all(input));
            }
            child.wait_with_output()
        });
        Outcome(output.expect("an end"))
    }

    /// `run --rm --network none OPTIONS IMAGE sh -c SCRIPT`
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn run(&self, options: &[&str], script: &str) -> Outcome {
        let first = ["run", "--rm", "--network", "none"];
        let last = [BUSYBOX, "sh", "-c", script];
        self.call([&first, options, &last].concat())
    }

    /// `run -d --name NAME --network none OPTIONS IMAGE sh -c SCRIPT`
    ///
    /// # Panics
    /// When it fails.
    pub fn start(&self, name: &str, options: &[&str], script: &str) {
        self.start_in_network(name, &[&["--network", "none"], options].concat(), script);
    }

    /// The same in the engine's network, unless the options name another.
    ///
    /// # Panics
    /// When it fails.
    pub fn start_in_network(&self, name: &str, options: &[&str], script: &str) {
        let first = ["run", "-d", "--name", name];
        let last = [BUSYBOX, "sh", "-c", script];
        let _ = self.call([&first, options, &last].concat()).ok();
    }

    /// `exec NAME sh -c SCRIPT`
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn exec(&self, name: &str, script: &str) -> Outcome {
        self.call(["exec", name, "sh", "-c", script])
    }

    /// `inspect --format FORMAT NAME`
    ///
    /// # Panics
    /// When it fails.
    #[must_use]
    pub fn inspect(&self, name: &str, format: &str) -> String {
        let inspected = self.call(["inspect", "--format", format, name]).ok();
        inspected.trim().to_owned()
    }

    /// Waits until `inspect --format FORMAT NAME` says `value`.
    ///
    /// # Panics
    /// When it does not.
    pub fn wait_until(&self, name: &str, format: &str, value: &str) {
        let started = Instant::now();
        loop {
            let seen = self.inspect(name, format);
            if seen == value {
                return;
            }
            assert!(started.elapsed() < PATIENCE, "{format}: {seen}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until a container has printed `text`.
    ///
    /// # Panics
    /// When it does not.
    pub fn wait_for_output(&self, name: &str, text: &str) {
        let started = Instant::now();
        loop {
            let logs = self.call(["logs", name]);
            let logs = logs.stdout() + &logs.stderr();
            if logs.contains(text) {
                return;
            }
            assert!(started.elapsed() < PATIENCE, "{logs}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The exit code of a container, after its end.
    ///
    /// # Panics
    /// When that cannot be waited for.
    #[must_use]
    pub fn wait(&self, name: &str) -> i32 {
        let code = self.call(["wait", name]).ok();
        code.trim().parse().expect("a number")
    }

    /// Starts a command whose lines of output are to be read one by one.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn follow<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Lines {
        Lines::of(self.command(arguments))
    }

    /// Removes containers, whether they run or not.
    ///
    /// # Panics
    /// When that fails.
    pub fn remove(&self, names: &[&str]) {
        // Podman asks before it kills.
        let options = if self.is_docker() {
            &["rm", "--force"][..]
        } else {
            &["rm", "--force", "--time", "0"]
        };
        let _ = self.call([options, names].concat()).ok();
    }

    /// Removes all containers and checks that nothing of them is left: no process, no control group, no mount.
    ///
    /// # Panics
    /// When something is left, with what it is.
    pub fn assert_nothing_left(&self) {
        let ids = self.call(["ps", "--all", "--quiet", "--no-trunc"]).ok();
        for outcome in self.remove_all() {
            let _ = outcome.ok();
        }
        let started = Instant::now();
        loop {
            let left = self.left(&ids);
            if left.is_empty() {
                return;
            }
            assert!(started.elapsed() < PATIENCE, "{left:#?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Removes all containers, as far as the engine can.
    pub fn remove_all(&self) -> Vec<Outcome> {
        if !self.is_docker() {
            let all = ["rm", "--all", "--force", "--time", "0"];
            return vec![self.call([&["pod"], &all[..]].concat()), self.call(all)];
        }
        let ids = self.call(["ps", "--all", "--quiet"]).stdout();
        match ids.lines().collect::<Vec<_>>() {
            ids if ids.is_empty() => Vec::new(),
            ids => vec![self.call([&["rm", "--force"], &ids[..]].concat())],
        }
    }

    /// Process ids and command lines of all that the engine has started and that runs.
    #[must_use]
    pub fn processes(&self) -> Vec<(u32, String)> {
        descendants()
    }

    /// Kills the processes that have `part` in their command lines.
    ///
    /// # Panics
    /// When one has ended meanwhile.
    pub fn kill_processes(&self, part: &str) -> Vec<Pid> {
        let found = self.processes().into_iter();
        let found = found.filter(|(_, line)| line.contains(part));
        let found: Vec<_> = found
            .map(|(pid, _)| Pid::from_raw(pid.cast_signed()))
            .collect();
        for pid in &found {
            kill(*pid, Signal::SIGKILL).expect("it runs");
        }
        found
    }

    /// What is there of these containers.
    fn left(&self, ids: &str) -> Vec<String> {
        let daemon = self.daemon.as_ref().map(Child::id);
        let own = |line: &String| {
            let is_daemon = daemon.is_some_and(|pid| line.starts_with(&format!("{pid} ")));
            // What keeps an ordinary user's namespaces has a name only.
            let keeps = self.user.is_some() && line.trim_end().ends_with("/usr/bin/podman");
            !(is_daemon || keeps || line.contains("containerd --config"))
        };
        let processes = descendants()
            .into_iter()
            .map(|(pid, line)| format!("{pid} {line}"));
        let mut left: Vec<String> = processes.filter(own).collect();
        let names_one = |path: &str| ids.lines().any(|id| path.contains(id));
        let groups = crate::traces::tree(Path::new("/sys/fs/cgroup"), &|path| path.is_dir());
        left.extend(groups.into_iter().filter(|path| names_one(path)));
        let mounts = crate::namespaces::mounts_below(Path::new("/"));
        let mounts = mounts.into_iter().map(|path| path.display().to_string());
        left.extend(mounts.filter(|path| names_one(path)));
        let own = self.user.as_ref().map(|user| user.path("run/hull"));
        let state = own.unwrap_or_else(|| "/run/hull/run".into());
        // The runtime's own directory stays.
        let is_pods = |path: &Path| path.is_dir() && !path.ends_with("runtime");
        left.extend(crate::traces::tree(&state, &is_pods));
        left
    }

    /// The control group of the containers, of Docker's at least, below every hierarchy's root.
    pub(crate) fn cgroup(&self) -> String {
        let name = self.dir().file_name().expect("a name");
        format!("/{}", name.to_string_lossy())
    }

    /// What a daemon has said.
    fn log(&self) -> String {
        fs::read_to_string(self.dir().join("log")).unwrap_or_default()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if std::thread::panicking() && self.daemon.is_some() {
            eprintln!("the daemon said:\n{}", self.log());
        }
        // What a failed test has left may be beyond that.
        let _ = self.remove_all();
        if let Some(mut daemon) = self.daemon.take() {
            let pid = Pid::from_raw(i32::try_from(daemon.id()).expect("a process id"));
            let _ = kill(pid, Signal::SIGTERM);
            let started = Instant::now();
            while daemon.try_wait().is_ok_and(|end| end.is_none()) && started.elapsed() < PATIENCE {
                std::thread::sleep(Duration::from_millis(20));
            }
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        crate::orphans::end_all();
        crate::namespaces::unmount_all_below(self.dir.path());
        for group in control_groups(&self.cgroup()) {
            // One that a failed test has left full stays.
            let _ = fs::remove_dir(group);
        }
    }
}

/// A command that prints lines, until it is not needed any more.
#[derive(Debug)]
pub struct Lines {
    child: Child,
    lines: Receiver<String>,
}

impl Lines {
    /// Of a command that is started.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn of(mut command: Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("the command starts");
        let stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            let mut lines = stdout.lines().map_while(Result::ok);
            // Once nobody asks any more, nothing is to be read.
            lines.all(|line| sender.send(line).is_ok())
        });
        Self { child, lines }
    }

    /// The next line, or none at the end.
    #[must_use]
    pub fn next_line(&self) -> Option<String> {
        self.lines.recv_timeout(PATIENCE).ok()
    }

    /// Reads until a line has `text` in it.
    ///
    /// # Panics
    /// When none has.
    pub fn expect(&self, text: &str) {
        let mut seen = Vec::new();
        loop {
            let Some(line) = self.next_line() else {
                panic!("{text:?} did not come, but {seen:#?}");
            };
            if line.contains(text) {
                return;
            }
            seen.push(line);
        }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
