//! The host's end of a connection: a Unix socket that never blocks.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, Shutdown, SockFlag, SockType, UnixAddr, accept4, connect, recv, send,
    shutdown, socket,
};
use vm_memory::VolatileSlice;

/// Calls on sockets neither wait nor raise a signal.
const FLAGS: libc::c_int = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;

/// A connected Unix socket.
#[derive(Debug)]
pub struct HostStream {
    fd: OwnedFd,
    ended_sending: bool,
    ended_receiving: bool,
}

/// What came out of an attempt to read or write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// So many bytes, at least one.
    Bytes(usize),
    /// Nothing for now.
    Blocked,
    /// Never again: the other side has ended this direction.
    Ended,
}

impl HostStream {
    fn new(fd: OwnedFd) -> Self {
        Self {
            fd,
            ended_sending: false,
            ended_receiving: false,
        }
    }

    /// Connects to the socket at `path`.
    ///
    /// # Errors
    /// When nobody listens there or its queue is full.
    pub fn connect(path: &Path) -> Result<Self, Errno> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
        connect(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
        Ok(Self::new(fd))
    }

    /// The next connection that waits at `listener`.
    ///
    /// # Errors
    /// When none waits, or it cannot be accepted.
    pub fn accept(listener: BorrowedFd<'_>) -> Result<Self, Errno> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = accept4(listener.as_raw_fd(), flags)?;
        // SAFETY: the kernel just made this descriptor for us.
        Ok(Self::new(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Looks at the first bytes without taking them.
    pub fn peek(&self, bytes: &mut [u8]) -> Progress {
        progress(recv(self.fd.as_raw_fd(), bytes, MsgFlags::MSG_PEEK))
    }

    /// Takes `bytes.len()` bytes that were looked at before.
    pub fn take(&self, bytes: &mut [u8]) -> Progress {
        progress(recv(self.fd.as_raw_fd(), bytes, MsgFlags::empty()))
    }

    /// Reads into guest memory.
    pub fn receive(&self, parts: &[VolatileSlice<'_>]) -> Progress {
        let guards: Vec<_> = parts.iter().map(VolatileSlice::ptr_guard_mut).collect();
        let mut pieces: Vec<_> = guards
            .iter()
            .map(|guard| libc::iovec {
                iov_base: guard.as_ptr().cast(),
                iov_len: guard.len(),
            })
            .collect();
        let mut message = message(&mut pieces);
        // SAFETY: the message refers to pieces, and these to guest memory, that outlive the call.
        // Nobody holds Rust references to guest memory, which the guest may change at any time.
        progress(result(unsafe {
            libc::recvmsg(self.fd.as_raw_fd(), &raw mut message, FLAGS)
        }))
    }

    /// Writes from guest memory.
    pub fn send(&self, parts: &[VolatileSlice<'_>]) -> Progress {
        let guards: Vec<_> = parts.iter().map(VolatileSlice::ptr_guard).collect();
        let mut pieces: Vec<_> = guards
            .iter()
            .map(|guard| libc::iovec {
                iov_base: guard.as_ptr().cast_mut().cast(),
                iov_len: guard.len(),
            })
            .collect();
        let message = message(&mut pieces);
        // SAFETY: as for `receive`; the call only reads the memory.
        progress(result(unsafe {
            libc::sendmsg(self.fd.as_raw_fd(), &raw const message, FLAGS)
        }))
    }

    /// Writes from our own memory.
    pub fn send_bytes(&self, bytes: &[u8]) -> Progress {
        progress(send(
            self.fd.as_raw_fd(),
            bytes,
            MsgFlags::from_bits_retain(FLAGS),
        ))
    }

    /// Tells the host's program that no more comes. Once is enough: every call is an event for the
    /// event queue too.
    pub fn end_sending(&mut self) {
        if !std::mem::replace(&mut self.ended_sending, true) {
            self.shut_down(Shutdown::Write);
        }
    }

    /// Tells the host's program that no more is taken.
    pub fn end_receiving(&mut self) {
        if !std::mem::replace(&mut self.ended_receiving, true) {
            self.shut_down(Shutdown::Read);
        }
    }

    fn shut_down(&self, how: Shutdown) {
        // Fails if the other side has gone, and then there is nothing left to end.
        let _ = shutdown(self.fd.as_raw_fd(), how);
    }
}

impl AsFd for HostStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn message(pieces: &mut [libc::iovec]) -> libc::msghdr {
    // SAFETY: all zeros is a valid message header: no name, no pieces, no control data.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = pieces.as_mut_ptr();
    message.msg_iovlen = pieces.len();
    message
}

fn result(value: isize) -> Result<usize, Errno> {
    usize::try_from(value).map_err(|_| Errno::last())
}

fn progress(result: Result<usize, Errno>) -> Progress {
    match result {
        Ok(0) => Progress::Ended,
        Ok(count) => Progress::Bytes(count),
        Err(Errno::EAGAIN) => Progress::Blocked,
        Err(_) => Progress::Ended,
    }
}

/// Makes an inherited socket one that never blocks.
///
/// # Errors
/// When the kernel refuses.
pub fn set_nonblocking(socket: BorrowedFd<'_>) -> io::Result<()> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let flags = OFlag::from_bits_retain(fcntl(socket, FcntlArg::F_GETFL)?);
    fcntl(socket, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}
