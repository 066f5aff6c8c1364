//! Moving a process's streams between its pipes or terminal and the host.
//!
//! Back pressure is the kernel's: a stream is only read when the other side can take it. A
//! connection that breaks leaves its stream waiting for another one, so that nothing that a process
//! wrote is lost while the host's side starts again.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{Shutdown, shutdown};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use crate::stdio::Connection;
use crate::sys::check;
use crate::sys::event::register;

mod terminal;

pub(crate) use terminal::Terminal;

/// Bytes that a pipe can hold. What it does not hold takes no memory.
const PIPE_SIZE: i32 = 1 << 20;
/// Bytes moved at a time: of output, all that a pipe can hold; of input less, as the kernel takes
/// memory for so much before it looks how much there is.
const OUTPUT_CHUNK: usize = 1 << 20;
const INPUT_CHUNK: usize = 64 << 10;

/// Connections for one stream: the first, and those that take the place of broken ones.
pub(crate) type Connections = mpsc::Receiver<Connection>;

/// One direction of a pipe: the end that the process gets, and ours.
#[derive(Debug)]
pub(crate) struct PipeEnds {
    pub(crate) process: OwnedFd,
    pub(crate) ours: AsyncFd<OwnedFd>,
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    // Less than wished for still works.
    if let Err(errno) = fcntl(&read, FcntlArg::F_SETPIPE_SZ(PIPE_SIZE)) {
        log::debug!("a pipe keeps its size: {errno}");
    }
    Ok((read, write))
}

fn not_blocking(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    fcntl(&fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    register(fd)
}

/// A pipe that the process reads.
pub(crate) fn input_pipe() -> io::Result<PipeEnds> {
    let (read, write) = pipe()?;
    Ok(PipeEnds {
        process: read,
        ours: not_blocking(write)?,
    })
}

/// A pipe that the process writes.
pub(crate) fn output_pipe() -> io::Result<PipeEnds> {
    let (read, write) = pipe()?;
    Ok(PipeEnds {
        process: write,
        ours: not_blocking(read)?,
    })
}

/// What a process writes to a pipe.
#[derive(Debug)]
pub(crate) struct PipeOutput {
    pipe: AsyncFd<OwnedFd>,
    sent: AtomicU64,
}

impl PipeOutput {
    pub(crate) fn new(pipe: AsyncFd<OwnedFd>) -> Arc<Self> {
        Arc::new(Self {
            pipe,
            sent: AtomicU64::new(0),
        })
    }

    /// Bytes written so far: sent and still in the pipe.
    pub(crate) fn written(&self) -> u64 {
        self.sent.load(Ordering::Relaxed) + u64::from(bytes_waiting(&self.pipe))
    }

    /// Sends until the last writer has closed the pipe, then closes the stream.
    pub(crate) async fn relay(self: Arc<Self>, mut connections: Connections) {
        while let Some(connection) = connections.recv().await {
            match transfer(&self.pipe, &connection, OUTPUT_CHUNK, &self.sent).await {
                Ok(()) => {
                    finish(&connection);
                    return;
                }
                Err(error) => log::warn!("an output stream broke: {error}"),
            }
        }
    }
}

/// Tells the host that a stream is at its end.
fn finish(connection: &Connection) {
    match shutdown(connection.as_raw_fd(), Shutdown::Both) {
        // The host may have closed first.
        Ok(()) | Err(Errno::ENOTCONN) => {}
        Err(errno) => log::warn!("cannot end a stream: {errno}"),
    }
}

/// Feeds a pipe that a process reads, until the host says that this is all or nobody reads any
/// more. Dropping the pipe is what tells the process.
pub(crate) async fn relay_input(pipe: AsyncFd<OwnedFd>, mut connections: Connections) {
    let received = AtomicU64::new(0);
    while let Some(connection) = connections.recv().await {
        match transfer(&connection, &pipe, INPUT_CHUNK, &received).await {
            // End of file.
            Ok(()) => return,
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                finish(&connection);
                return;
            }
            Err(error) => log::warn!("an input stream broke: {error}"),
        }
    }
}

