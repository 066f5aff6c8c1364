//! How long a relay waits: for what comes, and for whoever reads what it writes.

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Bytes that are written at once to a file, which never makes anybody wait.
const FILE_CHUNK: usize = 1 << 20;
/// Bytes that a pipe takes without a wait when poll(2) says that it takes any (PIPE_BUF).
const PIPE_CHUNK: usize = 4096;

/// Relays wait for their readers until this is dropped.
#[derive(Debug)]
pub(super) struct Patience {
    _end: PipeWriter,
}

impl Patience {
    /// Patience, and what shows a relay its end.
    pub(super) fn new() -> io::Result<(Self, PipeReader)> {
        let (impatient, end) = io::pipe()?;
        Ok((Self { _end: end }, impatient))
    }
}

/// What ends a relay's waits.
#[derive(Debug)]
pub(super) struct Waits {
    /// Nothing more will come.
    pub(super) told: PipeReader,
    /// Patience has ended.
    pub(super) impatient: PipeReader,
}

impl Waits {
    /// Waits until there is something to read, or until it is known that there will never be.
    pub(super) fn readable(&self, from: &File) -> io::Result<bool> {
        first_or_second(
            PollFd::new(from.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.told.as_fd(), PollFlags::POLLIN),
        )
    }

    /// Waits until something can be written, or until nobody waits for that any more.
    pub(super) fn writable(&self, to: BorrowedFd<'_>) -> io::Result<bool> {
        first_or_second(
            PollFd::new(to, PollFlags::POLLOUT),
            PollFd::new(self.impatient.as_fd(), PollFlags::POLLIN),
        )
    }

    /// Writes everything, or returns false when patience ends before that. The descriptor may have been
    /// made not to block.
    pub(super) fn write_all(&self, to: BorrowedFd<'_>, mut bytes: &[u8]) -> io::Result<bool> {
        let at_once = match file_type(to)? {
            libc::S_IFREG => FILE_CHUNK,
            _ => PIPE_CHUNK,
        };
        while !bytes.is_empty() {
            if !self.writable(to)? {
                return Ok(false);
            }
            match nix::unistd::write(to, &bytes[..bytes.len().min(at_once)]) {
                Ok(count) => bytes = &bytes[count..],
                Err(Errno::EINTR | Errno::EAGAIN) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }
}

/// Waits for either, and tells whether the first has come. Of both, the first counts.
fn first_or_second(first: PollFd<'_>, second: PollFd<'_>) -> io::Result<bool> {
    let mut fds = [first, second];
    loop {
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        if fds[0].any().unwrap_or(false) {
            return Ok(true);
        }
        if fds[1].any().unwrap_or(false) {
            return Ok(false);
        }
    }
}

/// Whether splice(2) may be used between a FIFO and this. Between pipes it moves pages; with anything
/// else it holds the FIFO's lock for as long as the other side takes, so that the pod process at the
/// FIFO's other end would stand still while a person types or a terminal is stopped.
pub(super) fn is_pipe(fd: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(file_type(fd)? == libc::S_IFIFO)
}

fn file_type(fd: BorrowedFd<'_>) -> io::Result<libc::mode_t> {
    Ok(nix::sys::stat::fstat(fd)?.st_mode & libc::S_IFMT)
}
