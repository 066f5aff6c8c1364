//! Containers that run in the background: `run -d`, `exec`, `logs`, `stop`, `rm` and the like.

use harness::Hull;

/// A container named `c` that prints `ready` and sleeps.
fn sleeper() -> Hull {
    let hull = Hull::new();
    let script = "trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep 0.1; done";
    let id = hull.run_in_background(&["sh", "-c", script]).ok();
    assert_eq!(id.trim().len(), 32, "{id}");
    hull
}

#[test]
fn a_container_in_the_background_is_listed_entered_stopped_and_removed() {
    let hull = sleeper();
    assert!(hull.hull(["ps"]).ok().contains(" c"));
    assert_eq!(hull.hull(["exec", "c", "echo", "inside"]).ok(), "inside\n");
    assert_eq!(hull.hull(["exec", "c", "sh", "-c", "exit 9"]).code(), 9);
    assert_eq!(hull.hull(["exec", "c", "/no/such"]).code(), 127);
    let stats = hull.hull(["stats", "--no-stream", "--json"]).ok();
    assert!(stats.contains("memory"), "{stats}");
    let _ = hull.hull(["stop", "c"]).ok();
    assert_eq!(hull.hull(["logs", "c"]).ok(), "ready\nbye\n");
    assert!(!hull.hull(["ps"]).ok().contains(" c"));
    let inspected = hull.hull(["inspect", "c"]).ok();
    let inspected: serde_json::Value = serde_json::from_str(&inspected).expect("JSON");
    assert!(inspected.to_string().contains("exited"), "{inspected}");
    let _ = hull.hull(["rm", "c"]).ok();
    let _ = hull.hull(["inspect", "c"]).one_error(1);
}

#[test]
fn a_name_in_use_is_refused_and_nothing_changes() {
    let hull = sleeper();
    let again = hull.run_in_background(&["true"]);
    assert!(again.one_error(125).contains("c"));
    assert_eq!(hull.hull(["exec", "c", "echo", "alive"]).ok(), "alive\n");
    let _ = hull.hull(["rm", "-f", "c"]).ok();
}

#[test]
fn a_running_container_is_removed_by_force_only() {
    let hull = sleeper();
    let _ = hull.hull(["rm", "c"]).one_error(1);
    let _ = hull.hull(["rm", "-f", "c"]).ok();
    assert_eq!(hull.hull(["ps", "-a", "-q"]).ok(), "");
}
