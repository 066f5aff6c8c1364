//! The runtime's own command line, without an engine.

use std::thread::sleep;
use std::time::Duration;

use harness::bundle::Bundle;
use harness::engine::Lines;
use harness::machine::is_running;
use harness::terminal::Terminal;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

#[test]
fn output_of_a_terminal_is_not_for_a_terminal_where_there_is_none() {
    let mut bundle = Bundle::new("tty; echo one; echo two");
    bundle.config["process"]["terminal"] = json!(true);
    assert_eq!(bundle.run().ok(), "/dev/pts/0\none\ntwo\n");
}

#[test]
fn capabilities_that_cannot_be_are_warned_of() {
    let mut bundle = Bundle::new("grep CapAmb /proc/self/status");
    let sets = &mut bundle.config["process"]["capabilities"];
    sets["bounding"] = json!(["CAP_KILL", "CAP_TO_FLY"]);
    sets["inheritable"] = json!(["CAP_KILL"]);
    sets["ambient"] = json!(["CAP_KILL", "CAP_CHOWN"]);
    let outcome = bundle.run();
    assert_eq!(outcome.ok(), "CapAmb:\t0000000000000020\n");
    let warnings = outcome.stderr();
    assert!(
        warnings.contains("unavailable capabilities: [CAP_TO_FLY]"),
        "{warnings}"
    );
    assert!(
        warnings.contains("can't raise ambient capability CAP_CHOWN: "),
        "{warnings}"
    );
}

#[test]
fn the_callers_terminal_ends_lines() {
    let mut bundle = Bundle::new("echo one; read word; echo got $word");
    bundle.config["process"]["terminal"] = json!(true);
    let mut terminal = Terminal::start(bundle.command(&["run", "box"]));
    terminal.expect("one\r\n");
    terminal.type_in("word\r");
    let (status, rest) = terminal.end();
    assert_eq!(rest, "word\r\ngot word\r\n");
    assert_eq!(status.code(), Some(0));
}

#[test]
fn a_want_of_memory_is_an_event() {
    let mut bundle = Bundle::new("sleep 1000");
    bundle.config["linux"]["resources"]["memory"] = json!({"limit": 32 << 20, "swap": 32 << 20});
    bundle.start();
    let events = Lines::of(bundle.command(&["events", "--interval", "100ms", "box"]));
    // It has counted before it prints.
    events.expect(r#"{"type":"stats","id":"box","data":{"#);
    let hog = bundle.call(&["exec", "box", "sh", "-c", "tail /dev/zero"]);
    assert_eq!(hog.code(), 137);
    events.expect(r#"{"type":"oom","id":"box"}"#);
    let _ = bundle.call(&["delete", "-f", "box"]).ok();
    while let Some(line) = events.next_line() {
        assert!(line.starts_with(r#"{"type":"stats""#), "{line}");
    }
}

/// Engines whose signal fails look whether the process is there, and take it for a container that runs.
#[test]
fn nothing_stands_for_a_container_that_is_said_not_to_run() {
    let bundle = Bundle::new("sleep 1000");
    bundle.start();
    let state = || -> Value {
        let text = bundle.call(&["state", "box"]).ok();
        serde_json::from_str(&text).expect("JSON")
    };
    let pid = state()["pid"].as_i64().expect("a process");
    let pid = i32::try_from(pid).expect("a process id");
    let monitor = Pid::from_raw(pid);
    kill(monitor, Signal::SIGSTOP).expect("it is there");
    let _ = bundle.call(&["kill", "box", "KILL"]).ok();
    while state()["status"] != "stopped" {
        sleep(Duration::from_millis(20));
    }
    std::thread::scope(|scope| {
        let again = scope.spawn(|| bundle.call(&["kill", "box", "KILL"]));
        // Long enough for an answer that does not wait.
        sleep(Duration::from_millis(500));
        let was_early = again.is_finished();
        kill(monitor, Signal::SIGCONT).expect("it is there");
        let again = again.join().expect("no panic");
        assert!(!is_running(pid), "{}", again.stderr());
        assert!(!was_early);
        assert_eq!(again.code(), 1);
        assert!(again.stderr().contains("container not running"));
    });
}

/// As an engine does with a health check that takes too long.
#[test]
fn a_process_ends_with_what_stands_for_it() {
    let bundle = Bundle::new("sleep 1000");
    bundle.start();
    let pid_file = bundle.dir().join("pid");
    let pid_path = pid_file.to_str().expect("a path");
    bundle.call_without_streams(&[
        "exec",
        "--detach",
        "--pid-file",
        pid_path,
        "box",
        "tail",
        "-f",
        "/dev/null",
    ]);
    let is_there = || bundle.call(&["exec", "box", "pidof", "tail"]).code() == 0;
    assert!(is_there());
    let pid = std::fs::read_to_string(pid_file).expect("a process id");
    let pid = Pid::from_raw(pid.trim().parse().expect("a number"));
    kill(pid, Signal::SIGKILL).expect("it is there");
    while is_there() {
        sleep(Duration::from_millis(20));
    }
    let status = bundle.call(&["state", "box"]).ok();
    assert!(status.contains(r#""status": "running""#), "{status}");
}
