//! `hull run` interrupted at any point of a container's life, from before the image is read until
//! after the end: whatever it was doing, nothing is left behind.
//!
//! The points are spread over the time that one run takes; what is asserted holds at each of them.

use std::time::{Duration, Instant};

use harness::traces::{Traces, wait_for_all};
use harness::{Hull, run_arguments};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const POINTS: u32 = 12;

fn interrupt_everywhere(signal: Signal, codes: &[i32]) {
    let hull = Hull::new();
    // The first run unpacks the image, which stays; the second shows how long one takes.
    assert_eq!(hull.run(&[], &["true"]).code(), 0);
    let start = Instant::now();
    assert_eq!(hull.run(&[], &["true"]).code(), 0);
    let length = start.elapsed();
    let before = Traces::now(hull.root());
    for point in 0..POINTS {
        let child = hull.spawn(run_arguments(&[], &["echo", "done"]));
        std::thread::sleep(length * point / POINTS + Duration::from_millis(5));
        let pid = Pid::from_raw(i32::try_from(child.id()).expect("a process id"));
        kill(pid, signal).expect("signalled");
        let output = child.wait_with_output().expect("hull ends");
        let stderr = String::from_utf8_lossy(&output.stderr);
        if let Some(code) = output.status.code() {
            let output = String::from_utf8_lossy(&output.stdout);
            assert!(codes.contains(&code), "point {point}: {code}, {stderr}");
            assert_eq!(
                code == 0,
                output == "done\n",
                "point {point}: {output}{stderr}"
            );
        }
        wait_for_all(hull.root());
        assert_eq!(hull.hull(["ps", "-a", "-q"]).ok(), "", "point {point}");
        before.assert_nothing_left(&Traces::now(hull.root()));
    }
}

#[test]
fn control_c_leaves_nothing() {
    interrupt_everywhere(Signal::SIGINT, &[0, 125, 130]);
}

#[test]
fn a_request_to_end_leaves_nothing() {
    interrupt_everywhere(Signal::SIGTERM, &[0, 125, 143]);
}

#[test]
fn a_killed_hull_leaves_nothing() {
    interrupt_everywhere(Signal::SIGKILL, &[0]);
}
