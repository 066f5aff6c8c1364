//! How a process's streams are relayed, and how long its end waits for its output.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::sync::watch;

use super::Tokens;
use crate::error::SandboxError;
use crate::guest::{Guest, GuestError};
use crate::stdio::{Destination, InputRelay, OutputRelay, Owner, ProcessEnd, Sink, StdioConfig};

/// Whoever reads the output of a process that was killed has so long for the rest of it. Of any other
/// process nothing is lost, however slow the reader is.
const PATIENCE_AFTER_KILL: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
struct Relays {
    input: Option<InputRelay>,
    stdout: Option<OutputRelay>,
    stderr: Option<OutputRelay>,
}

/// The streams of a process.
#[derive(Debug, Default)]
pub(super) struct Streams {
    relays: Mutex<Arc<Relays>>,
    /// Whether the process has ended in the guest. Its output may still be on its way.
    ended: watch::Sender<bool>,
    /// Whether somebody wants to be rid of it.
    hurry: watch::Sender<bool>,
}

impl Streams {
    /// Opens the streams in the guest and starts to relay them.
    pub(super) async fn open(
        &self,
        stdio: &StdioConfig,
        tokens: &Tokens,
        guest: &Guest,
        owner: Owner<'_>,
    ) -> Result<(), SandboxError> {
        let stdout = Destination::parse(&stdio.stdout)?;
        let stderr = match tokens.stderr.is_empty() {
            true => Destination::Nowhere,
            false => Destination::parse(&stdio.stderr)?,
        };
        let (stdout, stderr) = Sink::open_pair(&stdout, &stderr, owner).await?;
        let stdin = match Destination::parse(&stdio.stdin)? {
            Destination::Nowhere => None,
            Destination::Fifo(fifo) | Destination::Pipe(fifo) | Destination::File(fifo) => {
                Some(fifo)
            }
            Destination::CriLog(_) | Destination::Binary(_) => {
                return Err(SandboxError::Invalid("a log cannot be read from"));
            }
        };
        // Each takes some ways between host and guest.
        let (out, err, input) = tokio::try_join!(
            open_in(guest, stdout.is_some(), &tokens.stdout),
            open_in(guest, stderr.is_some(), &tokens.stderr),
            open_in(guest, stdin.is_some(), &tokens.stdin),
        )?;
        let relay = |(stream, sink)| self.relay(stream, sink);
        let input = input.zip(stdin);
        let relays = Relays {
            stdout: out.zip(stdout).map(relay),
            stderr: err.zip(stderr).map(relay),
            input: input
                .map(|(stream, fifo)| InputRelay::start(&fifo, stream))
                .transpose()?,
        };
        *self.relays.lock().expect("no holder of this lock panics") = Arc::new(relays);
        Ok(())
    }

    fn relay(&self, stream: UnixStream, sink: Sink) -> OutputRelay {
        OutputRelay::start(stream, sink, ProcessEnd::new(self.ended.subscribe()))
    }

    fn relays(&self) -> Arc<Relays> {
        Arc::clone(&self.relays.lock().expect("no holder of this lock panics"))
    }

    /// Ends the standard input after what was written to it so far.
    pub(super) fn close_input(&self) {
        if let Some(input) = &self.relays().input {
            input.close();
        }
    }

    /// The process was killed: its output is not waited for without end.
    pub(super) fn hurry(&self) {
        self.hurry.send_replace(true);
    }

    /// Whether the process has ended in the guest.
    pub(super) fn process_ended(&self) -> bool {
        *self.ended.borrow()
    }

    /// For a process that has ended in the guest: completes when the bytes that it has `written` to
    /// standard output and error are where they were to go, or nobody is there to take them. False
    /// when they were given up.
    pub(super) async fn passed_on(&self, written: [u64; 2], to_their_end: bool) -> bool {
        self.ended.send_replace(true);
        let relays = self.relays();
        let outputs = [&relays.stdout, &relays.stderr];
        let passed_on = async {
            for (output, bytes) in outputs.into_iter().zip(written) {
                if let Some(output) = output {
                    output.passed_on(bytes).await;
                }
            }
            if to_their_end {
                for output in outputs.into_iter().flatten() {
                    output.ended().await;
                }
            }
        };
        tokio::select! {
            biased;
            () = passed_on => true,
            () = self.patience_ended() => false,
        }
    }

