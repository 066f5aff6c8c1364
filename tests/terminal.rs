//! `-t`: a real terminal, with its size, its signals and its job control.

use harness::terminal::Terminal;
use harness::{Hull, run_arguments};

fn shell(hull: &Hull) -> Terminal {
    let mut terminal = Terminal::start(hull.command(run_arguments(&["-i", "-t"], &["sh"])));
    terminal.expect("#");
    terminal
}

#[test]
fn a_shell_has_a_terminal_and_its_exit_code_is_hulls() {
    let hull = Hull::new();
    let mut terminal = shell(&hull);
    terminal.type_in("tty; test -t 0 && test -t 1 && test -t 2 && echo is-a-$((1+1))-terminal\n");
    terminal.expect("/dev/");
    terminal.expect("is-a-2-terminal");
    terminal.type_in("exit 42\n");
    let (status, _) = terminal.end();
    assert_eq!(status.code(), Some(42));
}

#[test]
fn the_window_size_arrives_and_follows() {
    let hull = Hull::new();
    // Not an interactive shell: that one takes the signal for its own line editor.
    let script =
        "stty size; trap 'stty size; exit 5' WINCH; echo trapped; while :; do sleep 0.1; done";
    let command = run_arguments(&["-i", "-t"], &["sh", "-c", script]);
    let mut terminal = Terminal::start(hull.command(command));
    terminal.expect("24 80");
    terminal.expect("trapped");
    terminal.resize(132, 50);
    terminal.expect("50 132");
    assert_eq!(terminal.end().0.code(), Some(5));
}

#[test]
fn control_c_interrupts_the_foreground_job_only() {
    let hull = Hull::new();
    let mut terminal = shell(&hull);
    terminal.type_in("sh -c 'echo star\"\"ted; exec sleep 1000'\n");
    terminal.expect("started");
    terminal.type_in("\u{3}");
    terminal.type_in("echo code-$?\n");
    terminal.expect("code-130");
    terminal.type_in("exit\n");
    assert_eq!(terminal.end().0.code(), Some(0));
}

#[test]
fn jobs_can_be_stopped_and_continued() {
    let hull = Hull::new();
    let mut terminal = shell(&hull);
    terminal.type_in("sh -c 'echo star\"\"ted; exec sleep 1000'\n");
    terminal.expect("started");
    terminal.type_in("\u{1a}");
    terminal.expect("Stopped");
    terminal.type_in("kill %1; fg; echo do''ne\n");
    terminal.expect("done");
    terminal.type_in("exit\n");
    assert_eq!(terminal.end().0.code(), Some(0));
}
