//! From a process's standard output or error to where it leads on the host.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex};

use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::sync::watch;

use super::logger::Running;
use super::{BUFFER_BYTES, CriLog, Destination, Owner};
use crate::error::SandboxError;

/// An open destination.
#[derive(Debug)]
pub(crate) enum Sink {
    Fifo(pipe::Sender),
    File(File),
    CriLog {
        log: Arc<Mutex<CriLog>>,
        stream: &'static str,
        partial: Vec<u8>,
    },
    Logger(
        pipe::Sender,
        #[expect(dead_code, reason = "held for its end")] Arc<Running>,
    ),
}

const LOGGER_FOR_ONE: SandboxError =
    SandboxError::Unsupported("a logger for one output and something else for the other");

impl Sink {
    /// Opens both outputs of `owner`; one log serves both when they lead to the same file, and one
    /// program that takes them.
    pub(crate) async fn open_pair(
        stdout: &Destination,
        stderr: &Destination,
        owner: Owner<'_>,
    ) -> Result<(Option<Self>, Option<Self>), SandboxError> {
        if let Destination::Binary(logger) = stdout {
            if !matches!(stderr, Destination::Nowhere) && stderr != stdout {
                return Err(LOGGER_FOR_ONE);
            }
            let pipes = logger.start(owner).await?;
            let sink = |end| Some(Self::Logger(end, Arc::clone(&pipes.running)));
            return Ok((sink(pipes.stdout), sink(pipes.stderr)));
        }
        let first = Self::open(stdout, "stdout", None).await?;
        let shared = match &first {
            Some(Self::CriLog { log, .. }) if stdout == stderr => Some(Arc::clone(log)),
            _ => None,
        };
        let second = Self::open(stderr, "stderr", shared).await?;
        Ok((first, second))
    }

    async fn open(
        destination: &Destination,
        stream: &'static str,
        shared: Option<Arc<Mutex<CriLog>>>,
    ) -> Result<Option<Self>, SandboxError> {
        let sink = match destination {
            Destination::Nowhere => return Ok(None),
            Destination::Binary(_) => return Err(LOGGER_FOR_ONE),
            // Held open for reading too: while the process runs, a reader that comes and goes ends
            // nothing.
            Destination::Fifo(path) | Destination::Pipe(path) => pipe::OpenOptions::new()
                .read_write(matches!(destination, Destination::Fifo(_)))
                .open_sender(path)
                .map(Self::Fifo)
                .map_err(SandboxError::host(format!("open {}", path.display())))?,
            Destination::File(path) => File::options()
                .create(true)
                .append(true)
                .open(path)
                .await
                .map(Self::File)
                .map_err(SandboxError::host(format!("open {}", path.display())))?,
            Destination::CriLog(path) => {
                let log = match shared {
                    Some(log) => log,
                    None => Arc::new(Mutex::new(
                        CriLog::open(path)
                            .map_err(SandboxError::host(format!("open {}", path.display())))?,
                    )),
                };
                Self::CriLog {
                    log,
                    stream,
                    partial: Vec::new(),
                }
            }
        };
        Ok(Some(sink))
    }

    async fn write(&mut self, bytes: &[u8], process: &mut ProcessEnd) -> io::Result<()> {
        match self {
            Self::Fifo(fifo) => write_fifo(fifo, bytes, process).await,
            Self::Logger(pipe, _) => pipe.write_all(bytes).await,
            Self::File(file) => {
                file.write_all(bytes).await?;
                file.flush().await
            }
            Self::CriLog {
                log,
                stream,
                partial,
            } => {
                let mut log = log.lock().expect("no holder of this lock panics");
                log.write(stream, partial, bytes)
            }
        }
    }

    fn finish(&mut self) -> io::Result<()> {
        match self {
            Self::Fifo(_) | Self::File(_) | Self::Logger(..) => Ok(()),
            Self::CriLog {
                log,
                stream,
                partial,
            } => {
                let mut log = log.lock().expect("no holder of this lock panics");
                log.finish(stream, partial)
            }
        }
    }
}

