//! Questions to a name server that only the host reaches, and its answers: what a stdio connection carries
//! once `ServeNames` has claimed it.
//!
//! Each way is a sequence of frames: a number (u32), the transport (u8), the length (u16), all big endian, and a
//! message of RFC 1035 of that length. The guest asks and chooses the number; the answer has the number of its
//! question, and is empty when the server has none. Answers come in any order.
//!
//! What the guest asks without waiting is left in the connection: the host reads no more than
//! [`MAX_QUESTIONS`] questions ahead of their answers.

/// The port of name servers.
pub const PORT: u16 = 53;
/// Questions over UDP that the guest may have open.
pub const MAX_DATAGRAMS: usize = 24;
/// TCP connections that the guest may have open, with one question each.
pub const MAX_CONNECTIONS: usize = 8;
/// Questions that the host has open, at most.
pub const MAX_QUESTIONS: usize = MAX_DATAGRAMS + MAX_CONNECTIONS;

/// How a program asks, and how the host asks for it: an answer too long for UDP says so by itself, and the
/// program asks again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// One datagram each way.
    Udp,
    /// A connection.
    Tcp,
}

/// What comes before a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Of the question, and of its answer.
    pub number: u32,
    /// Of both as well.
    pub transport: Transport,
    /// Of the message, in bytes.
    pub length: u16,
}

/// Why a frame was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Neither UDP nor TCP.
    #[error("a question or an answer has the unknown transport {0}")]
    Transport(u8),
    /// DNS has no messages of this length.
    #[error("a message of {0} bytes is too long")]
    Length(usize),
}

impl Header {
    /// Bytes of a header.
    pub const LENGTH: usize = 7;

    /// Reads a header.
    ///
    /// # Errors
    /// When the transport is unknown.
    pub fn parse(bytes: [u8; Self::LENGTH]) -> Result<Self, FrameError> {
        let [n0, n1, n2, n3, transport, l0, l1] = bytes;
        let transport = match transport {
            0 => Transport::Udp,
            1 => Transport::Tcp,
            other => return Err(FrameError::Transport(other)),
        };
        Ok(Self {
            number: u32::from_be_bytes([n0, n1, n2, n3]),
            transport,
            length: u16::from_be_bytes([l0, l1]),
        })
    }

    /// The frame of `message`, for one write.
    ///
    /// # Errors
    /// When the message is too long.
    pub fn frame(number: u32, transport: Transport, message: &[u8]) -> Result<Vec<u8>, FrameError> {
        let length = u16::try_from(message.len()).map_err(|_| FrameError::Length(message.len()))?;
        let mut frame = Vec::with_capacity(Self::LENGTH + message.len());
        frame.extend(number.to_be_bytes());
        frame.push(match transport {
            Transport::Udp => 0,
            Transport::Tcp => 1,
        });
        frame.extend(length.to_be_bytes());
        frame.extend(message);
        Ok(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_begins_with_what_its_header_says() {
        for (transport, message) in [
            (Transport::Udp, &b"question"[..]),
            (Transport::Tcp, &[7; 65535]),
            (Transport::Tcp, b""),
        ] {
            let frame = Header::frame(0x0102_0304, transport, message).unwrap();
            let (header, rest) = frame.split_first_chunk().unwrap();
            let header = Header::parse(*header).unwrap();
            assert_eq!((header.number, header.transport), (0x0102_0304, transport));
            assert_eq!(usize::from(header.length), message.len());
            assert_eq!(rest, message);
        }
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        let long = vec![0; 65536];
        let refused = Header::frame(1, Transport::Udp, &long);
        assert_eq!(refused, Err(FrameError::Length(65536)));
        let refused = Header::parse([0, 0, 0, 1, 2, 0, 0]);
        assert_eq!(refused, Err(FrameError::Transport(2)));
    }
}
