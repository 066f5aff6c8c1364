//! The line that the guest sends when it is ready, and the version check.

use serde::{Deserialize, Serialize};

/// Version of the contract. Host and guest must agree on it exactly: they are built together.
pub const PROTOCOL: u32 = 1;

/// The longest [`Hello`] line that a host reads, in bytes, the newline included.
pub const MAX_LINE: usize = 1024;

/// What the guest says when it can take calls: one line of JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`PROTOCOL`] of the guest.
    pub protocol: u32,
    /// The agent's version, for people.
    pub agent_version: String,
}

/// Why a ready line was refused.
#[derive(Debug, thiserror::Error)]
pub enum HelloError {
    /// The line is not a hello.
    #[error("the guest sent a malformed ready line")]
    Malformed(#[source] serde_json::Error),
    /// Host and guest were not built together.
    #[error(
        "the guest speaks protocol {guest} (agent {agent_version}), this host {PROTOCOL}: rebuild the guest"
    )]
    Version {
        /// The guest's protocol.
        guest: u32,
        /// The guest's agent version.
        agent_version: String,
    },
}

impl Hello {
    /// This build's hello.
    #[must_use]
    pub fn current() -> Self {
        Self {
            protocol: PROTOCOL,
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// The line to send, newline included.
    #[must_use]
    pub fn to_line(&self) -> String {
        let mut line = serde_json::to_string(self).expect("a struct of plain fields encodes");
        line.push('\n');
        line
    }

    /// Reads a line (with or without its newline) and checks the version.
    ///
    /// # Errors
    /// When the line is no hello, or the guest speaks another protocol.
    pub fn parse(line: &[u8]) -> Result<Self, HelloError> {
        let hello: Self = serde_json::from_slice(line).map_err(HelloError::Malformed)?;
        if hello.protocol != PROTOCOL {
            return Err(HelloError::Version {
                guest: hello.protocol,
                agent_version: hello.agent_version,
            });
        }
        Ok(hello)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hello_survives_its_line() {
        let hello = Hello::current();
        assert_eq!(Hello::parse(hello.to_line().as_bytes()).unwrap(), hello);
    }

    #[test]
    fn another_protocol_is_refused() {
        let line = br#"{"protocol":999,"agent_version":"9.9"}"#;
        assert!(matches!(
            Hello::parse(line),
            Err(HelloError::Version { guest: 999, .. })
        ));
    }

    #[test]
    fn garbage_is_refused() {
        assert!(matches!(
            Hello::parse(b"\xff\x00"),
            Err(HelloError::Malformed(_))
        ));
    }
}