/// Writes to a FIFO for as long as its reader takes. Once the process has ended nobody will come to
/// read what it wrote who is not there yet, so from then on a FIFO without readers is a broken pipe.
async fn write_fifo(
    fifo: &mut pipe::Sender,
    mut bytes: &[u8],
    process: &mut ProcessEnd,
) -> io::Result<()> {
    while !bytes.is_empty() {
        tokio::select! {
            biased;
            () = process.seen_once() => *fifo = without_own_reader(fifo)?,
            written = fifo.write(bytes) => bytes = &bytes[written?..],
        }
    }
    Ok(())
}

/// The same FIFO, not open for reading. Its name may be gone.
fn without_own_reader(fifo: &pipe::Sender) -> io::Result<pipe::Sender> {
    pipe::OpenOptions::new().open_sender(format!("/proc/self/fd/{}", fifo.as_raw_fd()))
}

/// Tells a relay that its process has ended in the guest.
#[derive(Debug)]
pub(crate) struct ProcessEnd {
    ended: watch::Receiver<bool>,
    seen: bool,
}

impl ProcessEnd {
    pub(crate) fn new(ended: watch::Receiver<bool>) -> Self {
        Self { ended, seen: false }
    }

    /// Completes once, when the process has ended.
    async fn seen_once(&mut self) {
        if self.seen || self.ended.wait_for(|ended| *ended).await.is_err() {
            return std::future::pending().await;
        }
        self.seen = true;
    }
}

/// How far a relay is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Progress {
    bytes: u64,
    ended: bool,
}

/// A relay that runs until the stream ends.
#[derive(Debug)]
pub(crate) struct OutputRelay {
    progress: watch::Receiver<Progress>,
}

impl OutputRelay {
    pub(crate) fn start(stream: UnixStream, sink: Sink, process: ProcessEnd) -> Self {
        let (report, progress) = watch::channel(Progress::default());
        tokio::spawn(relay(stream, sink, process, report));
        Self { progress }
    }

    /// Completes when `bytes` have been passed on, or the stream has ended before.
    pub(crate) async fn passed_on(&self, bytes: u64) {
        let mut progress = self.progress.clone();
        // An error means that the relay is gone: it has ended.
        let _ = progress
            .wait_for(|now| now.bytes >= bytes || now.ended)
            .await;
    }

    /// Completes when the stream has ended and all of it has been passed on.
    pub(crate) async fn ended(&self) {
        let mut progress = self.progress.clone();
        let _ = progress.wait_for(|now| now.ended).await;
    }
}

async fn relay(
    mut stream: UnixStream,
    mut sink: Sink,
    mut process: ProcessEnd,
    report: watch::Sender<Progress>,
) {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut failed = false;
    loop {
        match stream.read(&mut buffer).await {
            Ok(0) => break,
            Ok(count) => {
                // When the destination fails the stream is still drained: a full disk must not
                // block the process for ever.
                if !failed && let Err(error) = sink.write(&buffer[..count], &mut process).await {
                    tracing::error!(%error, "cannot pass a process's output on; the rest is dropped");
                    failed = true;
                }
                report.send_modify(|progress| progress.bytes += count as u64);
            }
            Err(error) => {
                tracing::debug!(%error, "a process's output broke off");
                break;
            }
        }
    }
    if let Err(error) = sink.finish() {
        tracing::error!(%error, "cannot finish a process's log");
    }
    // The FIFO's reader sees the end before anybody is told of it.
    drop(sink);
    report.send_modify(|progress| progress.ended = true);
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOBODY: Owner<'_> = Owner {
        container_id: "",
        namespace: "",
    };

    #[tokio::test]
    async fn every_byte_arrives_before_the_end_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        let destination = Destination::File(path.clone());
        let (sink, _) = Sink::open_pair(&destination, &Destination::Nowhere, NOBODY)
            .await
            .unwrap();
        let (mut guest, host) = UnixStream::pair().unwrap();
        let (_running, ended) = watch::channel(false);
        let relay = OutputRelay::start(host, sink.unwrap(), ProcessEnd::new(ended));
        let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        guest.write_all(&bytes).await.unwrap();
        relay.passed_on(bytes.len() as u64).await;
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
        drop(guest);
        relay.ended().await;
    }
}
