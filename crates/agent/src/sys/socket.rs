//! Messages with file descriptors over a Unix stream socket.
//!
//! A message is its length (u32, little endian) and that many bytes of JSON; descriptors travel
//! with the length.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Descriptors in one message, at most.
pub(crate) const MAX_FDS: usize = 8;
/// Bytes in one message, at most: a specification is some hundred kilobytes at its largest.
const MAX_LENGTH: usize = 16 << 20;

/// Sends `message` and `fds`.
pub(crate) fn send<T: Serialize>(
    mut socket: &UnixStream,
    message: &T,
    fds: &[RawFd],
) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    let length = u32::try_from(bytes.len())
        .map_err(io::Error::other)?
        .to_le_bytes();
    let rights = [ControlMessage::ScmRights(fds)];
    let control: &[ControlMessage<'_>] = if fds.is_empty() { &[] } else { &rights };
    let sent = sendmsg::<()>(
        socket.as_raw_fd(),
        &[IoSlice::new(&length)],
        control,
        MsgFlags::MSG_NOSIGNAL,
        None,
    )?;
    if sent != length.len() {
        return Err(io::ErrorKind::WriteZero.into());
    }
    socket.write_all(&bytes)
}

/// The next message and its descriptors; `None` when the other side closed between messages.
pub(crate) fn receive<T: DeserializeOwned>(
    mut socket: &UnixStream,
) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut length = [0; 4];
    let mut fds = Vec::new();
    let received = {
        let mut space = nix::cmsg_space!([RawFd; MAX_FDS]);
        let mut parts = [IoSliceMut::new(&mut length)];
        let message = recvmsg::<()>(
            socket.as_raw_fd(),
            &mut parts,
            Some(&mut space),
            MsgFlags::MSG_CMSG_CLOEXEC,
        )?;
        for control in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(raw) = control {
                // SAFETY: the kernel just installed these descriptors for this message.
                fds.extend(
                    raw.into_iter()
                        .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }),
                );
            }
        }
        message.bytes
    };
    if received == 0 {
        return Ok(None);
    }
    socket.read_exact(&mut length[received..])?;
    let length = usize::try_from(u32::from_le_bytes(length)).map_err(io::Error::other)?;
    if length > MAX_LENGTH {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = vec![0; length];
    socket.read_exact(&mut bytes)?;
    Ok(Some((serde_json::from_slice(&bytes)?, fds)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_arrives_with_its_descriptors() {
        let (here, there) = UnixStream::pair().unwrap();
        let file = tempfile::tempfile().unwrap();
        send(&here, &vec!["a", "b"], &[file.as_raw_fd()]).unwrap();
        drop(here);
        let (message, fds) = receive::<Vec<String>>(&there).unwrap().unwrap();
        assert_eq!(message, ["a", "b"]);
        assert_eq!(fds.len(), 1);
        assert!(receive::<Vec<String>>(&there).unwrap().is_none());
    }
}
