//! A Docker of the test's own, with Hull's command line as its runtime: a daemon, and a containerd of its own.

use std::fs::{self, File};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::engine::{BUSYBOX, Engine, RUNTIME, is_installed, limited, place, runtime, search_path};
use crate::{Outcome, busybox, program};

/// Where Debian has it, and what it runs.
const PROGRAM: &str = "/usr/bin/docker";
const DAEMON: &str = "/usr/sbin/dockerd";
const NEEDED: [&str; 4] = [PROGRAM, DAEMON, "/usr/bin/containerd", "/usr/sbin/iptables"];

/// Compose of version 2, which is a program by itself as well.
const COMPOSE: &str = "/usr/libexec/docker/cli-plugins/docker-compose";

const SOCKET: &str = "unix:///run/docker.sock";

/// Longest time that the daemon may take to answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// Takes the current thread into a place of its own, starts Docker there and gives it the image, if it is
/// installed.
///
/// # Panics
/// When it does not start: it needs root, and the packages that `.ci/deps` lists.
#[must_use]
pub fn docker() -> Option<Engine> {
    if !is_installed("Docker", &NEEDED) {
        return None;
    }
    let mut docker = Engine::enter(PROGRAM);
    let dir = docker.dir().to_owned();
    let configuration = json!({
        "runtimes": {RUNTIME: {"path": runtime()}},
        "default-runtime": RUNTIME,
        "exec-opts": ["native.cgroupdriver=cgroupfs"],
        "cgroup-parent": docker.cgroup(),
        "data-root": dir.join("data"),
        // Nobody else sees this thread's /run.
        "hosts": [SOCKET],
        "storage-driver": "overlay2",
        "live-restore": true,
        "log-level": "warn",
    });
    let file = dir.join("daemon.json");
    fs::write(&file, configuration.to_string()).expect("written");
    let environment = [("DOCKER_CONFIG", dir.display().to_string())];
    docker.always(&["--host", SOCKET], &environment);
    start_daemon(&mut docker);
    docker.add_image(&busybox(), BUSYBOX);
    Some(docker)
}

/// Commands of Compose's with the file that says `services`, if it is installed. One that hangs is ended.
///
/// # Panics
/// When the file cannot be written.
#[must_use]
pub fn compose(docker: &Engine, services: &str) -> Option<impl Fn(&[&str]) -> Outcome> {
    if !is_installed("Compose", &[COMPOSE]) {
        return None;
    }
    let file = docker.dir().join("compose.yaml");
    fs::write(&file, services).expect("written");
    Some(move |arguments: &[&str]| {
        let output = limited(&place(COMPOSE))
            .args(["--project-name", "set", "--file"])
            .arg(&file)
            .args(arguments)
            .env("DOCKER_HOST", SOCKET)
            .env("DOCKER_CONFIG", file.parent().expect("a directory"))
            .output();
        Outcome(output.expect("Compose's program starts"))
    })
}

/// Kills Docker's daemon and containerd, which containers outlive, and starts them again.
///
/// # Panics
/// When that does not work.
pub fn kill_and_start_again(docker: &mut Engine) {
    let mut daemon = docker.daemon.take().expect("it runs");
    let containerd = crate::traces::pids_of("containerd", "/run/docker/containerd");
    let children = containerd.into_iter().filter(|pid| {
        crate::traces::parent_of(*pid).is_some_and(|parent| parent.cast_unsigned() == daemon.id())
    });
    let containerd: Vec<_> = children.collect();
    daemon.kill().expect("killed");
    daemon.wait().expect("ended");
    for pid in containerd {
        let pid = nix::unistd::Pid::from_raw(pid);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("killed");
        nix::sys::wait::waitpid(pid, None).expect("ended");
    }
    start_daemon(docker);
}

fn start_daemon(docker: &mut Engine) {
    let log = File::options()
        .create(true)
        .append(true)
        .open(docker.dir().join("log"))
        .expect("a log");
    docker.daemon = Some(spawn(docker, log));
    let started = Instant::now();
    while docker.call(["version"]).0.status.code() != Some(0) {
        assert!(started.elapsed() < PATIENCE, "Docker does not answer");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn spawn(docker: &Engine, log: File) -> Child {
    // The shim is one of Hull's ways as well.
    let shim = program("containerd-shim-hull-v2");
    let (variable, settings) = docker.settings();
    let path = search_path(shim.parent());
    Command::new(place(DAEMON))
        .arg("--config-file")
        .arg(docker.dir().join("daemon.json"))
        .env("PATH", path)
        .env(variable, settings)
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a descriptor"))
        .stderr(log)
        .spawn()
        .expect("the daemon starts")
}
