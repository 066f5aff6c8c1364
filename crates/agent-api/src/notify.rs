//! What programs tell a service manager (`sd_notify(3)`): what the stdio connection of a container's notification
//! socket carries. Each datagram is its length (u16, big endian) and its bytes.

/// The longest datagram, in bytes: longer ones are not systemd's either.
pub const MAX_DATAGRAM: usize = 4096;

/// A datagram as it travels; nothing when it is too long.
#[must_use]
pub fn frame(datagram: &[u8]) -> Option<Vec<u8>> {
    let length = u16::try_from(datagram.len()).ok()?;
    if datagram.len() > MAX_DATAGRAM {
        return None;
    }
    let mut frame = length.to_be_bytes().to_vec();
    frame.extend(datagram);
    Some(frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_travels_with_its_length() {
        assert_eq!(frame(b"READY=1").unwrap(), b"\0\x07READY=1");
        assert!(frame(&[b'x'; MAX_DATAGRAM]).is_some());
        assert_eq!(frame(&[b'x'; MAX_DATAGRAM + 1]), None);
    }
}
