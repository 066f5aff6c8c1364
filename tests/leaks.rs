//! Nothing is left behind. These tests look at the whole machine, so they run alone.

use std::thread;

use harness::traces::Traces;
use harness::{Hull, number, run_arguments};

/// How many containers run in a row; `HULL_TEST_RUNS` sets another number.
fn runs() -> usize {
    number("HULL_TEST_RUNS", 10)
}

#[test]
fn containers_in_a_row_leave_nothing() {
    let hull = Hull::new();
    // The first run unpacks the image, which stays.
    assert_eq!(hull.run(&[], &["true"]).code(), 0);
    let before = Traces::now(hull.root());
    for run in 0..runs() {
        assert_eq!(
            hull.run(&[], &["sh", "-c", "exit 3"]).code(),
            3,
            "run {run}"
        );
    }
    before.assert_nothing_left(&Traces::now(hull.root()));
}

#[test]
fn containers_at_once_leave_nothing() {
    let hull = Hull::new();
    assert_eq!(hull.run(&[], &["true"]).code(), 0);
    let before = Traces::now(hull.root());
    let children: Vec<_> = (0..8)
        .map(|n| hull.spawn(run_arguments(&[], &["sh", "-c", &format!("echo {n}")])))
        .collect();
    let waits = children
        .into_iter()
        .map(|child| thread::spawn(|| child.wait_with_output()));
    for (n, wait) in waits.collect::<Vec<_>>().into_iter().enumerate() {
        let output = wait.join().expect("a thread").expect("hull ends");
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            format!("{n}\n"),
            "{output:?}"
        );
    }
    before.assert_nothing_left(&Traces::now(hull.root()));
}
