//! A program that takes a process's output: `binary://PROGRAM?ARGUMENT=VALUE`, as containerd's logging
//! drivers are.
//!
//! It gets standard output as descriptor 3, standard error as 4, and closes 5 when it is ready. It ends when
//! both outputs have.

use std::io::{self, PipeReader, Read};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use command_fds::CommandFdExt;
use command_fds::FdMapping;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};

use crate::error::SandboxError;

/// How long a logger may take after its last byte, as containerd's own shim gives it.
const PATIENCE: Duration = Duration::from_secs(12);

/// A program and its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Logger {
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<String>,
}

/// Whose output it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Owner<'a> {
    pub(crate) container_id: &'a str,
    /// The engine's namespace.
    pub(crate) namespace: &'a str,
}

/// The outputs' ends, and the logger, which is waited for when both are gone.
#[derive(Debug)]
pub(crate) struct LoggerPipes {
    pub(crate) stdout: pipe::Sender,
    pub(crate) stderr: pipe::Sender,
    pub(crate) running: Arc<Running>,
}

/// Sees the logger off when its last user is gone.
#[derive(Debug)]
pub(crate) struct Running(Option<Child>);

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            tokio::spawn(async move {
                if tokio::time::timeout(PATIENCE, child.wait()).await.is_err() {
                    tracing::error!("a container's logger does not end and is killed");
                    // It may just have ended.
                    let _ = child.kill().await;
                }
            });
        }
    }
}

impl Logger {
    /// `PATH?KEY=VALUE&…`: each key is an argument, and its value another. Percent signs quote.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (path, query) = text.split_once('?').unwrap_or((text, ""));
        let mut arguments = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            arguments.push(unquote(&key.replace('+', " "))?);
            if !value.is_empty() {
                arguments.push(unquote(&value.replace('+', " "))?);
            }
        }
        Some(Self {
            program: unquote(path)?.into(),
            arguments,
        })
    }

    /// Starts it and waits until it is ready.
    pub(crate) async fn start(&self, owner: Owner<'_>) -> Result<LoggerPipes, SandboxError> {
        let failed = || SandboxError::host(format!("start the logger {}", self.program.display()));
        let (out_read, out) = io::pipe().map_err(failed())?;
        let (err_read, err) = io::pipe().map_err(failed())?;
        let (ready, says_ready) = io::pipe().map_err(failed())?;
        let descriptors: [OwnedFd; 3] = [out_read.into(), err_read.into(), says_ready.into()];
        let mappings = (3..)
            .zip(descriptors)
            .map(|(child_fd, parent_fd)| FdMapping {
                parent_fd,
                child_fd,
            });
        let mut command = Command::new(&self.program);
        command
            .args(&self.arguments)
            .env("CONTAINER_ID", owner.container_id)
            .env("CONTAINER_NAMESPACE", owner.namespace)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .fd_mappings(mappings.collect())
            .map_err(|error| failed()(io::Error::other(error)))?;
        let child = command.spawn().map_err(failed())?;
        // Its copies of the descriptors are what it lives by.
        drop(command);
        let running = Arc::new(Running(Some(child)));
        wait_until_closed(ready).await.map_err(failed())?;
        let sender = |end: io::PipeWriter| pipe::Sender::from_owned_fd(end.into());
        Ok(LoggerPipes {
            stdout: sender(out).map_err(failed())?,
            stderr: sender(err).map_err(failed())?,
            running,
        })
    }
}

/// A byte says the same as the end.
async fn wait_until_closed(mut ready: PipeReader) -> io::Result<()> {
    let read = tokio::task::spawn_blocking(move || ready.read(&mut [0]).map(drop));
    read.await.map_err(io::Error::other)?
}

/// RFC 3986, section 2.1.
fn unquote(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if *byte == b'%' {
            let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &rest[2..];
        } else {
            bytes.push(*byte);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_values_are_arguments() {
        let logger = Logger::parse("/bin/a%20logger?--to=%2Fvar%2Flog&x&y=1+2").unwrap();
        assert_eq!(logger.program, PathBuf::from("/bin/a logger"));
        assert_eq!(logger.arguments, ["--to", "/var/log", "x", "y", "1 2"]);
        assert_eq!(Logger::parse("/bin/x%2"), None);
        assert_eq!(Logger::parse("/bin/x%zz"), None);
    }
}
