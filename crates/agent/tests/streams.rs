//! Standard streams and terminals.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "each test program uses its own part")]
mod support;

use hull_agent_api::agent::{AttachStdioRequest, ResizeTerminalRequest, Stdio};
use serde_json::json;
use support::{Guest, Setup, context, unique};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

macro_rules! guest {
    () => {
        match Guest::start().await {
            Some(guest) => guest,
            None => return,
        }
    };
}

/// Reads until what was read ends so.
async fn read_until(stream: &mut UnixStream, end: &str) -> String {
    let mut text = String::new();
    while !text.ends_with(end) {
        let mut byte = [0];
        let count = stream.read(&mut byte).await.unwrap();
        assert_eq!(count, 1, "the stream ended after {text:?}");
        text.push(char::from(byte[0]));
    }
    text
}

#[tokio::test]
async fn a_terminal_is_a_terminal() {
    let guest = guest!();
    let id = unique("tty");
    let setup = Setup::shell(
        "tty; stat -c %u $(tty); echo x > /dev/console; echo y > /dev/tty; stty size; \
         trap 'stty size; exit 3' WINCH; read line; echo got $line; while :; do sleep 0.05; done",
    )
    .process("user", json!({"uid": 1000, "gid": 1000}))
    .terminal();
    let (mut names, mut ends) = guest.streams(true).await;
    (names.columns, names.rows) = (80, 24);
    guest.create_with(&id, &setup, names).await.unwrap();
    guest.start_container(&id).await.unwrap();
    let text = read_until(&mut ends.stdout, "24 80\r\n").await;
    assert_eq!(text, "/dev/pts/0\r\n1000\r\nx\r\ny\r\n24 80\r\n");
    ends.stdin.write_all(b"word\n").await.unwrap();
    assert_eq!(
        read_until(&mut ends.stdout, "got word\r\n").await,
        "word\r\ngot word\r\n"
    );
    let mut resize = ResizeTerminalRequest::new();
    resize.container_id = id.clone();
    (resize.columns, resize.rows) = (132, 50);
    guest
        .client
        .resize_terminal(context(), &resize)
        .await
        .unwrap();
    let mut rest = String::new();
    ends.stdout.read_to_string(&mut rest).await.unwrap();
    assert!(rest.contains("50 132\r\n"), "{rest:?}");
    let end = guest.wait(&id, "").await;
    assert_eq!(end.exit_status, 3);
    let written = text.len() + "word\r\ngot word\r\n".len() + rest.len();
    assert_eq!(end.stdout_bytes, written as u64);
    guest.remove(&id).await.unwrap();
}

#[tokio::test]
async fn a_process_may_ask_for_its_terminals_size() {
    let guest = guest!();
    let setup = Setup::shell("stty size")
        .process("consoleSize", json!({"height": 10, "width": 110}))
        .terminal();
    assert_eq!(guest.run(&setup).await.stdout, "10 110\r\n");
}

#[tokio::test]
async fn a_terminal_leaves_newlines_where_another_one_adds_to_them() {
    let guest = guest!();
    let id = unique("bare");
    let (mut names, ends) = guest.streams(true).await;
    names.bare_newlines = true;
    let setup = Setup::shell("echo one; echo two").terminal();
    guest.create_with(&id, &setup, names).await.unwrap();
    guest.start_container(&id).await.unwrap();
    assert_eq!(ends.exchange(b"").await.0, "one\ntwo\n");
    guest.wait(&id, "").await;
    guest.remove(&id).await.unwrap();
}

#[tokio::test]
async fn control_c_interrupts() {
    let guest = guest!();
    let id = unique("ctrl-c");
    let setup =
        Setup::shell("trap 'echo caught; exit 9' INT; echo ready; while :; do read x; done");
    let mut ends = guest.launch(&id, &setup.terminal()).await.unwrap();
    read_until(&mut ends.stdout, "ready\r\n").await;
    ends.stdin.write_all(b"\x03").await.unwrap();
    let mut rest = String::new();
    ends.stdout.read_to_string(&mut rest).await.unwrap();
    assert!(rest.contains("caught"), "{rest:?}");
    assert_eq!(guest.wait(&id, "").await.exit_status, 9);
    guest.remove(&id).await.unwrap();
}

#[tokio::test]
async fn exec_has_a_terminal_of_its_own() {
    let guest = guest!();
    let id = unique("exec-tty");
    let main = guest.launch(&id, &Setup::new(&["/bin/cat"])).await.unwrap();
    let setup = Setup::shell("tty; test -t 0 && test -t 1 && test -t 2 && exit 4").terminal();
    let outcome = guest.run_exec(&id, &setup).await.unwrap();
    assert_eq!(
        (outcome.status, outcome.stdout.as_str()),
        (4, "/dev/pts/0\r\n")
    );
    assert_eq!(main.exchange(b"on").await.0, "on");
    guest.wait(&id, "").await;
    guest.remove(&id).await.unwrap();
}

#[tokio::test]
async fn a_terminals_last_words_are_not_lost() {
    let guest = guest!();
    let outcome = guest.run(&Setup::shell("seq 1 20000").terminal()).await;
    let expected: String = (1..=20000).map(|n| format!("{n}\r\n")).collect();
    assert!(outcome.stdout == expected, "{} bytes", outcome.stdout.len());
    assert_eq!(outcome.wait.stdout_bytes, expected.len() as u64);
}

