//! A terminal's two directions.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::{read, write};
use tokio::io::unix::AsyncFd;

use super::{Connections, finish};
use crate::helper::{TerminalSize, resize_terminal};
use crate::stdio::Connection;
use crate::sys::event::register;

/// What the kernel gives at a time.
const CHUNK: usize = 4096;
/// Bytes that are taken from a terminal whose process has ended. The kernel holds less; only other
/// processes that still write make more.
const MAX_DRAINED: usize = 1 << 20;

/// The controlling side of a terminal.
#[derive(Debug)]
pub(crate) struct Terminal {
    main: AsyncFd<OwnedFd>,
    output: Mutex<Output>,
}

#[derive(Debug, Default)]
struct Output {
    /// Read and not sent yet.
    pending: VecDeque<u8>,
    /// Bytes read in all.
    read: u64,
    ended: bool,
}

impl Terminal {
    pub(crate) fn new(main: OwnedFd) -> io::Result<Arc<Self>> {
        fcntl(&main, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok(Arc::new(Self {
            main: register(main)?,
            output: Mutex::default(),
        }))
    }

    pub(crate) fn resize(&self, size: TerminalSize) -> io::Result<()> {
        resize_terminal(self.main.get_ref(), size)
    }

    fn output(&self) -> MutexGuard<'_, Output> {
        // Nothing panics while it is held.
        self.output.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes written so far, all of which are taken from the kernel first: it does not tell how
    /// many it holds.
    pub(crate) fn written(&self) -> u64 {
        let mut output = self.output();
        let limit = output.pending.len() + MAX_DRAINED;
        while output.pending.len() < limit {
            match self.take(&mut output) {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
        }
        output.read
    }

    /// Reads once. Ok(0) is the end: all processes have closed the terminal.
    fn take(&self, output: &mut Output) -> nix::Result<usize> {
        if output.ended {
            return Ok(0);
        }
        let mut buffer = [0; CHUNK];
        let count = match read(self.main.get_ref(), &mut buffer) {
            Err(Errno::EIO) => 0,
            other => other?,
        };
        output.ended = count == 0;
        output.read += count as u64;
        output.pending.extend(&buffer[..count]);
        Ok(count)
    }

    /// Sends what the terminal shows until all processes have closed it, then closes the stream.
    pub(crate) async fn relay_output(self: Arc<Self>, mut connections: Connections) {
        while let Some(connection) = connections.recv().await {
            match self.send_to(&connection).await {
                Ok(()) => {
                    finish(&connection);
                    return;
                }
                Err(error) => log::warn!("a terminal's output stream broke: {error}"),
            }
        }
    }

    /// Takes what the terminal shows, so that nobody waits who writes to it, and drops it.
    pub(crate) async fn discard_output(self: Arc<Self>) {
        loop {
            let Ok(mut guard) = self.main.readable().await else {
                return;
            };
            let taken = self.take(&mut self.output());
            self.output().pending.clear();
            match taken {
                Ok(0) => return,
                Ok(_) | Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => guard.clear_ready(),
                Err(errno) => {
                    log::warn!("cannot read a terminal: {errno}");
                    return;
                }
            }
        }
    }

    async fn send_to(&self, connection: &Connection) -> io::Result<()> {
        loop {
            self.send_pending(connection).await?;
            let mut guard = self.main.readable().await?;
            let taken = self.take(&mut self.output());
            match taken {
                Ok(0) => return self.send_pending(connection).await,
                Ok(_) | Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => guard.clear_ready(),
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    async fn send_pending(&self, connection: &Connection) -> io::Result<()> {
        while !self.output().pending.is_empty() {
            let mut guard = connection.writable().await?;
            let mut output = self.output();
            let (bytes, _) = output.pending.as_slices();
            match write(connection.get_ref(), bytes) {
                Ok(count) => {
                    output.pending.drain(..count);
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => guard.clear_ready(),
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// Types what the host sends. The end of the stream is no end of file: that is a character.
    pub(crate) async fn relay_input(self: Arc<Self>, mut connections: Connections) {
        while let Some(connection) = connections.recv().await {
            if let Err(error) = self.receive_from(&connection).await {
                log::warn!("a terminal's input stream broke: {error}");
            }
        }
    }

    async fn receive_from(&self, connection: &Connection) -> io::Result<()> {
        let mut buffer = [0; CHUNK];
        loop {
            let mut guard = connection.readable().await?;
            match read(connection.get_ref(), &mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => self.type_in(&buffer[..count]).await?,
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => guard.clear_ready(),
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    async fn type_in(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let mut guard = self.main.writable().await?;
            match write(self.main.get_ref(), bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => guard.clear_ready(),
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn what_was_written_before_the_end_is_counted_and_sent() {
        let pty = nix::pty::openpty(None, None).unwrap();
        let terminal = Terminal::new(pty.master).unwrap();
        write(&pty.slave, b"one\ntwo\n").unwrap();
        drop(pty.slave);
        // The terminal writes "\r\n" for each newline.
        assert_eq!(terminal.written(), 10);
        let (ours, mut host) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let (sender, receiver) = mpsc::channel(1);
        let connection = register(ours.into()).unwrap();
        sender.send(connection).await.unwrap();
        terminal.relay_output(receiver).await;
        let mut text = String::new();
        host.read_to_string(&mut text).unwrap();
        assert_eq!(text, "one\r\ntwo\r\n");
    }
}
