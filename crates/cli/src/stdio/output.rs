//! From a FIFO to this program's standard output or error.

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use hull_sandbox::stdio::CriLog;
use nix::errno::Errno;
use nix::fcntl::{SpliceFFlags, splice};
use tokio::sync::oneshot;

use super::patience::{Waits, is_pipe};

/// Bytes moved at once.
const CHUNK: usize = 1 << 20;

/// A thread that relays until it is told that nothing more will come.
#[derive(Debug)]
pub(crate) struct OutputRelay {
    thread: JoinHandle<Relayed>,
    last: PipeWriter,
}

/// What became of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Relayed {
    /// All of it was written, or could not be, of which the reason was told.
    Done,
    /// Its reader did not take all of it while there was patience.
    GivenUp,
}

impl OutputRelay {
    /// Starts to relay. Where the output cannot be written, `failed` gets the reason and the rest is
    /// read and dropped. After the end of [patience](super::patience::Patience) it is written as far as
    /// that needs no wait.
    pub(crate) fn start(
        from: File,
        to: impl AsFd + Send + 'static,
        log: Option<LogCopy>,
        failed: oneshot::Sender<io::Error>,
        impatient: PipeReader,
    ) -> io::Result<Self> {
        let (told, last) = io::pipe()?;
        let waits = Waits { told, impatient };
        let relay = move || relay(from, &to, &waits, log, failed);
        let thread = std::thread::Builder::new().spawn(relay)?;
        Ok(Self { thread, last })
    }

    /// Relays what is in the FIFO, and ends.
    pub(crate) fn finish(self) -> Relayed {
        drop(self.last);
        self.thread.join().unwrap_or_else(|_| {
            // The panic has been reported; what it did not write is lost.
            eprintln!("hull: the output relay failed");
            Relayed::Done
        })
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
    waits: &Waits,
    mut log: Option<LogCopy>,
    failed: oneshot::Sender<io::Error>,
) -> Relayed {
    let passed_on = pass_on(&mut from, to.as_fd(), waits, &mut log);
    if let Some(log) = log {
        log.finish();
    }
    passed_on.unwrap_or_else(|error| {
        // Nobody listens any more when the process has ended.
        let _ = failed.send(error);
        let mut buffer = vec![0; CHUNK];
        while waits.readable(&from).unwrap_or(false) && from.read(&mut buffer).is_ok() {}
        Relayed::Done
    })
}

fn pass_on(
    from: &mut File,
    to: BorrowedFd<'_>,
    waits: &Waits,
    log: &mut Option<LogCopy>,
) -> io::Result<Relayed> {
    if log.is_some() || !is_pipe(to)? {
        return copy(from, to, waits, log);
    }
    // Where it waits, it shall see the end of patience, too.
    let flags = SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK;
    while waits.readable(from)? {
        match splice(&*from, None, to, None, CHUNK, flags) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => {
                if !waits.writable(to)? {
                    return Ok(Relayed::GivenUp);
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Relayed::Done)
}

/// Given up, it goes on with the log.
fn copy(
    from: &mut File,
    to: BorrowedFd<'_>,
    waits: &Waits,
    log: &mut Option<LogCopy>,
) -> io::Result<Relayed> {
    let mut buffer = vec![0; CHUNK];
    let mut relayed = Relayed::Done;
    while waits.readable(from)? {
        let count = from.read(&mut buffer)?;
        if let Some(log) = log {
            log.write(&buffer[..count]);
        }
        if relayed == Relayed::Done {
            relayed = match waits.write_all(to, &buffer[..count])? {
                true => Relayed::Done,
                false => Relayed::GivenUp,
            };
        }
    }
    Ok(relayed)
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, Write};

    use super::*;
    use crate::stdio::Fifos;
    use crate::stdio::patience::Patience;

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

    fn start(ours: File, out: impl AsFd + Send + 'static, log: Option<LogCopy>) -> OutputRelay {
        // Without anybody who could end it, patience would end at once.
        let (patience, impatient) = Patience::new().unwrap();
        std::mem::forget(patience);
        let (failed, _) = oneshot::channel();
        OutputRelay::start(ours, out, log, failed, impatient).unwrap()
    }

    fn pattern() -> Vec<u8> {
        (0..3_000_000_u32).map(|n| n.to_le_bytes()[0]).collect()
    }

    #[test]
    fn everything_that_was_written_before_the_end_arrives() {
        let (_dir, ours, mut writer) = fifo();
        let mut out = tempfile::tempfile().unwrap();
        let relay = start(ours, out.try_clone().unwrap(), None);
        writer.write_all(&pattern()).unwrap();
        assert_eq!(relay.finish(), Relayed::Done);
        let mut arrived = Vec::new();
        out.rewind().unwrap();
        out.read_to_end(&mut arrived).unwrap();
        assert!(arrived == pattern());
    }

    #[test]
    fn a_pipe_gets_everything_too() {
        let (_dir, ours, mut writer) = fifo();
        let (mut reader, out) = io::pipe().unwrap();
        let relay = start(ours, out, None);
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
        let relay = start(ours, out, Some(LogCopy::new(log, "stdout")));
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
        let (_patience, impatient) = Patience::new().unwrap();
        let (failed, mut told) = oneshot::channel();
        let relay = OutputRelay::start(ours, out, None, failed, impatient).unwrap();
        // More than the FIFO holds: it is read although nobody wants it.
        writer.write_all(&pattern()).unwrap();
        relay.finish();
        let error = told.try_recv().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }

    /// Relays `bytes` to a pipe that nobody reads, with patience that has ended. Returns also what the
    /// pipe took.
    fn unread(bytes: &[u8], log: Option<LogCopy>) -> (Relayed, Vec<u8>) {
        let (_dir, ours, mut writer) = fifo();
        let (mut reader, out) = io::pipe().unwrap();
        let (patience, impatient) = Patience::new().unwrap();
        let (failed, _) = oneshot::channel();
        let relay = OutputRelay::start(ours, out, log, failed, impatient).unwrap();
        writer.write_all(bytes).unwrap();
        drop(patience);
        let relayed = relay.finish();
        let mut taken = Vec::new();
        reader.read_to_end(&mut taken).unwrap();
        (relayed, taken)
    }

    #[test]
    fn a_reader_that_does_not_read_is_given_up_with_patience() {
        // More than the pipe takes, and less than the FIFO has room for.
        let bytes = &pattern()[..300_000];
        let (relayed, taken) = unread(bytes, None);
        assert_eq!(relayed, Relayed::GivenUp);
        assert!(!taken.is_empty() && bytes.starts_with(&taken));
        assert_eq!(unread(b"little", None), (Relayed::Done, b"little".to_vec()));
    }

    #[test]
    fn the_log_gets_what_the_reader_did_not_take() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let log = Arc::new(Mutex::new(CriLog::open(&path).unwrap()));
        let bytes = b"a line\n".repeat(50_000);
        let (relayed, taken) = unread(&bytes, Some(LogCopy::new(log, "stdout")));
        assert_eq!(relayed, Relayed::GivenUp);
        assert!(!taken.is_empty() && bytes.starts_with(&taken));
        let logged = std::fs::read_to_string(path).unwrap();
        assert_eq!(logged.lines().count(), 50_000);
    }
}
