//! A client of D-Bus for a few calls: D-Bus Specification, "Authentication Protocol" (EXTERNAL) and "Message
//! Protocol", in little endian. It blocks.

mod message;

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use message::{ANSWER, ERROR, SIGNAL, decode, encode};
pub(super) use message::{Body, Message, Target, Value};

/// An answer that has not come by then never will.
const PATIENCE: Duration = Duration::from_secs(30);
/// The specification's largest message.
const LONGEST: usize = 128 << 20;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum BusError {
    /// The connection failed.
    #[error("the connection to the bus failed")]
    Io(#[from] io::Error),
    /// The bus does not let this user in.
    #[error("the bus refuses this user: {0}")]
    Refused(String),
    /// What came is no message.
    #[error("the bus sent what is no message")]
    Malformed,
    /// The other side has answered with an error.
    #[error("{name}: {text}")]
    Answer { name: String, text: String },
}

/// A connection to a bus.
#[derive(Debug)]
pub(super) struct Bus {
    stream: UnixStream,
    serial: u32,
    /// Signals that came while an answer was waited for.
    signals: Vec<Message>,
}

impl Bus {
    /// Connects as this user and makes itself known.
    pub(super) fn connect(socket: &Path) -> Result<Self, BusError> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let user = nix::unistd::geteuid().to_string();
        let user: String = user.bytes().map(|digit| format!("{digit:02x}")).collect();
        stream.write_all(format!("\0AUTH EXTERNAL {user}\r\n").as_bytes())?;
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") && line.len() < 1024 {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            line.extend(byte);
        }
        if !line.starts_with(b"OK ") {
            let said = String::from_utf8_lossy(&line).trim().to_owned();
            return Err(BusError::Refused(said));
        }
        stream.write_all(b"BEGIN\r\n")?;
        let mut bus = Self {
            stream,
            serial: 0,
            signals: Vec::new(),
        };
        bus.call(BUS, "Hello", "", Body::default())?;
        Ok(bus)
    }

    /// Asks for signals that match a rule.
    pub(super) fn listen(&mut self, rule: &str) -> Result<(), BusError> {
        let mut body = Body::default();
        body.text(rule);
        self.call(BUS, "AddMatch", "s", body).map(drop)
    }

    /// Calls a method and waits for the answer.
    pub(super) fn call(
        &mut self,
        target: Target,
        member: &str,
        signature: &str,
        body: Body,
    ) -> Result<Message, BusError> {
        self.serial += 1;
        let message = encode(self.serial, target, member, signature, body);
        self.stream.write_all(&message)?;
        loop {
            let message = self.receive()?;
            match message.kind {
                ANSWER if message.answers == self.serial => return Ok(message),
                ERROR if message.answers == self.serial => {
                    return Err(BusError::Answer {
                        // The text is the first value where there is one.
                        text: message.texts("s").unwrap_or_default().concat(),
                        name: message.error,
                    });
                }
                SIGNAL => self.signals.push(message),
                _ => {}
            }
        }
    }

    /// The next signal of this name.
    pub(super) fn signal(&mut self, member: &str) -> Result<Message, BusError> {
        loop {
            let message = match self.signals.is_empty() {
                true => self.receive()?,
                false => self.signals.remove(0),
            };
            if message.kind == SIGNAL && message.member == member {
                return Ok(message);
            }
        }
    }

    fn receive(&mut self) -> Result<Message, BusError> {
        let mut header = [0; 16];
        self.stream.read_exact(&mut header)?;
        let number = |at: usize| {
            let bytes = [header[at], header[at + 1], header[at + 2], header[at + 3]];
            usize::try_from(u32::from_le_bytes(bytes)).unwrap_or(usize::MAX)
        };
        let (body, fields) = (number(4), number(12));
        // A bus passes messages on as they are, but nobody here sends another byte order.
        if header[0] != b'l' || body > LONGEST || fields > LONGEST {
            return Err(BusError::Malformed);
        }
        let mut rest = vec![0; fields.next_multiple_of(8) + body];
        self.stream.read_exact(&mut rest)?;
        let body = rest.split_off(fields.next_multiple_of(8));
        decode(header[1], &rest[..fields], body).ok_or(BusError::Malformed)
    }
}

const BUS: Target = Target {
    destination: "org.freedesktop.DBus",
    path: "/org/freedesktop/DBus",
    interface: "org.freedesktop.DBus",
};

#[cfg(test)]
pub(super) mod tests {
    pub(in super::super) use super::message::tests::{answer, error, job_removed};
}
