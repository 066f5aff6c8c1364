//! Running a program and looking at the clock.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// When a program printed what was waited for and when it ended, after its start.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    pub(crate) output: Duration,
    pub(crate) end: Duration,
}

fn spawn(command: &mut Command) -> Result<Child> {
    let name = command.get_program().to_owned();
    command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", name.display()))
}

/// Runs a program that prints `expected`.
pub(crate) fn until_output(command: &mut Command, expected: &[u8]) -> Result<Times> {
    let line = format!("{command:?}");
    command.stdin(Stdio::null());
    let start = Instant::now();
    let mut child = spawn(command)?;
    let mut stdout = child.stdout.take().context("a pipe")?;
    let mut printed = Vec::new();
    let found = read_until(&mut stdout, expected, &mut printed)?;
    let seen = found.then(|| start.elapsed());
    stdout.read_to_end(&mut printed)?;
    let ended = child.wait_with_output()?;
    let end = start.elapsed();
    match seen {
        Some(output) if ended.status.success() => Ok(Times { output, end }),
        _ => bail!(
            "{line}: {}: {}{}",
            ended.status,
            String::from_utf8_lossy(&printed),
            String::from_utf8_lossy(&ended.stderr)
        ),
    }
}

/// How long a program takes to print `expected`; it is killed then.
pub(crate) fn to_output(command: &mut Command, expected: &[u8]) -> Result<Duration> {
    let line = format!("{command:?}");
    command.stdin(Stdio::null());
    let start = Instant::now();
    let mut child = spawn(command)?;
    let mut stdout = child.stdout.take().context("a pipe")?;
    let seen = read_until(&mut stdout, expected, &mut Vec::new());
    let took = start.elapsed();
    child.kill()?;
    let ended = child.wait_with_output()?;
    let errors = String::from_utf8_lossy(&ended.stderr);
    ensure!(seen?, "{line}: {}: {errors}", ended.status);
    Ok(took)
}

/// Reads until `expected` is among what was `read`; false if the stream ends before.
fn read_until(stream: &mut impl Read, expected: &[u8], read: &mut Vec<u8>) -> Result<bool> {
    let mut buffer = [0; 4096];
    loop {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Ok(false);
        }
        read.extend_from_slice(&buffer[..count]);
        if read.windows(expected.len()).any(|place| place == expected) {
            return Ok(true);
        }
    }
}

/// Runs a program that has to succeed; how long it took.
pub(crate) fn to_end(command: &mut Command) -> Result<Duration> {
    let start = Instant::now();
    output(command)?;
    Ok(start.elapsed())
}

/// What a program that has to succeed prints.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let line = format!("{command:?}");
    let output = spawn(command.stdin(Stdio::null()))?.wait_with_output()?;
    ensure!(
        output.status.success(),
        "{line}: {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
