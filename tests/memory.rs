//! Containers that need more memory than there is.

use harness::{Hull, busybox};

/// Takes memory without end.
const GREEDY: [&str; 2] = ["tail", "/dev/zero"];
const OUT_OF_MEMORY: &str = "out of memory";

#[test]
fn a_container_over_its_limit_is_killed_and_hull_says_why() {
    let hull = Hull::new();
    let outcome = hull.run(&["--memory", "64m"], &GREEDY);
    assert!(outcome.one_error(137).contains(OUT_OF_MEMORY));
}

#[test]
fn a_guest_out_of_memory_kills_the_container_not_the_agent() {
    let hull = Hull::new();
    let outcome = hull.run(&[], &GREEDY);
    assert!(outcome.one_error(137).contains(OUT_OF_MEMORY));
}

#[test]
fn a_command_that_outlives_the_killing_of_a_child_has_its_own_exit_code() {
    let hull = Hull::new();
    let script = "tail /dev/zero; echo $?";
    // The shell itself says nothing, or one word.
    let outcome = hull.run(&["--memory", "64m"], &["sh", "-c", script]);
    assert_eq!(outcome.ok(), "137\n");
    assert!(!outcome.stderr().contains(OUT_OF_MEMORY));
}

#[test]
fn inspect_tells_that_a_container_ran_out_of_memory() {
    let hull = Hull::new();
    let image = busybox();
    let options = ["run", "--name", "c", "--network", "none", "--memory", "64m"];
    let mut arguments = options.to_vec();
    arguments.push(&image);
    arguments.extend(GREEDY);
    assert_eq!(hull.hull(arguments).code(), 137);
    let inspected = hull.hull(["inspect", "c"]).ok();
    let inspected: serde_json::Value = serde_json::from_str(&inspected).expect("JSON");
    assert_eq!(inspected[0]["oom_killed"], true, "{inspected}");
    assert_eq!(inspected[0]["exit_code"], 137, "{inspected}");
    let _ = hull.hull(["rm", "c"]).ok();
}
