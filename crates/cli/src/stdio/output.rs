//! From a FIFO to this program's standard output or error.

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use hull_sandbox::stdio::CriLog;
use nix::errno::Errno;
use nix::fcntl::{SpliceFFlags, splice};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::sync::oneshot;

/// Bytes moved at once.
const CHUNK: usize = 1 << 20;

/// A thread that relays until it is told that nothing more will come.
#[derive(Debug)]
pub(crate) struct OutputRelay {
    thread: JoinHandle<()>,
    last: PipeWriter,
}

impl OutputRelay {
    /// Starts to relay. Where the output cannot be written, `failed` gets the reason and the rest is
    /// read and dropped.
    pub(crate) fn start(
        from: File,
        to: impl AsFd + Send + 'static,
        log: Option<LogCopy>,
        failed: oneshot::Sender<io::Error>,
    ) -> io::Result<Self> {
        let (told, last) = io::pipe()?;
        let relay = move || relay(from, &to, &told, log, failed);
        let thread = std::thread::Builder::new().spawn(relay)?;
        Ok(Self { thread, last })
    }

    /// Relays what is in the FIFO, and ends.
    pub(crate) fn finish(self) {
        drop(self.last);
        if self.thread.join().is_err() {
            // The panic has been reported; what it did not write is lost.
            eprintln!("hull: the output relay failed");
        }
    }
}

/// What a container's log gets of one stream.
#[derive(Debug)]
pub(crate) struct LogCopy {
    log: Arc<Mutex<CriLog>>,
    stream: &'static str,
    /// The stream's unfinished line.
    partial: Vec<u8>,
    failed: bool,
}

impl LogCopy {
    /// Copies `stream` ("stdout" or "stderr") into a log that both share.
    pub(super) fn new(log: Arc<Mutex<CriLog>>, stream: &'static str) -> Self {
        Self {
            log,
            stream,
            partial: Vec::new(),
            failed: false,
        }
    }

    /// A log that cannot be written is told of once; the output itself matters more.
    fn write(&mut self, bytes: &[u8]) {
        if self.failed {
            return;
        }
        let mut log = self.log.lock().expect("no holder of this lock panics");
        if let Err(error) = log.write(self.stream, &mut self.partial, bytes) {
            eprintln!("hull: cannot write the container's log: {error}");
            self.failed = true;
        }
    }

    fn finish(mut self) {
        let mut log = self.log.lock().expect("no holder of this lock panics");
        if let Err(error) = log.finish(self.stream, &mut self.partial)
            && !self.failed
        {
            eprintln!("hull: cannot write the container's log: {error}");
        }
    }
}

fn relay(
    mut from: File,
    to: &impl AsFd,
    told: &PipeReader,
    mut log: Option<LogCopy>,
    failed: oneshot::Sender<io::Error>,
) {
    let passed_on = pass_on(&mut from, to.as_fd(), told, &mut log);
    if let Some(log) = log {
        log.finish();
    }
    if let Err(error) = passed_on {
        // Nobody listens any more when the process has ended.
        let _ = failed.send(error);
        let mut buffer = vec![0; CHUNK];
        while readable(&from, told).unwrap_or(false) && from.read(&mut buffer).is_ok() {}
    }
}

