//! How programs start, are entered, signalled and ended.

use harness::engine::{BUSYBOX, Engine, is_hull};

pub(crate) fn a_program_ends_with_its_code(engine: &Engine) {
    assert_eq!(engine.run(&[], "exit 7").code(), 7);
    let missing = engine.call(["run", "--rm", "--network", "none", BUSYBOX, "/no/such"]);
    assert_eq!(missing.code(), 127, "{}", missing.stderr());
    let no_program = engine.call(["run", "--rm", "--network", "none", BUSYBOX, "/etc/passwd"]);
    assert_eq!(no_program.code(), 126, "{}", no_program.stderr());
    let refused = engine.run(&["--no-such-option"], "true");
    assert_eq!(refused.code(), 125, "{}", refused.stderr());
    engine.assert_nothing_left();
}

pub(crate) fn a_container_has_its_own_kernel(engine: &Engine) {
    if !harness::engine::is_hull() {
        eprintln!("skipped: the runtime is not Hull");
        return;
    }
    let kernel = engine.run(&[], "uname -r").ok();
    assert!(kernel.trim().ends_with("-hull"), "{kernel}");
}

pub(crate) fn a_container_is_entered(engine: &Engine) {
    engine.start("box", &["--env", "A=of the container"], "sleep 1000");
    assert_eq!(engine.exec("box", "exit 3").code(), 3);
    let options = ["--user", "1000:50", "--workdir", "/tmp", "--env", "B=two"];
    let script = "id -u; id -g; pwd; echo $A; echo $B; echo error >&2";
    let command = ["box", "sh", "-c", script];
    let exec = engine.call([&["exec"][..], &options, &command].concat());
    assert_eq!(exec.ok(), "1000\n50\n/tmp\nof the container\ntwo\n");
    assert_eq!(exec.stderr(), "error\n");
    let fed = engine.call_with(["exec", "-i", "box", "wc", "-c"], &[b'x'; 100_000]);
    assert_eq!(fed.ok().trim(), "100000");
    let detached = engine.call(["exec", "-d", "box", "sh", "-c", "echo here > /detached"]);
    let _ = detached.ok();
    let wait = "until [ -s /detached ]; do sleep 0.05; done; cat /detached";
    assert_eq!(engine.exec("box", wait).ok(), "here\n");
    let missing = engine.call(["exec", "box", "/no/such"]);
    // Docker 20.10 takes some of runc's words for a program that cannot run.
    let expected = engine.is_docker() && missing.code() == 126 || missing.code() == 127;
    assert!(expected, "{}", missing.stderr());
    let no_program = engine.call(["exec", "box", "/etc/passwd"]);
    assert_eq!(no_program.code(), 126, "{}", no_program.stderr());
    let _ = engine.call(["kill", "box"]).ok();
    assert_eq!(engine.wait("box"), 137);
    assert_ne!(engine.exec("box", "true").code(), 0, "it has ended");
}

pub(crate) fn signals_reach_a_container(engine: &Engine) {
    let script =
        "trap 'echo one' USR1; trap 'exit 5' USR2; echo ready; while :; do sleep 0.05; done";
    engine.start("box", &[], script);
    engine.wait_for_output("box", "ready");
    let _ = engine.call(["kill", "--signal", "USR1", "box"]).ok();
    engine.wait_for_output("box", "one");
    let _ = engine.call(["kill", "--signal", "12", "box"]).ok();
    assert_eq!(engine.wait("box"), 5);
    assert_ne!(engine.call(["kill", "box"]).code(), 0, "it has ended");
}

pub(crate) fn a_signal_ends_a_container(engine: &Engine) {
    // An init process passes it on; without one, TERM does nothing to process 1.
    engine.start("term", &["--init"], "echo ready; exec sleep 1000");
    engine.start("kill", &[], "sleep 1000");
    engine.wait_for_output("term", "ready");
    let _ = engine.call(["kill", "--signal", "TERM", "term"]).ok();
    assert_eq!(engine.wait("term"), 143);
    let _ = engine.call(["kill", "kill"]).ok();
    assert_eq!(engine.wait("kill"), 137);
    assert_eq!(engine.inspect("kill", "{{.State.ExitCode}}"), "137");
}

