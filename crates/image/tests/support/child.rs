//! Tests that need a process of their own run a test of the same program in it.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Where the child finds the directory that it shares with its parent.
const DIRECTORY: &str = "HULL_IMAGE_TEST_DIRECTORY";

/// The directory shared with the parent; none if this test was not started as a child.
pub fn directory() -> Option<std::path::PathBuf> {
    std::env::var_os(DIRECTORY).map(Into::into)
}

/// A command that runs the ignored test `name` by way of `wrapper`.
pub fn command(wrapper: &[&str], name: &str, directory: &Path) -> Command {
    let this = std::env::current_exe().unwrap();
    let mut command = match wrapper.split_first() {
        Some((program, arguments)) => {
            let mut command = Command::new(program);
            command.args(arguments).arg(this);
            command
        }
        None => Command::new(this),
    };
    command
        .args(["--exact", name, "--ignored", "--nocapture"])
        .env(DIRECTORY, directory);
    command
}

/// Starts a child and waits until it prints a line that ends with `ready`.
pub fn start_until(mut command: Command, ready: &str) -> Child {
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let stdout = BufReader::new(child.stdout.take().unwrap());
    for line in stdout.lines() {
        if line.unwrap().ends_with(ready) {
            return child;
        }
    }
    panic!("the child ended: {:?}", child.wait());
}
