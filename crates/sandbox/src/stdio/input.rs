//! From a FIFO on the host to a process's standard input.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::sync::Notify;

use super::BUFFER_BYTES;
use crate::error::SandboxError;

/// A relay that runs until the FIFO's writers are gone, the process is, or it is closed.
#[derive(Debug)]
pub(crate) struct InputRelay {
    close: Arc<Notify>,
}

impl InputRelay {
    /// Starts to relay. The FIFO exists; its writer may come later.
    pub(crate) fn start(fifo: &PathBuf, stream: UnixStream) -> Result<Self, SandboxError> {
        let receiver = pipe::OpenOptions::new()
            .open_receiver(fifo)
            .map_err(SandboxError::host(format!("open {}", fifo.display())))?;
        let close = Arc::new(Notify::new());
        tokio::spawn(relay(receiver, stream, Arc::clone(&close)));
        Ok(Self { close })
    }

    /// Ends the process's input after what the FIFO holds now.
    pub(crate) fn close(&self) {
        self.close.notify_one();
    }
}

async fn relay(mut fifo: pipe::Receiver, mut stream: UnixStream, close: Arc<Notify>) {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let read = tokio::select! {
            biased;
            read = fifo.read(&mut buffer) => read,
            () = close.notified() => match fifo.try_read(&mut buffer) {
                // What was written before the call still counts: once more, then end.
                Ok(count) if count > 0 => {
                    close.notify_one();
                    Ok(count)
                }
                Ok(_) | Err(_) => Ok(0),
            },
        };
        match read {
            Ok(0) => break,
            Ok(count) => {
                if stream.write_all(&buffer[..count]).await.is_err() {
                    // The process has closed its input or ended; writers get a broken pipe.
                    return;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot read a process's input");
                break;
            }
        }
    }
    if let Err(error) = stream.shutdown().await {
        tracing::debug!(%error, "the process's input was closed already");
    }
    // The other direction carries nothing; holding it open keeps the half-closed stream alive until
    // the guest has read everything.
    let _ = stream.read(&mut buffer[..1]).await;
}
