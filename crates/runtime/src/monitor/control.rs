//! The socket between a command and the monitor that it has started: an object on each line.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// One end of it.
#[derive(Debug)]
pub(super) struct Control(BufReader<UnixStream>);

impl Control {
    pub(super) fn new(socket: UnixStream) -> Self {
        Self(BufReader::new(socket))
    }

    /// Nothing when the other end is gone.
    pub(super) fn read<T: DeserializeOwned>(&mut self) -> Option<T> {
        let mut line = String::new();
        self.0.read_line(&mut line).ok()?;
        serde_json::from_str(&line).ok()
    }

    pub(super) fn write(&mut self, message: &impl Serialize) -> io::Result<()> {
        let mut line = serde_json::to_vec(message).expect("plain data encodes");
        line.push(b'\n');
        self.0.get_mut().write_all(&line)
    }

    /// The answer to a message.
    pub(super) fn ask<T: DeserializeOwned>(&mut self, message: &impl Serialize) -> io::Result<T> {
        self.write(message)?;
        self.read().ok_or_else(|| io::Error::other("it has ended"))
    }
}
