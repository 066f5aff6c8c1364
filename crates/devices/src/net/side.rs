//! The two ends of a link: how frames come out of each, and how they go in.
//!
//! Within the relay a frame is always a message: its length comes first (four bytes, big endian), as on a stream.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv, send};

/// Bytes before a frame.
pub(super) const LENGTH: usize = 4;
/// The longest frame, bytes: 64 KiB of packet and an Ethernet header with a VLAN tag.
pub(super) const MAX_FRAME: usize = 65535 + 18;
/// Bytes that one read takes at most.
const BUFFER: usize = 256 * 1024;

/// One end of the link.
#[derive(Debug)]
pub enum Side {
    /// A stream socket, which carries each frame after its length (four bytes, big endian).
    Stream(UnixStream),
    /// A packet socket that is bound to an interface (`packet(7)`), or another one that carries a frame as a
    /// datagram. As in any network, frames are lost that find no room, or are longer than the interface can carry.
    Packets(OwnedFd),
}

/// What came out of a side.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next<'a> {
    /// A frame, with its length before it.
    Message(&'a [u8]),
    /// Bytes that are no frame, as they say that it has this length.
    TooLong(usize),
    /// Nothing, and there will be no more.
    End,
}

impl Side {
    /// Sends a message.
    pub(super) fn send(&self, message: &[u8]) -> io::Result<()> {
        match self {
            // One write for each: some versions of passt lose their place when a read ends within a
            // frame's length, and a write's bytes stay together.
            Self::Stream(socket) => (&mut &*socket).write_all(message),
            Self::Packets(socket) => {
                // Whoever waited for a guest that does not read would wait for ever.
                let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
                match send(socket.as_raw_fd(), &message[LENGTH..], flags) {
                    Ok(_) => Ok(()),
                    // No room, too long for the interface, or too short for an Ethernet frame.
                    Err(Errno::EAGAIN | Errno::ENOBUFS | Errno::EMSGSIZE | Errno::EINVAL) => Ok(()),
                    Err(error) => Err(error.into()),
                }
            }
        }
    }

    /// Ends the link for whoever is at the other end, and for the reader of this one. A packet socket has nobody to be
    /// told, and its [`Reader`] watches the other side.
    pub(super) fn hang_up(&self) {
        if let Self::Stream(socket) = self {
            // Fails only if that side is gone already.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

impl AsFd for Side {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Stream(socket) => socket.as_fd(),
            Self::Packets(socket) => socket.as_fd(),
        }
    }
}

/// That a side has gone is how every pod ends. An interface has when the VMM has closed it.
pub(super) fn has_gone(error: &io::Error) -> bool {
    let gone = [
        Errno::EPIPE,
        Errno::ECONNRESET,
        Errno::ENETDOWN,
        Errno::ENXIO,
    ];
    let number = error.raw_os_error();
    number.is_some_and(|number| gone.contains(&Errno::from_raw(number)))
}

/// Takes one frame after the other out of a side.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    from: &'a Side,
    other: &'a Side,
    buffer: Vec<u8>,
    /// What of the buffer is read and not given out yet.
    start: usize,
    filled: usize,
}

impl<'a> Reader<'a> {
    /// Reads from `from` until that has ended. Where nobody can end it (packets), until `other` has.
    pub(super) fn new(from: &'a Side, other: &'a Side) -> Self {
        Self {
            from,
            other,
            buffer: vec![0; BUFFER],
            start: 0,
            filled: 0,
        }
    }

    /// Waits for the next frame.
    pub(super) fn next(&mut self) -> io::Result<Next<'_>> {
        match self.from {
            Side::Stream(socket) => self.next_of(socket),
            Side::Packets(socket) => self.next_packet(socket),
        }
    }

    fn next_of(&mut self, mut stream: &UnixStream) -> io::Result<Next<'_>> {
        loop {
            let unread = &self.buffer[self.start..self.filled];
            if let Some(length) = unread.first_chunk::<LENGTH>() {
                let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
                if length > MAX_FRAME {
                    return Ok(Next::TooLong(length));
                }
                let end = self.start + LENGTH + length;
                if end <= self.filled {
                    let message = &self.buffer[self.start..end];
                    self.start = end;
                    return Ok(Next::Message(message));
                }
            }
            self.buffer.copy_within(self.start..self.filled, 0);
            self.filled -= self.start;
            self.start = 0;
            match stream.read(&mut self.buffer[self.filled..]) {
                Ok(0) => return Ok(Next::End),
                Ok(read) => self.filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn next_packet(&mut self, socket: &OwnedFd) -> io::Result<Next<'_>> {
        loop {
            let mut ready = [
                PollFd::new(socket.as_fd(), PollFlags::POLLIN),
                // Its end is told without being asked for.
                PollFd::new(self.other.as_fd(), PollFlags::empty()),
            ];
            match poll(&mut ready, PollTimeout::NONE) {
                Ok(_) => {}
                Err(Errno::EINTR) => continue,
                Err(error) => return Err(error.into()),
            }
            if ready[1].any() != Some(false) {
                return Ok(Next::End);
            }
            // The answer is the frame's length, also of one that does not fit.
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC;
            match recv(socket.as_raw_fd(), &mut self.buffer[LENGTH..], flags) {
                Ok(length) if length > MAX_FRAME => {}
                Ok(length) => {
                    let bytes = u32::try_from(length).expect("it is no more than MAX_FRAME");
                    self.buffer[..LENGTH].copy_from_slice(&bytes.to_be_bytes());
                    return Ok(Next::Message(&self.buffer[..LENGTH + length]));
                }
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
