//! From this program's standard input to a FIFO.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::fcntl::{SpliceFFlags, splice};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::patience::is_pipe;

/// Bytes moved at once.
const CHUNK: usize = 1 << 20;

/// Starts a thread that relays until the input ends, and then lets go of the FIFO, so that the process
/// sees the end too. It is never waited for: nobody can interrupt a person who thinks.
pub(crate) fn start(from: impl AsFd + Send + 'static, fifo: File) -> io::Result<()> {
    let relay = move || {
        if let Err(error) = pass_on(from.as_fd(), &fifo) {
            eprintln!("hull: cannot read the standard input: {error}");
        }
    };
    std::thread::Builder::new().spawn(relay).map(drop)
}

fn pass_on(from: BorrowedFd<'_>, fifo: &File) -> io::Result<()> {
    if !is_pipe(from)? {
        return copy(from, fifo);
    }
    loop {
        match splice(from, None, fifo, None, CHUNK, SpliceFFlags::SPLICE_F_MOVE) {
            Ok(0) => return Ok(()),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => wait_for(from, PollFlags::POLLIN)?,
            Err(error) => return Err(error.into()),
        }
    }
}

fn copy(from: BorrowedFd<'_>, fifo: &File) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        match nix::unistd::read(from, &mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => write_all(fifo.as_fd(), &buffer[..count])?,
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => wait_for(from, PollFlags::POLLIN)?,
            // The terminal is gone, or belongs to the shell again.
            Err(Errno::EIO) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Writes everything, to a descriptor that may have been made not to block.
fn write_all(to: BorrowedFd<'_>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match nix::unistd::write(to, bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => wait_for(to, PollFlags::POLLOUT)?,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn wait_for(fd: BorrowedFd<'_>, event: PollFlags) -> io::Result<()> {
    match poll(&mut [PollFd::new(fd, event)], PollTimeout::NONE) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;
    use crate::stdio::Fifos;

    #[test]
    fn the_process_sees_all_of_the_input_and_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let mut fifos = Fifos::create(dir.path(), "", true, false).unwrap();
        let mut process = File::open(dir.path().join("stdin")).unwrap();
        let (from, mut to) = io::pipe().unwrap();
        start(from, fifos.stdin.take().unwrap()).unwrap();
        let bytes: Vec<u8> = (0..1_000_000_u32).flat_map(|n| n.to_le_bytes()).collect();
        let sent = bytes.clone();
        let sender = std::thread::spawn(move || to.write_all(&sent).unwrap());
        let mut arrived = Vec::new();
        process.read_to_end(&mut arrived).unwrap();
        sender.join().unwrap();
        assert!(arrived == bytes);
    }
}
