//! Where a process's streams lead on the host, and the relays between there and the guest.

mod cri_log;
mod input;
mod logger;
mod output;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use cri_log::CriLog;
pub(crate) use input::InputRelay;
pub(crate) use logger::Owner;
pub(crate) use output::{OutputRelay, ProcessEnd, Sink};

use crate::error::SandboxError;
use logger::Logger;

/// Where a process's streams lead, as containerd says it: a FIFO's path, or a URI.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StdioConfig {
    /// A FIFO or `pipe:///path` to read from; empty for none.
    pub stdin: String,
    /// A FIFO, `pipe:///path` (another process's end of a pipe, `/proc/PID/fd/N`: a FIFO whose readers may come
    /// and go, but a pipe without one is broken), `terminal:///path` (such an end, that leads to a terminal of whoever made it), `file:///path` (appended as it is), `cri-log:///path` (lines in the Kubernetes CRI log
    /// format) or `binary:///path?key=value` (a program that takes it); empty for none.
    pub stdout: String,
    /// As `stdout`; not used with a terminal.
    pub stderr: String,
    /// The process gets a terminal.
    pub terminal: bool,
}

impl StdioConfig {
    /// Whether the process's terminal leaves newlines as they are, as another one makes CR LF of them.
    pub(crate) fn has_bare_newlines(&self) -> bool {
        self.terminal && self.stdout.starts_with("terminal://")
    }
}

/// A parsed destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Destination {
    Nowhere,
    Fifo(PathBuf),
    Pipe(PathBuf),
    File(PathBuf),
    CriLog(PathBuf),
    Binary(Logger),
}

impl Destination {
    pub(crate) fn parse(text: &str) -> Result<Self, SandboxError> {
        if text.is_empty() {
            return Ok(Self::Nowhere);
        }
        match text.split_once("://") {
            None => Ok(Self::Fifo(PathBuf::from(text))),
            Some(("fifo", path)) => Ok(Self::Fifo(absolute(path)?)),
            Some(("pipe" | "terminal", path)) => Ok(Self::Pipe(absolute(path)?)),
            Some(("file", path)) => Ok(Self::File(absolute(path)?)),
            Some(("cri-log", path)) => Ok(Self::CriLog(absolute(path)?)),
            Some(("binary", text)) => {
                let malformed = SandboxError::Invalid("a logger's URI is malformed");
                let logger = Logger::parse(text).ok_or(malformed)?;
                absolute(&logger.program.to_string_lossy())?;
                Ok(Self::Binary(logger))
            }
            Some(_) => Err(SandboxError::Unsupported(
                "stdio URIs but fifo, pipe, terminal, file, cri-log and binary",
            )),
        }
    }
}

fn absolute(path: &str) -> Result<PathBuf, SandboxError> {
    let path = Path::new(path);
    if path.is_absolute() {
        return Ok(path.to_owned());
    }
    Err(SandboxError::Invalid("a stdio URI needs an absolute path"))
}

/// Bytes moved at once. A vsock packet holds at most 64 KiB.
const BUFFER_BYTES: usize = 256 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_are_parsed_strictly() {
        let parse = |text| Destination::parse(text).ok();
        assert_eq!(parse(""), Some(Destination::Nowhere));
        assert_eq!(parse("/run/x"), Some(Destination::Fifo("/run/x".into())));
        assert_eq!(
            parse("pipe:///proc/1/fd/1"),
            Some(Destination::Pipe("/proc/1/fd/1".into()))
        );
        assert_eq!(parse("terminal:///a"), Some(Destination::Pipe("/a".into())));
        assert_eq!(parse("file:///a/b"), Some(Destination::File("/a/b".into())));
        assert_eq!(
            parse("cri-log:///a"),
            Some(Destination::CriLog("/a".into()))
        );
        assert_eq!(parse("file://a"), None);
        assert!(matches!(
            parse("binary:///bin/logger"),
            Some(Destination::Binary(_))
        ));
        assert_eq!(parse("binary://logger"), None);
        assert_eq!(parse("http://logger"), None);
    }
}
