//! What goes into and comes out of a container.

use harness::engine::{BUSYBOX, Engine};

pub(crate) fn output_is_kept(engine: &Engine) {
    let script =
        "echo one; echo two >&2; until [ -e /go ]; do sleep 0.05; done; echo three; exit 1";
    engine.start("box", &[], script);
    engine.wait_for_output("box", "two");
    let logs = engine.call(["logs", "box"]);
    assert_eq!(logs.ok(), "one\n");
    assert_eq!(logs.stderr(), "two\n");
    let follower = engine.follow(["logs", "--follow", "box"]);
    assert_eq!(follower.next_line().as_deref(), Some("one"));
    let _ = engine.exec("box", "touch /go").ok();
    assert_eq!(follower.next_line().as_deref(), Some("three"));
    assert_eq!(follower.next_line(), None);
    assert_eq!(engine.wait("box"), 1);
    let last = engine
        .call(["logs", "--tail", "1", "--timestamps", "box"])
        .ok();
    assert!(
        last.ends_with("three\n") && last.starts_with("20"),
        "{last}"
    );
}

pub(crate) fn streams_pass_through_whole(engine: &Engine) {
    let input: Vec<u8> = (0..262_144_u32).flat_map(u32::to_le_bytes).collect();
    let first = ["run", "-i", "--rm", "--network", "none"];
    let command = [BUSYBOX, "sh", "-c", "cat; echo done >&2"];
    let outcome = engine.call_with([&first[..], &command].concat(), &input);
    assert_eq!(outcome.code(), 0, "{}", outcome.stderr());
    assert!(
        outcome.0.stdout == input,
        "{} bytes",
        outcome.0.stdout.len()
    );
    assert_eq!(outcome.stderr(), "done\n");
}

/// A line to type: it waits for a terminal's size, and says so in other words than its own.
fn wait_for_size(columns: u16, rows: u16) -> String {
    let size = format!("{rows} {columns}");
    format!(
        "until [ \"$(stty size)\" = '{size}' ]; do sleep 0.05; done; echo size $(stty size) 'se''en'\n"
    )
}

pub(crate) fn a_terminal_is_passed_through(engine: &Engine) {
    let arguments = [
        "run",
        "-it",
        "--rm",
        "--name",
        "box",
        "--network",
        "none",
        BUSYBOX,
    ];
    let mut terminal = engine.terminal(&arguments);
    // What is typed is echoed, and so must not be what is waited for.
    // The size comes by itself.
    terminal.type_in(&wait_for_size(80, 24));
    terminal.expect("size 24 80 seen");
    terminal.resize(100, 30);
    terminal
        .type_in("until [ \"$(stty size)\" = '30 100' ]; do sleep 0.05; done; echo 're''sized'\n");
    terminal.expect("resized");
    // It is in the foreground when it says so.
    terminal.type_in("sh -c \"echo 'rea''dy'; exec sleep 1000\"\n");
    terminal.expect("ready");
    terminal.type_in("\x03");
    terminal.type_in("echo 'interr''upted' $?\n");
    terminal.expect("interrupted 130");

    let exec = [
        "exec",
        "-it",
        "box",
        "sh",
        "-c",
        "tty; until [ \"$(stty size)\" = '24 80' ]; do sleep 0.05; done; echo sized; read line; echo \"got $line\"; exit 6",
    ];
    let mut second = engine.terminal(&exec);
    second.expect("/dev/pts/");
    second.expect("sized");
    second.type_in("a line\n");
    second.expect("got a line");
    assert_eq!(second.end().0.code(), Some(6));

    terminal.type_in("exit 9\n");
    assert_eq!(terminal.end().0.code(), Some(9));
}

pub(crate) fn a_running_container_is_attached_to(engine: &Engine) {
    engine.start("box", &[], "while :; do echo tick; sleep 0.1; done");
    let watched = engine.follow(["attach", "--no-stdin", "box"]);
    watched.expect("tick");
    let _ = engine.call(["kill", "box"]).ok();
    while watched.next_line().is_some() {}

    engine.start(
        "term",
        &["-it"],
        "while read line; do echo \"got $line\"; [ \"$line\" != end ] || exit 8; done",
    );
    let mut terminal = engine.terminal(&["attach", "--detach-keys", "ctrl-x", "term"]);
    terminal.type_in("typed\n");
    terminal.expect("got typed");
    terminal.type_in("\x18");
    let _ = terminal.end();
    assert_eq!(engine.inspect("term", "{{.State.Running}}"), "true");
    let mut terminal = engine.terminal(&["attach", "term"]);
    terminal.type_in("end\n");
    terminal.expect("got end");
    let _ = terminal.end();
    assert_eq!(engine.wait("term"), 8);
    let logs = engine.call(["logs", "term"]).ok();
    assert!(logs.contains("got typed"), "{logs}");
}
