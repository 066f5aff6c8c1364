//! A process in a container with this program's streams, from its start to its end.

use std::fs::File;
use std::io::{self, PipeReader};
use std::path::Path;
use std::sync::{Arc, Mutex};

use hull_sandbox::stdio::CriLog;
use hull_shim::client::signals::{Event, Signals};
use hull_shim::client::terminal::{self, RawMode};
use tokio::sync::oneshot;

use super::fifos::Fifos;
use super::input;
use super::output::{LogCopy, OutputRelay, Relayed};
use super::patience::Patience;
use hull_shim::client::{Pod, PodError};

/// Why a process cannot be attached to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AttachError {
    /// A FIFO or thread.
    #[error("cannot relay the command's streams")]
    Relay(#[source] io::Error),
    /// The container's log.
    #[error("cannot open the container's log")]
    Log(#[source] io::Error),
    /// The terminal.
    #[error("cannot use the terminal")]
    Terminal(#[source] io::Error),
    /// The output's own reader or file.
    #[error("cannot write the command's output")]
    Output(#[source] io::Error),
}

/// What a process is given of this program's streams.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Streams {
    /// Standard input is passed on.
    pub(crate) interactive: bool,
    /// The process has a terminal.
    pub(crate) terminal: bool,
}

/// How it went.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The process ended by itself or by a signal: its exit code.
    Exited(u32),
    /// This program's output is closed, so the process was killed.
    OutputClosed,
    /// The pod is gone and has not said how the process ended.
    Lost(PodError),
}

/// A process whose streams are this program's.
#[derive(Debug)]
pub(crate) struct Attached {
    streams: Streams,
    outputs: Vec<OutputRelay>,
    failures: Vec<oneshot::Receiver<io::Error>>,
    patience: Patience,
    raw: Option<RawMode>,
}

/// So many interrupts say that somebody is tired of waiting.
const IMPATIENT: u32 = 3;
const SIGKILL: u32 = 9;

impl Attached {
    /// Starts to relay. The process may be started now. With `log` the output goes there too.
    pub(crate) fn start(
        fifos: &mut Fifos,
        streams: Streams,
        log: Option<&Path>,
    ) -> Result<Self, AttachError> {
        let (patience, impatient) = Patience::new().map_err(AttachError::Relay)?;
        let mut attached = Self {
            streams,
            outputs: Vec::new(),
            failures: Vec::new(),
            patience,
            raw: None,
        };
        let log = log
            .map(CriLog::open)
            .transpose()
            .map_err(AttachError::Log)?;
        let log = log.map(|log| Arc::new(Mutex::new(log)));
        let copy = |stream| {
            log.as_ref()
                .map(|log| LogCopy::new(Arc::clone(log), stream))
        };
        let (stdout, stderr) = (fifos.stdout.take(), fifos.stderr.take());
        attached
            .relay(stdout, io::stdout(), copy("stdout"), &impatient)
            .and_then(|()| attached.relay(stderr, io::stderr(), copy("stderr"), &impatient))
            .map_err(AttachError::Relay)?;
        if streams.terminal && streams.interactive && terminal::is_terminal() {
            attached.raw = Some(RawMode::enter().map_err(AttachError::Terminal)?);
        }
        if let Some(fifo) = fifos.stdin.take() {
            input::start(io::stdin(), fifo).map_err(AttachError::Relay)?;
        }
        Ok(attached)
    }

    fn relay(
        &mut self,
        fifo: Option<File>,
        to: impl std::os::fd::AsFd + Send + 'static,
        log: Option<LogCopy>,
        impatient: &PipeReader,
    ) -> io::Result<()> {
        if let Some(fifo) = fifo {
            let (failed, told) = oneshot::channel();
            let impatient = impatient.try_clone()?;
            self.outputs
                .push(OutputRelay::start(fifo, to, log, failed, impatient)?);
            self.failures.push(told);
        }
        Ok(())
    }

    /// Gives the process's terminal the size of this program's.
    pub(crate) async fn resize(streams: Streams, pod: &Pod, exec_id: &str) {
        if streams.terminal
            && let Some((columns, rows)) = terminal::size()
        {
            // A terminal of the wrong size is no reason to fail.
            let _ = pod.resize(exec_id, columns, rows).await;
        }
    }

    /// Passes signals on until the process has ended, and all its output. A signal that comes when the
    /// process has ended ends the wait for those who read its output.
    pub(crate) async fn wait(
        mut self,
        pod: &mut Pod,
        state_dir: &Path,
        exec_id: &str,
        signals: &mut Signals,
    ) -> Result<Ended, AttachError> {
        let mut interrupts = 0;
        let mut unheard = None;
        let mut output_error = None;
        let ended = loop {
            tokio::select! {
                exit = pod.wait(exec_id) => match exit {
                    Ok(exit) => break Ended::Exited(exit.code),
                    Err(error) => match error.reconnect(pod, state_dir).await {
                        Ok(()) => {}
                        Err(error) => break Ended::Lost(error),
                    },
                },
                event = signals.next() => match event {
                    Event::Resized => Self::resize(self.streams, pod, exec_id).await,
                    Event::Signal(number) => {
                        interrupts += u32::from([2, 15].contains(&number));
                        let impatient = interrupts >= IMPATIENT;
                        let passed_on = if impatient { SIGKILL } else { number };
                        // A process that is gone needs no signal.
                        let heard = pod.kill(exec_id, passed_on, false).await.is_ok();
                        if impatient || !heard {
                            unheard = Some(number);
                        }
                    }
                },
                error = first_failure(&mut self.failures) => {
                    // What a program gets that writes into a closed pipe, only that it cannot ask.
                    output_error = Some(error);
                    let _ = pod.kill(exec_id, SIGKILL, false).await;
                }
            }
        };
        let ended = match finish(self.outputs, self.patience, signals, unheard).await {
            None => ended,
            Some(signal) => unread(ended, signal),
        };
        // Before anything is said on the terminal.
        drop(self.raw.take());
        match output_error.or_else(|| failed_late(&mut self.failures)) {
            None => Ok(ended),
            Some(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Ended::OutputClosed),
            Some(error) => Err(AttachError::Output(error)),
        }
    }
}

/// Completes when all output is written, or nobody takes it and a signal has come, of which `unheard` is
/// one. Answers with the signal if output was given up.
async fn finish(
    outputs: Vec<OutputRelay>,
    patience: Patience,
    signals: &mut Signals,
    unheard: Option<u32>,
) -> Option<u32> {
    let mut finished = tokio::task::spawn_blocking(|| {
        let relayed: Vec<_> = outputs.into_iter().map(OutputRelay::finish).collect();
        relayed.contains(&Relayed::GivenUp)
    });
    let signal = match unheard {
        Some(signal) => signal,
        None => tokio::select! {
            biased;
            finished = &mut finished => {
                finished.expect("finishing does not panic");
                return None;
            }
            signal = signals.interrupted() => signal,
        },
    };
    drop(patience);
    tokio::select! {
        biased;
        finished = finished => finished.expect("finishing does not panic").then_some(signal),
        // A terminal may take a part of what it was given and then be stopped.
        signal = signals.interrupted() => Some(signal),
    }
}

/// How it went with output that nobody took before `signal` came. Success would say that all is well.
fn unread(ended: Ended, signal: u32) -> Ended {
    match ended {
        Ended::Exited(0) => Ended::Exited(128 + signal),
        ended => ended,
    }
}

/// Completes when an output cannot be written any more.
async fn first_failure(failures: &mut [oneshot::Receiver<io::Error>]) -> io::Error {
    std::future::poll_fn(|context| {
        for failure in failures
            .iter_mut()
            .filter(|failure| !failure.is_terminated())
        {
            if let std::task::Poll::Ready(Ok(error)) = std::pin::Pin::new(failure).poll(context) {
                return std::task::Poll::Ready(error);
            }
        }
        std::task::Poll::Pending
    })
    .await
}

fn failed_late(failures: &mut [oneshot::Receiver<io::Error>]) -> Option<io::Error> {
    let open = failures
        .iter_mut()
        .filter(|failure| !failure.is_terminated());
    open.filter_map(|failure| failure.try_recv().ok()).next()
}
