//! What becomes of a container of Podman when one of the processes behind it is killed: Podman sees its end, or goes on,
//! and its own clean-up leaves nothing.

use harness::engine::{Engine, is_hull};
use harness::machine::vmm;
use harness::podman::podman;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

/// Podman with a container `box` that runs.
fn started() -> Option<Engine> {
    let podman = podman()?;
    if !is_hull() {
        eprintln!("skipped: these are processes of Hull");
        return None;
    }
    podman.start("box", &[], "echo started; sleep 1000");
    podman.wait_for_output("box", "started");
    Some(podman)
}

/// Kills the one process whose command line has `part` in it.
fn kill_process(podman: &Engine, part: &str) -> Pid {
    let killed = podman.kill_processes(part);
    let [killed] = killed[..] else {
        panic!("{part}: {killed:?}, and {:#?}", podman.processes());
    };
    killed
}

fn pid(text: &str) -> Pid {
    Pid::from_raw(text.parse().expect("a process id"))
}

#[test]
fn a_container_ends_with_its_monitor() {
    let Some(podman) = started() else {
        return;
    };
    let monitor = pid(&podman.inspect("box", "{{.State.Pid}}"));
    kill(monitor, Signal::SIGKILL).expect("it runs");
    assert_eq!(podman.wait("box"), 137);
    // Podman has forgotten it with its runtime, which has ended its machine.
    podman.assert_nothing_left();
}

#[test]
fn a_container_ends_with_its_machine() {
    let Some(podman) = started() else {
        return;
    };
    kill_process(&podman, vmm());
    assert_eq!(podman.wait("box"), 137);
    podman.assert_nothing_left();
}

#[test]
fn a_container_outlives_its_pod_process() {
    let Some(podman) = started() else {
        return;
    };
    kill_process(&podman, "containerd-shim-hull-v2");
    assert_eq!(podman.exec("box", "echo alive").ok(), "alive\n");
    assert_eq!(podman.inspect("box", "{{.State.Status}}"), "running");
    podman.assert_nothing_left();
}

#[test]
fn a_container_without_conmon_is_removed() {
    let Some(podman) = started() else {
        return;
    };
    let monitor = pid(&podman.inspect("box", "{{.State.Pid}}"));
    let conmon = kill_process(&podman, "conmon");
    // What it leaves is this process's, as it would be init's.
    waitpid(conmon, None).expect("conmon has ended");
    let reaper = std::thread::spawn(move || waitpid(monitor, None));
    // Podman 5 says at first that conmon is gone.
    drop(podman.remove_all());
    podman.assert_nothing_left();
    reaper
        .join()
        .expect("no panic")
        .expect("the monitor has ended");
}