pub(crate) fn a_container_is_asked_to_stop(engine: &Engine) {
    let script = "trap 'echo stopping; exit 4' TERM; echo ready; while :; do sleep 0.05; done";
    engine.start("polite", &[], script);
    engine.start(
        "deaf",
        &[],
        "trap '' TERM; echo ready; while :; do sleep 0.05; done",
    );
    engine.wait_for_output("polite", "ready");
    engine.wait_for_output("deaf", "ready");
    let _ = engine.call(["stop", "polite"]).ok();
    assert_eq!(engine.inspect("polite", "{{.State.ExitCode}}"), "4");
    assert!(engine.call(["logs", "polite"]).ok().ends_with("stopping\n"));
    let _ = engine.call(["stop", "--time", "1", "deaf"]).ok();
    assert_eq!(engine.inspect("deaf", "{{.State.ExitCode}}"), "137");
    // Started again, it has its files.
    let _ = engine.call(["start", "polite"]).ok();
    engine.wait_until("polite", "{{.State.Running}}", "true");
    let _ = engine.exec("polite", "echo kept > /kept").ok();
    let _ = engine.call(["restart", "--time", "0", "polite"]).ok();
    assert_eq!(engine.exec("polite", "cat /kept").ok(), "kept\n");
    engine.assert_nothing_left();
}

pub(crate) fn a_container_is_frozen(engine: &Engine) {
    let script = "while :; do echo x >> /count; sleep 0.02; done";
    engine.start("box", &[], script);
    let grown = "n=$(wc -l < /count); until [ $(wc -l < /count) -gt $n ]; do sleep 0.02; done";
    let _ = engine
        .exec(
            "box",
            &format!("until [ -e /count ]; do sleep 0.02; done; {grown}"),
        )
        .ok();
    let _ = engine.call(["pause", "box"]).ok();
    assert_eq!(engine.inspect("box", "{{.State.Status}}"), "paused");
    assert_ne!(engine.exec("box", "true").code(), 0, "nothing runs in it");
    let _ = engine.call(["unpause", "box"]).ok();
    assert_eq!(engine.inspect("box", "{{.State.Status}}"), "running");
    let _ = engine.exec("box", grown).ok();
    let _ = engine.call(["pause", "box"]).ok();
    engine.remove(&["box"]);
    engine.assert_nothing_left();
}

pub(crate) fn a_running_container_is_removed(engine: &Engine) {
    engine.start("box", &[], "sleep 1000");
    let pid = engine.inspect("box", "{{.State.Pid}}");
    assert!(
        std::path::Path::new(&format!("/proc/{pid}/ns/net")).exists(),
        "{pid}"
    );
    assert_ne!(engine.call(["rm", "box"]).code(), 0, "it runs");
    engine.remove(&["box"]);
    assert_eq!(engine.call(["ps", "--all", "--quiet"]).ok(), "");
    engine.assert_nothing_left();
}

pub(crate) fn a_container_is_watched(engine: &Engine) {
    engine.start(
        "box",
        &["--memory", "64m", "--label", "a=b"],
        "sleep 1000 & wait",
    );
    let state = engine.inspect("box", "{{.State.Status}} {{.State.ExitCode}}");
    assert_eq!(state, "running 0");
    assert_eq!(engine.inspect("box", "{{.Config.Labels.a}}"), "b");
    let processes = engine.call(["top", "box"]).ok();
    assert!(processes.lines().count() >= 2, "{processes}");
    let format = "{{.MemUsage}};{{.PIDs}}";
    let stats = engine
        .call(["stats", "--no-stream", "--format", format, "box"])
        .ok();
    let (memory, processes) = stats.trim().split_once(';').expect("two");
    let (used, limit) = memory.split_once(" / ").expect("two");
    assert!(!used.starts_with('0'), "{stats}");
    // One counts in powers of ten, the other of two. Docker, and Podman from version 5 on, read the host's group, in
    // which a virtual machine has more than its container may use.
    let version = engine.call(["--version"]).ok();
    let reads_hosts_group = engine.is_docker() || !version.contains(" version 4.");
    if !(is_hull() && reads_hosts_group) {
        assert!(["64MiB", "67.11MB"].contains(&limit), "{stats}");
    }
    assert!(processes.parse::<u32>().expect("a number") >= 2, "{stats}");
}

pub(crate) fn a_failing_container_is_restarted(engine: &Engine) {
    let script = "echo attempt; exit 3";
    engine.start("box", &["--restart", "on-failure:2"], script);
    engine.wait_until("box", "{{.RestartCount}} {{.State.Status}}", "2 exited");
    assert_eq!(engine.inspect("box", "{{.State.ExitCode}}"), "3");
    let logs = engine.call(["logs", "box"]).ok();
    assert_eq!(logs, "attempt\n".repeat(3));
    engine.assert_nothing_left();
}

pub(crate) fn events_are_told(engine: &Engine) {
    let _ = engine.run(&["--name", "first"], "true");
    let format = if engine.is_docker() {
        "{{.Action}}"
    } else {
        "{{.Status}}"
    };
    let follow = ["events", "--since", "1h", "--format", format];
    let events = engine.follow([&follow[..], &["--filter", "container=box"]].concat());
    let _ = engine.run(&["--name", "box"], "exit 2");
    for event in ["create", "start", "die"] {
        events.expect(event);
    }
}
