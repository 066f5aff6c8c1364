//! This process's streams, as those of a process in a guest.
//!
//! A pipe is opened by the pod process itself, through this process's entry in `/proc`: no byte passes through
//! here. Anything else (a terminal, a file, a socket) gets a pipe, and what is in it is passed on.

use std::fs::File as StdFile;
use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::sync::Arc;

use hull_sandbox::stdio::StdioConfig;
use nix::sys::stat::{SFlag, fstat, major, minor};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::{Terminal, own_proc};

/// Bytes moved at once: what a pipe holds.
const BUFFER_BYTES: usize = 64 << 10;
/// How the pod process is told to open a pipe.
const PIPE: &str = "pipe";

/// The streams.
#[derive(Debug)]
pub(crate) struct Streams {
    /// This process in the host's `/proc`.
    own: PathBuf,
    config: StdioConfig,
    /// The ends that the pod process opens.
    offered: Vec<OwnedFd>,
    outputs: Vec<JoinHandle<()>>,
    finish: Arc<Notify>,
}

/// What a descriptor is.
#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Nothing,
    Pipe,
    Other,
}

fn kind(fd: BorrowedFd<'_>) -> Kind {
    /// /dev/null.
    const NULL: (u64, u64) = (1, 3);
    let Ok(found) = fstat(fd) else {
        // Closed, as it is for who gives none.
        return Kind::Nothing;
    };
    let file_type = SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT;
    match file_type {
        SFlag::S_IFIFO => Kind::Pipe,
        SFlag::S_IFCHR if (major(found.st_rdev), minor(found.st_rdev)) == NULL => Kind::Nothing,
        _ => Kind::Other,
    }
}

impl Streams {
    /// Descriptors 0 to 2, with a terminal 0 and 1. To be called within the runtime that relays them.
    ///
    /// # Errors
    /// When there can be no more descriptors.
    pub(crate) fn of_process(terminal: &Terminal) -> io::Result<Self> {
        // What is written to the caller's own terminal gets its carriage returns there.
        let scheme = match terminal {
            Terminal::Own => "terminal",
            Terminal::None | Terminal::For(_) => PIPE,
        };
        let terminal = terminal.is_given();
        let mut streams = Self {
            own: own_proc()?,
            config: StdioConfig {
                terminal,
                ..StdioConfig::default()
            },
            offered: Vec::new(),
            outputs: Vec::new(),
            finish: Arc::default(),
        };
        streams.config.stdin = streams.input()?;
        streams.config.stdout = streams.output(scheme, io::stdout().as_fd())?;
        if !terminal {
            streams.config.stderr = streams.output(scheme, io::stderr().as_fd())?;
        }
        Ok(streams)
    }

    /// Where the process's streams shall lead.
    pub(crate) fn config(&self) -> &StdioConfig {
        &self.config
    }

    /// How the pod process names a descriptor of this process: by a pipe's scheme, or by `terminal`.
    fn uri(&self, scheme: &str, fd: RawFd) -> String {
        format!("{scheme}://{}/fd/{fd}", self.own.display())
    }

    fn input(&mut self) -> io::Result<String> {
        let stdin = io::stdin();
        match kind(stdin.as_fd()) {
            Kind::Nothing => Ok(String::new()),
            Kind::Pipe => Ok(self.uri(PIPE, stdin.as_raw_fd())),
            Kind::Other => {
                let (theirs, ours) = io::pipe()?;
                let from = StdFile::from(stdin.as_fd().try_clone_to_owned()?);
                tokio::spawn(relay_input(File::from_std(from), sender(ours)?));
                Ok(self.offer(PIPE, theirs))
            }
        }
    }

    fn output(&mut self, scheme: &str, fd: BorrowedFd<'_>) -> io::Result<String> {
        match kind(fd) {
            Kind::Nothing => Ok(String::new()),
            Kind::Pipe => Ok(self.uri(scheme, fd.as_raw_fd())),
            Kind::Other => {
                let (ours, theirs) = io::pipe()?;
                let to = StdFile::from(fd.try_clone_to_owned()?);
                let finish = Arc::clone(&self.finish);
                let relay = relay_output(receiver(ours)?, File::from_std(to), finish);
                self.outputs.push(tokio::spawn(relay));
                Ok(self.offer(scheme, theirs))
            }
        }
    }

    fn offer(&mut self, scheme: &str, end: impl Into<OwnedFd>) -> String {
        let end = end.into();
        let name = self.uri(scheme, end.as_raw_fd());
        self.offered.push(end);
        name
    }

    /// The pod process has opened its ends: from now on they are its own, so that their end is seen.
    pub(crate) fn are_opened(&mut self) {
        self.offered.clear();
    }

    /// Completes when the output is written that was passed on until now.
    pub(crate) async fn finish(mut self) {
        self.are_opened();
        for output in self.outputs {
            // Kept for who comes to wait.
            self.finish.notify_one();
            // It does not panic.
            let _ = output.await;
        }
    }
}

fn sender(end: PipeWriter) -> io::Result<pipe::Sender> {
    pipe::Sender::from_owned_fd(end.into())
}

fn receiver(end: PipeReader) -> io::Result<pipe::Receiver> {
    pipe::Receiver::from_owned_fd(end.into())
}

async fn relay_input(mut from: File, mut to: pipe::Sender) {
    let mut buffer = vec![0; BUFFER_BYTES];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

/// Until the pipe ends, or until it is empty when it shall `finish`: a process that was left behind may hold
/// the other end for long.
async fn relay_output(mut from: pipe::Receiver, mut to: File, finish: Arc<Notify>) {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut finishing = false;
    loop {
        let read = match finishing {
            // What tokio knows of the pipe may be older than the last write.
            true => nix::unistd::read(&from, &mut buffer).map_err(io::Error::from),
            false => tokio::select! {
                biased;
                read = from.read(&mut buffer) => read,
                () = finish.notified() => {
                    finishing = true;
                    continue;
                }
            },
        };
        let Ok(count @ 1..) = read else {
            return;
        };
        let written = to.write_all(&buffer[..count]).await;
        if written.is_err() || to.flush().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_told_apart() {
        let (reader, writer) = io::pipe().unwrap();
        assert_eq!(kind(reader.as_fd()), Kind::Pipe);
        assert_eq!(kind(writer.as_fd()), Kind::Pipe);
        let null = StdFile::open("/dev/null").unwrap();
        assert_eq!(kind(null.as_fd()), Kind::Nothing);
        let zero = StdFile::open("/dev/zero").unwrap();
        assert_eq!(kind(zero.as_fd()), Kind::Other);
    }

    #[tokio::test]
    async fn output_is_written_though_the_pipe_is_held_open() {
        let mut file = tempfile::tempfile().unwrap();
        let (from, held) = io::pipe().unwrap();
        std::io::Write::write_all(&mut &held, b"all of it").unwrap();
        let finish = Arc::new(Notify::new());
        finish.notify_one();
        let to = File::from_std(file.try_clone().unwrap());
        relay_output(receiver(from).unwrap(), to, finish).await;
        let mut written = String::new();
        std::io::Seek::rewind(&mut file).unwrap();
        std::io::Read::read_to_string(&mut file, &mut written).unwrap();
        assert_eq!(written, "all of it");
    }
}
