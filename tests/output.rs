//! Output that nobody reads.

use std::io::Read;
use std::process::Child;

use harness::traces::{pids_of, wait_for_end};
use harness::{Hull, Outcome, run_arguments};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

#[test]
fn a_container_whose_output_nobody_reads_can_be_killed() {
    let hull = Hull::new();
    let mut child = hull.spawn(run_arguments(&["--name", "c"], &["yes"]));
    // It runs; from now on nobody reads.
    let mut first = [0; 2];
    let stdout = child.stdout.as_mut().expect("a pipe");
    stdout.read_exact(&mut first).expect("output");
    assert_eq!(&first, b"y\n");
    let _ = hull.hull(["kill", "c"]).ok();
    assert_eq!(hull.hull(["ps", "-a", "-q"]).ok(), "");
    // Its reader may still have what is left.
    let outcome = Outcome(child.wait_with_output().expect("hull ends"));
    assert_eq!(outcome.code(), 137, "{}", outcome.stderr());
}

/// Sends SIGTERM to a `hull` whose pod is gone and whose output nobody reads, and returns its exit code.
fn terminated(mut child: Child) -> Option<i32> {
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a process id"));
    kill(pid, Signal::SIGTERM).expect("signalled");
    // The pipe stays open.
    let output = child.stdout.take();
    let code = child.wait().expect("hull ends").code();
    drop(output);
    code
}

#[test]
fn a_signal_ends_the_wait_for_a_reader_when_the_pod_is_gone() {
    let hull = Hull::new();
    let mut child = hull.spawn(run_arguments(&["--name", "c"], &["yes"]));
    harness::expect_line(&mut child, "y");
    let _ = hull.hull(["kill", "c"]).ok();
    assert_eq!(terminated(child), Some(137));
}

#[test]
fn success_is_not_reported_when_output_was_given_up() {
    let hull = Hull::new();
    // More than the pipe takes, and less than the pod process has room for.
    let script = "echo ready; head -c 300000 /dev/zero";
    let mut child = hull.spawn(run_arguments(&[], &["sh", "-c", script]));
    harness::expect_line(&mut child, "ready");
    for pod in pids_of(
        "containerd-shim-hull-v2",
        &hull.root().display().to_string(),
    ) {
        wait_for_end(pod);
    }
    assert_eq!(terminated(child), Some(128 + 15));
}
