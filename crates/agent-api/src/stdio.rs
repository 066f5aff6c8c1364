//! The handshake of a stdio stream.
//!
//! The host dials [`ports::STDIO`](crate::ports::STDIO) and sends `hull-stdio <token>\n`. The guest
//! parks the connection under the token and answers `ok\n`; from then on the connection carries the
//! stream's bytes only. The host names the token in `CreateContainer` or `ExecProcess` *after* the
//! answer, so a process never starts before its streams are there. A stream that no process claims
//! ends with the sandbox.
//!
//! - stdin: host to guest; the host shuts its writing side down to say end of file. A connection
//!   that it closes says the same. The guest closes it when the process has ended or reads no more.
//! - stdout, stderr: guest to host; the guest closes at end of file, which other processes that
//!   have the stream open put off past the exit. Who does not read holds the process up once its
//!   pipe (1 MiB) and the connection are full, and so does a connection that broke, until
//!   `AttachStdio` brings another.
//! - a terminal uses one stdin and one stdout connection for the two directions.

/// The first word of a handshake.
pub const MAGIC: &str = "hull-stdio ";
/// The guest's answer.
pub const ACCEPTED: &[u8] = b"ok\n";
/// The longest token, in bytes.
pub const MAX_TOKEN: usize = 64;
/// The longest handshake, in bytes, newline included.
pub const MAX_LINE: usize = MAGIC.len() + MAX_TOKEN + 1;

/// Why a handshake was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// Not `hull-stdio …`.
    #[error("a stdio stream does not start with its handshake")]
    Magic,
    /// The token is empty, too long, or not lower-case hexadecimal.
    #[error("a stdio stream has a malformed token")]
    Token,
}

/// The line that opens the stream `token`.
///
/// # Errors
/// When the token is empty, longer than [`MAX_TOKEN`] or not lower-case hexadecimal.
pub fn handshake(token: &str) -> Result<String, HandshakeError> {
    check(token)?;
    Ok(format!("{MAGIC}{token}\n"))
}

/// The token in a handshake line (without its newline).
///
/// # Errors
/// When the line is not a handshake.
pub fn parse(line: &[u8]) -> Result<&str, HandshakeError> {
    let line = std::str::from_utf8(line).map_err(|_| HandshakeError::Magic)?;
    let token = line.strip_prefix(MAGIC).ok_or(HandshakeError::Magic)?;
    check(token)?;
    Ok(token)
}

fn check(token: &str) -> Result<(), HandshakeError> {
    let valid = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if token.is_empty() || token.len() > MAX_TOKEN || !token.bytes().all(valid) {
        return Err(HandshakeError::Token);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handshake_carries_its_token() {
        let line = handshake("0123abcdef").unwrap();
        assert_eq!(parse(line.trim_end().as_bytes()), Ok("0123abcdef"));
    }

    #[test]
    fn bad_tokens_are_refused() {
        for token in ["", "xyz", "AB", "a b", &"a".repeat(MAX_TOKEN + 1)] {
            assert_eq!(handshake(token), Err(HandshakeError::Token), "{token}");
        }
        assert_eq!(parse(b"GET / HTTP/1.1"), Err(HandshakeError::Magic));
        assert_eq!(parse(b"\xff\xfe"), Err(HandshakeError::Magic));
    }
}