fn pass_on(
    from: &mut File,
    to: BorrowedFd<'_>,
    told: &PipeReader,
    log: &mut Option<LogCopy>,
) -> io::Result<()> {
    if log.is_some() || !is_pipe(to)? {
        return copy(from, to, told, log);
    }
    while readable(from, told)? {
        match splice(&*from, None, to, None, CHUNK, SpliceFFlags::SPLICE_F_MOVE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => wait_writable(to)?,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn copy(
    from: &mut File,
    to: BorrowedFd<'_>,
    told: &PipeReader,
    log: &mut Option<LogCopy>,
) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    while readable(from, told)? {
        let count = from.read(&mut buffer)?;
        if let Some(log) = log {
            log.write(&buffer[..count]);
        }
        write_all(to, &buffer[..count])?;
    }
    Ok(())
}

/// Whether splice(2) may be used between a FIFO and this. Between pipes it moves pages; with anything
/// else it holds the FIFO's lock for as long as the other side takes, so that the pod process at the
/// FIFO's other end would stand still while a person types or a terminal is stopped.
pub(super) fn is_pipe(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let mode = nix::sys::stat::fstat(fd)?.st_mode;
    Ok(mode & libc::S_IFMT == libc::S_IFIFO)
}

/// Writes everything, to a descriptor that may have been made not to block.
pub(super) fn write_all(to: BorrowedFd<'_>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match nix::unistd::write(to, bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => wait_writable(to)?,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Waits until there is something to read, or until it is known that there will never be.
fn readable(from: &File, told: &PipeReader) -> io::Result<bool> {
    loop {
        let mut fds = [
            PollFd::new(from.as_fd(), PollFlags::POLLIN),
            PollFd::new(told.as_fd(), PollFlags::POLLIN),
        ];
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

pub(super) fn wait_writable(to: BorrowedFd<'_>) -> io::Result<()> {
    match poll(
        &mut [PollFd::new(to, PollFlags::POLLOUT)],
        PollTimeout::NONE,
    ) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, Write};

    use super::*;
    use crate::stdio::Fifos;

    fn fifo() -> (tempfile::TempDir, File, File) {
        let dir = tempfile::tempdir().unwrap();
        let fifos = Fifos::create(dir.path(), "", false, true).unwrap();
        let ours = fifos.stdout.as_ref().unwrap().try_clone().unwrap();
        let writer = File::options()
            .write(true)
            .open(dir.path().join("stdout"))
            .unwrap();
        (dir, ours, writer)
    }

    fn pattern() -> Vec<u8> {
        (0..3_000_000_u32).map(|n| n.to_le_bytes()[0]).collect()
    }

    #[test]
    fn everything_that_was_written_before_the_end_arrives() {
        let (_dir, ours, mut writer) = fifo();
        let mut out = tempfile::tempfile().unwrap();
        let (failed, _) = oneshot::channel();
        let relay = OutputRelay::start(ours, out.try_clone().unwrap(), None, failed).unwrap();
        writer.write_all(&pattern()).unwrap();
        relay.finish();
        let mut arrived = Vec::new();
        out.rewind().unwrap();
        out.read_to_end(&mut arrived).unwrap();
        assert!(arrived == pattern());
    }

    #[test]
    fn a_pipe_gets_everything_too() {
        let (_dir, ours, mut writer) = fifo();
        let (mut reader, out) = io::pipe().unwrap();
        let (failed, _) = oneshot::channel();
        let relay = OutputRelay::start(ours, out, None, failed).unwrap();
        let reading = std::thread::spawn(move || {
            let mut arrived = Vec::new();
            reader.read_to_end(&mut arrived).unwrap();
            arrived
        });
        writer.write_all(&pattern()).unwrap();
        relay.finish();
        assert!(reading.join().unwrap() == pattern());
    }

    #[test]
    fn the_log_gets_what_the_output_gets() {
        let (dir, ours, mut writer) = fifo();
        let path = dir.path().join("log");
        let log = Arc::new(Mutex::new(CriLog::open(&path).unwrap()));
        let (mut reader, out) = io::pipe().unwrap();
        let (failed, _) = oneshot::channel();
        let copy = LogCopy::new(log, "stdout");
        let relay = OutputRelay::start(ours, out, Some(copy), failed).unwrap();
        writer.write_all(b"one\ntwo").unwrap();
        relay.finish();
        let mut shown = String::new();
        reader.read_to_string(&mut shown).unwrap();
        assert_eq!(shown, "one\ntwo");
        let logged = std::fs::read_to_string(path).unwrap();
        let texts = logged
            .lines()
            .map(|line| line.split_once(" stdout ").unwrap().1);
        assert_eq!(texts.collect::<Vec<_>>(), ["F one", "P two"]);
    }

    #[test]
    fn a_closed_output_is_told_and_the_rest_dropped() {
        let (_dir, ours, mut writer) = fifo();
        let (reader, out) = io::pipe().unwrap();
        drop(reader);
        let (failed, mut told) = oneshot::channel();
        let relay = OutputRelay::start(ours, out, None, failed).unwrap();
        // More than the FIFO holds: it is read although nobody wants it.
        writer.write_all(&pattern()).unwrap();
        relay.finish();
        let error = told.try_recv().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
