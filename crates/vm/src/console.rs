//! The guest's console: kept in a bounded log file, its last lines in memory.
//!
//! Whatever the guest's kernel and agent print arrives here from the first line, so a guest that
//! does not come up is reported with its own last words. The guest decides how much it prints; the
//! host decides how much it keeps.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex};

use tokio::fs::File;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

use crate::error::VmError;

/// Lines kept in memory.
const TAIL_LINES: usize = 50;
/// A longer line is cut, bytes.
const LINE_BYTES: usize = 512;
/// The log file stops growing here, bytes.
const LOG_BYTES: u64 = 1 << 20;

/// A console that is being read.
#[derive(Debug, Clone)]
pub struct Console {
    tail: Arc<Mutex<Tail>>,
    ended: tokio::sync::watch::Receiver<bool>,
}

#[derive(Debug, Default)]
struct Tail {
    lines: VecDeque<String>,
    partial: Vec<u8>,
}

impl Console {
    /// Reads the console from `stream` until it ends, appending to `console.log` in the machine's directory.
    ///
    /// # Errors
    /// When the log cannot be opened.
    pub async fn follow<S>(stream: S, run_dir: &Path) -> Result<Self, VmError>
    where
        S: AsyncRead + Unpin + Send + 'static,
    {
        let log = run_dir.join("console.log");
        let file = File::options().create(true).append(true).open(&log).await;
        let file = file.map_err(VmError::host(format!("open {}", log.display())))?;
        let tail = Arc::new(Mutex::new(Tail::default()));
        let (end, ended) = tokio::sync::watch::channel(false);
        tokio::spawn(read(stream, file, Arc::clone(&tail), end));
        Ok(Self { tail, ended })
    }

    /// Last lines, oldest first, an unfinished one included.
    #[must_use]
    pub fn tail(&self) -> Vec<String> {
        let tail = self.tail.lock().expect("no holder of this lock panics");
        let mut lines: Vec<_> = tail.lines.iter().cloned().collect();
        if !tail.partial.is_empty() {
            lines.push(printable(&tail.partial));
        }
        lines
    }

    /// Completes when all that the guest had printed before its end has been read.
    pub async fn ended(&self) {
        // An error means that the reader is gone, which is an end too.
        let _ = self.ended.clone().wait_for(|ended| *ended).await;
    }
}

async fn read(
    mut stream: impl AsyncRead + Unpin,
    mut log: File,
    tail: Arc<Mutex<Tail>>,
    end: tokio::sync::watch::Sender<bool>,
) {
    let mut buffer = [0; 4096];
    let mut room = LOG_BYTES;
    loop {
        let count = match stream.read(&mut buffer).await {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) => {
                tracing::debug!(%error, "the console's stream broke");
                break;
            }
        };
        let bytes = &buffer[..count];
        tail.lock()
            .expect("no holder of this lock panics")
            .push(bytes);
        let kept = usize::try_from(room).unwrap_or(usize::MAX).min(count);
        if let Err(error) = log.write_all(&bytes[..kept]).await {
            tracing::warn!(%error, "cannot write the console's log; its last lines stay in memory");
            room = 0;
        } else {
            room -= kept as u64;
        }
    }
    if let Err(error) = log.flush().await {
        tracing::warn!(%error, "cannot write the console's log");
    }
    end.send_replace(true);
}

impl Tail {
    fn push(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if byte == b'\n' {
                let line = printable(&self.partial);
                self.partial.clear();
                if self.lines.len() == TAIL_LINES {
                    self.lines.pop_front();
                }
                self.lines.push_back(line);
            } else if self.partial.len() < LINE_BYTES {
                self.partial.push(byte);
            }
        }
    }
}

/// The guest's bytes as text that a terminal shows and does not obey.
fn printable(line: &[u8]) -> String {
    String::from_utf8_lossy(line)
        .trim_end()
        .chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixStream;

    use super::*;

    async fn console_of(bytes: &[u8]) -> (Vec<String>, Vec<u8>) {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("console.log");
        let (mut guest, host) = UnixStream::pair().unwrap();
        let console = Console::follow(host, dir.path()).await.unwrap();
        guest.write_all(bytes).await.unwrap();
        drop(guest);
        console.ended().await;
        (console.tail(), std::fs::read(log).unwrap())
    }

    #[tokio::test]
    async fn the_last_words_are_kept() {
        let (tail, log) = console_of(b"booting\r\nKernel panic\nhal").await;
        assert_eq!(tail, ["booting", "Kernel panic", "hal"]);
        assert_eq!(log, b"booting\r\nKernel panic\nhal");
    }

    #[tokio::test]
    async fn a_guest_that_floods_its_console_is_cut() {
        let flood = vec![b'x'; 3 << 20];
        let (tail, log) = console_of(&flood).await;
        assert_eq!(tail, ["x".repeat(LINE_BYTES)]);
        assert_eq!(log.len() as u64, LOG_BYTES);
        let (tail, _) = console_of(&b"line\n".repeat(1000)).await;
        assert_eq!(tail.len(), TAIL_LINES);
    }

    #[tokio::test]
    async fn control_characters_do_not_reach_a_terminal() {
        let (tail, _) = console_of(b"\x1b]0;owned\x07\n").await;
        assert!(!tail[0].chars().any(char::is_control));
    }
}
