//! The line by which a host program asks for a port of the guest.

/// The longest line: `CONNECT 4294967295\n`.
pub const MAX_LINE: usize = 19;

/// What the first bytes of a connection say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Greeting {
    /// The line is not complete yet.
    Incomplete,
    /// A port of the guest is asked for.
    Connect {
        /// The port.
        port: u32,
        /// The length of the line, newline included, in bytes. What follows is for the guest.
        len: usize,
    },
    /// Anything else.
    Invalid,
}

/// Reads the first bytes of a connection.
#[must_use]
pub fn parse(bytes: &[u8]) -> Greeting {
    let Some(end) = bytes.iter().take(MAX_LINE).position(|&byte| byte == b'\n') else {
        if bytes.len() >= MAX_LINE {
            return Greeting::Invalid;
        }
        return Greeting::Incomplete;
    };
    match bytes[..end].strip_prefix(b"CONNECT ").and_then(decimal) {
        Some(port) => Greeting::Connect { port, len: end + 1 },
        None => Greeting::Invalid,
    }
}

/// The answer once the guest has accepted.
#[must_use]
pub fn accepted(host_port: u32) -> String {
    format!("OK {host_port}\n")
}

fn decimal(digits: &[u8]) -> Option<u32> {
    // The standard parser would take a sign too.
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_up_to_its_newline() {
        let connect = |port, len| Greeting::Connect { port, len };
        assert_eq!(parse(b"CONNECT 1024\n"), connect(1024, 13));
        assert_eq!(parse(b"CONNECT 1\nGET /"), connect(1, 10));
        assert_eq!(parse(b"CONNECT 4294967295\n"), connect(u32::MAX, MAX_LINE));
    }

    #[test]
    fn every_beginning_of_a_line_waits_for_more() {
        let line = b"CONNECT 4294967295\n";
        for len in 0..line.len() {
            assert_eq!(parse(&line[..len]), Greeting::Incomplete, "{len} bytes");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        let lines: [&[u8]; 9] = [
            b"\n",
            b"CONNECT\n",
            b"CONNECT \n",
            b"CONNECT +1\n",
            b"CONNECT -1\n",
            b"CONNECT 4294967296\n",
            b"connect 1\n",
            b"CONNECT 1 \n",
            b"CONNECT 00000000000000000000001\n",
        ];
        for line in lines {
            assert_eq!(parse(line), Greeting::Invalid, "{}", line.escape_ascii());
        }
    }
}
