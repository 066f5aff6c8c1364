//! Things that die: each is reported with its cause, and nothing is left behind.

use std::fs;
use std::process::Child;
use std::time::Duration;

use harness::machine::{programs, vmm, vmm_title};
use harness::traces::{pids_of, pods_only, processes_with, wait_for_end};
use harness::{Hull, Outcome, run_arguments};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A foreground container that has printed `ready` and goes on with `script`.
fn ready(hull: &Hull, options: &[&str], script: &str) -> Child {
    started(hull, options, &format!("echo ready; {script}"))
}

/// A foreground container whose `script` has printed `ready`.
fn started(hull: &Hull, options: &[&str], script: &str) -> Child {
    let mut child = hull.spawn(run_arguments(options, &["sh", "-c", script]));
    harness::expect_line(&mut child, "ready");
    child
}

fn root_of(hull: &Hull) -> String {
    hull.root().display().to_string()
}

fn assert_nothing_runs(hull: &Hull) {
    let left = processes_with(&root_of(hull));
    assert!(left.is_empty(), "{left:#?}");
    assert_eq!(hull.hull(["ps", "-a", "-q"]).ok(), "");
}

fn outcome(child: Child) -> Outcome {
    Outcome(child.wait_with_output().expect("hull ends"))
}

#[test]
fn a_killed_vmm_is_named() {
    let hull = Hull::new();
    let child = ready(&hull, &[], "sleep 1000");
    let vmm = pods_only(vmm(), hull.root());
    kill(Pid::from_raw(vmm), Signal::SIGKILL).expect("killed");
    let outcome = outcome(child);
    assert_eq!(outcome.code(), 125);
    let cause = format!("{} was killed by signal 9", vmm_title());
    assert!(outcome.stderr().contains(&cause), "{}", outcome.stderr());
    assert_nothing_runs(&hull);
}

#[test]
fn a_killed_file_server_is_named() {
    let hull = Hull::new();
    let child = ready(&hull, &[], "sleep 1000");
    let server = pods_only("hull-fs", hull.root());
    kill(Pid::from_raw(server), Signal::SIGKILL).expect("killed");
    let outcome = outcome(child);
    assert_eq!(outcome.code(), 125);
    assert!(
        outcome.stderr().contains("hull-fs was killed by signal 9"),
        "{}",
        outcome.stderr()
    );
    assert_nothing_runs(&hull);
}

#[test]
fn a_guest_that_panics_shows_its_last_words() {
    let hull = Hull::new();
    // The guest is told to panic when a container runs out of memory, and then one does.
    let script = "echo 2 > /proc/sys/vm/panic_on_oom && tail /dev/zero";
    let child = ready(&hull, &["--privileged", "--memory", "128m"], script);
    let outcome = outcome(child);
    assert_eq!(outcome.code(), 125, "{}", outcome.stderr());
    assert!(
        outcome.stderr().contains("Kernel panic"),
        "{}",
        outcome.stderr()
    );
    assert_nothing_runs(&hull);
}

#[test]
fn a_guest_waits_for_a_host_that_answers_late() {
    if !programs().contains(&"hull-vsock") {
        eprintln!("skipped: this VMM serves its guest's sockets itself");
        return;
    }
    let hull = Hull::new();
    let child = hull.spawn(run_arguments(&[], &["echo", "here"]));
    let server = loop {
        if let [server] = pids_of("hull-vsock", &root_of(&hull))[..] {
            break server;
        }
    };
    // The guest's kernel has found the device. Whoever stopped its server before would stop the guest, too.
    let is_in_use = || {
        let files = fs::read_dir(format!("/proc/{server}/fd")).expect("it runs");
        let mut files = files.filter_map(|file| fs::read_link(file.ok()?.path()).ok());
        files.any(|file| file.to_string_lossy().contains("guest-memory"))
    };
    while !is_in_use() {}
    std::thread::sleep(Duration::from_millis(50));
    let server = Pid::from_raw(server);
    kill(server, Signal::SIGSTOP).expect("stopped");
    // Longer than it takes to boot and than Linux waits for a peer by itself.
    std::thread::sleep(Duration::from_secs(8));
    kill(server, Signal::SIGCONT).expect("continued");
    assert_eq!(outcome(child).ok(), "here\n");
    assert_nothing_runs(&hull);
}

#[test]
fn a_killed_hull_takes_its_pod_along() {
    let hull = Hull::new();
    let mut child = ready(&hull, &[], "sleep 1000");
    let pods = pids_of("containerd-shim-hull-v2", &root_of(&hull));
    child.kill().expect("killed");
    child.wait().expect("ended");
    // The pod process ends last; its end is awaited, not guessed.
    for pid in pods {
        wait_for_end(pid);
    }
    assert_nothing_runs(&hull);
}

#[test]
fn a_killed_pod_process_is_started_again_over_its_running_guest() {
    let hull = Hull::new();
    let script = "echo before; while [ ! -e /go ]; do sleep 0.1; done; echo after; exit 6";
    let _ = hull.run_in_background(&["sh", "-c", script]).ok();
    let pods = pids_of("containerd-shim-hull-v2", &root_of(&hull));
    assert_eq!(pods.len(), 1, "{pods:?}");
    kill(Pid::from_raw(pods[0]), Signal::SIGKILL).expect("killed");
    wait_for_end(pods[0]);

    // The next command takes the pod over: the guest has not noticed.
    assert_eq!(hull.hull(["exec", "c", "echo", "in"]).ok(), "in\n");
    // Its code is anybody's guess: the container may end, and all in it, before it does.
    let _ = hull.hull(["exec", "c", "touch", "/go"]);
    for pod in pids_of("containerd-shim-hull-v2", &root_of(&hull)) {
        wait_for_end(pod);
    }
    assert_eq!(hull.hull(["logs", "c"]).ok(), "before\nafter\n");
    assert!(hull.hull(["inspect", "c"]).ok().contains('6'));
    let _ = hull.hull(["rm", "c"]).ok();
    assert_nothing_runs(&hull);
}

#[test]
fn an_interrupt_reaches_the_command() {
    let hull = Hull::new();
    // BusyBox's shell ends by an interrupt that comes before the trap.
    let child = started(
        &hull,
        &[],
        "trap 'echo interrupted; exit 4' INT; echo ready; while :; do sleep 0.1; done",
    );
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a process id"));
    kill(pid, Signal::SIGINT).expect("signalled");
    let outcome = outcome(child);
    assert_eq!(outcome.code(), 4, "{}", outcome.stderr());
    assert_eq!(outcome.stdout(), "interrupted\n");
    assert_nothing_runs(&hull);
}