#[tokio::test]
async fn the_exit_is_told_before_anybody_reads() {
    let guest = guest!();
    let id = unique("unread");
    let setup = Setup::shell("head -c 100000 /dev/zero; echo err >&2");
    let ends = guest.launch(&id, &setup).await.unwrap();
    // The output fits into the pipe and the connection: the process ends, though nobody has read.
    let end = guest.wait(&id, "").await;
    assert_eq!((end.stdout_bytes, end.stderr_bytes), (100_000, 4));
    let (out, err) = ends.exchange(b"").await;
    assert_eq!((out.len(), err.as_str()), (100_000, "err\n"));
    guest.remove(&id).await.unwrap();
}

#[tokio::test]
async fn a_stream_outlives_the_process_that_left_it_open() {
    let guest = guest!();
    let id = unique("background");
    let main = guest.launch(&id, &Setup::new(&["/bin/cat"])).await.unwrap();
    let setup = Setup::shell("(read x < /tmp/fifo; echo late) & echo early");
    let fifo = Setup::shell("rm -f /tmp/fifo; mkfifo /tmp/fifo");
    guest.run_exec(&id, &fifo).await.unwrap();
    let mut exec = guest.exec(&id, "early", &setup).await.unwrap();
    let end = guest.wait(&id, "early").await;
    assert_eq!((end.exit_status, end.stdout_bytes), (0, 6));
    assert_eq!(read_until(&mut exec.stdout, "early\n").await, "early\n");
    guest
        .run_exec(&id, &Setup::shell("echo x > /tmp/fifo; rm /tmp/fifo"))
        .await
        .unwrap();
    let mut rest = String::new();
    exec.stdout.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest, "late\n");
    main.exchange(b"").await;
    guest.wait(&id, "").await;
    guest.remove(&id).await.unwrap();
}

#[tokio::test]
async fn a_process_that_does_not_read_is_not_waited_for() {
    let guest = guest!();
    let setup = Setup::shell("exec 0<&-; echo closed").stdin(&vec![b'x'; 4 << 20]);
    let outcome = guest.run(&setup).await;
    assert_eq!((outcome.status, outcome.stdout.as_str()), (0, "closed\n"));
}

#[tokio::test]
async fn streams_that_nobody_wants_are_the_null_device() {
    let guest = guest!();
    let id = unique("null");
    let setup = Setup::shell(
        "for fd in 0 1 2; do test $(readlink /proc/$$/fd/$fd) = /dev/null || exit 1; done; \
         echo lost; cat",
    );
    guest.create_with(&id, &setup, Stdio::new()).await.unwrap();
    guest.start_container(&id).await.unwrap();
    let end = guest.wait(&id, "").await;
    assert_eq!((end.exit_status, end.stdout_bytes), (0, 0));
    guest.remove(&id).await.unwrap();
}

#[tokio::test]
async fn a_stream_goes_on_over_a_new_connection() {
    let guest = guest!();
    let id = unique("attach");
    let setup = Setup::shell("echo first; read x; seq 1 100000; read x; cat");
    let mut ends = guest.launch(&id, &setup).await.unwrap();
    read_until(&mut ends.stdout, "first\n").await;
    // The host's side ends, and the process goes on.
    drop(ends.stdout);
    ends.stdin.write_all(b"go\n").await.unwrap();
    let (token, mut stdout) = guest.stream().await;
    let mut request = AttachStdioRequest::new();
    request.container_id = id.clone();
    request.stdio.mut_or_insert_default().stdout = token;
    guest
        .client
        .attach_stdio(context(), &request)
        .await
        .unwrap();
    // What was on its way when the connection broke is gone; what the process writes later is not.
    read_until(&mut stdout, "\n100000\n").await;
    ends.stdin.write_all(b"go\nlast").await.unwrap();
    ends.stdin.shutdown().await.unwrap();
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest, "last");
    assert_eq!(guest.wait(&id, "").await.exit_status, 0);
    guest.remove(&id).await.unwrap();
}

#[tokio::test]
async fn much_output_of_both_streams_arrives_whole() {
    let guest = guest!();
    let setup = Setup::shell("seq 1 300000 & seq 300001 600000 >&2; wait");
    let outcome = guest.run(&setup).await;
    let numbers = |first, last| (first..=last).map(|n| format!("{n}\n")).collect::<String>();
    assert!(outcome.stdout == numbers(1, 300_000));
    assert!(outcome.stderr == numbers(300_001, 600_000));
    assert_eq!(outcome.wait.stdout_bytes, outcome.stdout.len() as u64);
    assert_eq!(outcome.wait.stderr_bytes, outcome.stderr.len() as u64);
}

#[tokio::test]
async fn a_terminal_that_nobody_watches_holds_nobody_up() {
    let guest = guest!();
    let id = unique("unwatched");
    let mut names = Stdio::new();
    names.terminal = true;
    let setup = Setup::shell("seq 1 20000; exit 6").terminal();
    guest.create_with(&id, &setup, names).await.unwrap();
    guest.start_container(&id).await.unwrap();
    assert_eq!(guest.wait(&id, "").await.exit_status, 6);
    guest.remove(&id).await.unwrap();
}