/// Moves bytes, one side of which is a pipe, to the end of `from`.
async fn transfer(
    from: &AsyncFd<OwnedFd>,
    to: &AsyncFd<OwnedFd>,
    chunk: usize,
    moved: &AtomicU64,
) -> io::Result<()> {
    loop {
        let mut source = from.readable().await?;
        let mut target = to.writable().await?;
        let flags = SpliceFFlags::SPLICE_F_NONBLOCK | SpliceFFlags::SPLICE_F_MOVE;
        match splice(from.as_fd(), None, to.as_fd(), None, chunk, flags) {
            Ok(0) => return Ok(()),
            Ok(count) => {
                moved.fetch_add(count as u64, Ordering::Relaxed);
            }
            Err(Errno::EINTR) => {}
            // Either side may be what is not ready.
            Err(Errno::EAGAIN) => {
                if !is_ready(to, PollFlags::POLLOUT)? {
                    target.clear_ready();
                } else if !is_ready(from, PollFlags::POLLIN)? {
                    source.clear_ready();
                } else {
                    tokio::task::yield_now().await;
                }
            }
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Whether a call would not block; errors and hang-ups count, for the call will report them.
fn is_ready(fd: &AsyncFd<OwnedFd>, wanted: PollFlags) -> io::Result<bool> {
    let mut fds = [PollFd::new(fd.as_fd(), wanted)];
    loop {
        match poll(&mut fds, PollTimeout::ZERO) {
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
            Ok(ready) => return Ok(ready > 0),
        }
    }
}

/// Bytes that can be read at once.
fn bytes_waiting(fd: &AsyncFd<OwnedFd>) -> u32 {
    let mut count: libc::c_int = 0;
    // SAFETY: FIONREAD writes an int, which lives through the call.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::FIONREAD, &raw mut count) };
    match check(result.into()) {
        Ok(_) => count.cast_unsigned(),
        Err(error) => {
            log::warn!("cannot count what a pipe holds: {error}");
            0
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    fn connection() -> (Connection, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        (register(ours.into()).unwrap(), theirs)
    }

    #[tokio::test]
    async fn output_is_counted_relayed_and_ended() {
        let PipeEnds { process, ours } = output_pipe().unwrap();
        let output = PipeOutput::new(ours);
        let mut writer = std::fs::File::from(process);
        writer.write_all(b"hello").unwrap();
        assert_eq!(output.written(), 5);
        drop(writer);
        let (connection, mut host) = connection();
        let (sender, receiver) = mpsc::channel(1);
        sender.send(connection).await.unwrap();
        Arc::clone(&output).relay(receiver).await;
        let mut text = String::new();
        host.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
        assert_eq!(output.written(), 5);
    }

    #[tokio::test]
    async fn much_output_arrives_whole_and_in_order() {
        const TOTAL: usize = 8 << 20;
        let PipeEnds { process, ours } = output_pipe().unwrap();
        let output = PipeOutput::new(ours);
        let data: Vec<u8> = (0..=250).cycle().take(TOTAL).collect();
        let expected = data.clone();
        let writer = std::thread::spawn(move || {
            std::fs::File::from(process).write_all(&data).unwrap();
        });
        let (connection, mut host) = connection();
        let reader = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            host.read_to_end(&mut bytes).unwrap();
            bytes
        });
        let (sender, receiver) = mpsc::channel(1);
        sender.send(connection).await.unwrap();
        Arc::clone(&output).relay(receiver).await;
        writer.join().unwrap();
        assert!(reader.join().unwrap() == expected);
        assert_eq!(output.written(), TOTAL as u64);
    }

    #[tokio::test]
    async fn a_broken_stream_waits_for_another_connection() {
        let PipeEnds { process, ours } = output_pipe().unwrap();
        let output = PipeOutput::new(ours);
        let (broken, host) = connection();
        drop(host);
        let (sender, receiver) = mpsc::channel(2);
        sender.send(broken).await.unwrap();
        let mut writer = std::fs::File::from(process);
        writer.write_all(b"kept").unwrap();
        drop(writer);
        let (second, mut host) = connection();
        sender.send(second).await.unwrap();
        output.relay(receiver).await;
        let mut text = String::new();
        host.read_to_string(&mut text).unwrap();
        assert_eq!(text, "kept");
    }

    #[tokio::test]
    async fn end_of_input_closes_the_pipe() {
        let PipeEnds { process, ours } = input_pipe().unwrap();
        let (connection, mut host) = connection();
        host.write_all(b"words").unwrap();
        host.shutdown(std::net::Shutdown::Write).unwrap();
        let (sender, receiver) = mpsc::channel(1);
        sender.send(connection).await.unwrap();
        relay_input(ours, receiver).await;
        let mut text = String::new();
        std::fs::File::from(process)
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, "words");
    }

    #[tokio::test]
    async fn input_that_nobody_reads_ends_the_stream() {
        let PipeEnds { process, ours } = input_pipe().unwrap();
        drop(process);
        let (connection, mut host) = connection();
        host.write_all(b"unread").unwrap();
        let (sender, receiver) = mpsc::channel(1);
        sender.send(connection).await.unwrap();
        relay_input(ours, receiver).await;
        let mut rest = Vec::new();
        assert_eq!(host.read_to_end(&mut rest).unwrap_or(0), 0);
    }
}