    async fn patience_ended(&self) {
        let mut hurry = self.hurry.subscribe();
        // The sender is ours, so it lives.
        let _ = hurry.wait_for(|hurry| *hurry).await;
        tokio::time::sleep(PATIENCE_AFTER_KILL).await;
    }
}

/// Opens a stream in the guest where one is wanted.
async fn open_in(
    guest: &Guest,
    wanted: bool,
    token: &str,
) -> Result<Option<UnixStream>, GuestError> {
    match wanted {
        true => guest.open_stdio(token).await.map(Some),
        false => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use nix::sys::stat::Mode;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::unix::pipe;
    use tokio::time::Instant;

    use super::*;

    /// Longer than anybody would wait. The tests' clock moves only when nothing else does.
    const LONG: Duration = Duration::from_secs(3600);
    /// More than fits into all the buffers on the way.
    const BYTES: u32 = 3_000_000;

    fn output() -> Vec<u8> {
        (0..BYTES).map(|n| n.to_le_bytes()[0]).collect()
    }

    /// The streams of a process that has written [`output`] to a FIFO, and the FIFO's reader.
    async fn streams() -> (tempfile::TempDir, Streams, pipe::Receiver) {
        let dir = tempfile::tempdir().unwrap();
        let path: PathBuf = dir.path().join("stdout");
        nix::unistd::mkfifo(&path, Mode::from_bits_truncate(0o600)).unwrap();
        let reader = pipe::OpenOptions::new().open_receiver(&path).unwrap();
        let fifo = Destination::Fifo(path);
        let nobody = Owner {
            container_id: "",
            namespace: "",
        };
        let (sink, _) = Sink::open_pair(&fifo, &Destination::Nowhere, nobody)
            .await
            .unwrap();
        let (mut guest, host) = UnixStream::pair().unwrap();
        let streams = Streams::default();
        *streams.relays.lock().unwrap() = Arc::new(Relays {
            stdout: Some(streams.relay(host, sink.unwrap())),
            ..Relays::default()
        });
        tokio::spawn(async move { guest.write_all(&output()).await.unwrap() });
        (dir, streams, reader)
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_lost_when_the_reader_is_slow() {
        let (_dir, streams, mut reader) = streams().await;
        let start = Instant::now();
        let reading = tokio::spawn(async move {
            tokio::time::sleep(LONG).await;
            let mut read = Vec::new();
            reader.read_to_end(&mut read).await.unwrap();
            read
        });
        assert!(streams.passed_on([BYTES.into(), 0], true).await);
        assert!(start.elapsed() >= LONG);
        assert!(reading.await.unwrap() == output());
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_is_gone_is_not_waited_for() {
        let (_dir, streams, reader) = streams().await;
        drop(reader);
        let passed_on = streams.passed_on([BYTES.into(), 0], true);
        assert!(tokio::time::timeout(LONG, passed_on).await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_goes_is_not_waited_for() {
        let (_dir, streams, reader) = streams().await;
        let leaving = tokio::spawn(async move {
            tokio::time::sleep(LONG).await;
            drop(reader);
        });
        let passed_on = streams.passed_on([BYTES.into(), 0], true);
        assert!(tokio::time::timeout(2 * LONG, passed_on).await.unwrap());
        leaving.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_killed_process_ends_though_its_reader_never_reads() {
        let (_dir, streams, _reader) = streams().await;
        let start = Instant::now();
        streams.hurry();
        assert!(!streams.passed_on([BYTES.into(), 0], true).await);
        assert_eq!(start.elapsed(), PATIENCE_AFTER_KILL);
    }
}
