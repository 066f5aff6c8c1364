//! The Kubernetes CRI log format: `2016-10-06T00:17:09.669794202Z stdout F text`.

use std::io::{self, Write};
use std::path::Path;
use std::time::SystemTime;

/// A log that both streams of a process write to.
#[derive(Debug)]
pub struct CriLog {
    file: std::fs::File,
}

/// Longest line; a longer one is split and its parts are marked `P`, as the kubelet expects.
const LINE_BYTES: usize = 16 << 10;

impl CriLog {
    /// Opens the log for appending.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = std::fs::File::options()
            .create(true)
            .append(true)
            .open(path)?;
        Ok(Self { file })
    }

    /// Appends what a stream wrote. `partial` holds the stream's unfinished line between calls.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&mut self, stream: &str, partial: &mut Vec<u8>, bytes: &[u8]) -> io::Result<()> {
        let mut entries = Vec::with_capacity(bytes.len() + 64);
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, tag) = match piece.strip_suffix(b"\n") {
                Some(text) => (text, "F"),
                None => (piece, "P"),
            };
            partial.extend_from_slice(text);
            while partial.len() > LINE_BYTES {
                let rest = partial.split_off(LINE_BYTES);
                entry(&mut entries, stream, "P", partial);
                *partial = rest;
            }
            if tag == "F" {
                entry(&mut entries, stream, tag, partial);
                partial.clear();
            }
        }
        self.file.write_all(&entries)
    }

    /// Appends the stream's unfinished line at its end.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn finish(&mut self, stream: &str, partial: &mut Vec<u8>) -> io::Result<()> {
        let mut entries = Vec::new();
        if !partial.is_empty() {
            entry(&mut entries, stream, "P", partial);
            partial.clear();
        }
        self.file.write_all(&entries)
    }
}

fn entry(out: &mut Vec<u8>, stream: &str, tag: &str, text: &[u8]) {
    let time = humantime::format_rfc3339_nanos(SystemTime::now());
    out.extend_from_slice(format!("{time} {stream} {tag} ").as_bytes());
    out.extend_from_slice(text);
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_joined_and_split() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = CriLog::open(&path).unwrap();
        let mut partial = Vec::new();
        log.write("stdout", &mut partial, b"one\ntw").unwrap();
        log.write("stdout", &mut partial, b"o\n").unwrap();
        log.write("stdout", &mut partial, &vec![b'x'; LINE_BYTES + 1])
            .unwrap();
        log.finish("stdout", &mut partial).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<_> = text
            .lines()
            .map(|line| line.split_once(' ').unwrap().1)
            .collect();
        assert_eq!(lines[0], "stdout F one");
        assert_eq!(lines[1], "stdout F two");
        assert_eq!(lines[2].len(), "stdout P ".len() + LINE_BYTES);
        assert_eq!(lines[3], "stdout P x");
    }
}
