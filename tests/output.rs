//! Output that nobody reads.

use std::io::Read;

use harness::{Hull, Outcome, run_arguments};

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
