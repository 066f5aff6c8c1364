//! The QMP connection: commands, and the events that say why the machine ended.

use std::io;
use std::sync::{Arc, Mutex};

use futures_util::StreamExt;
use qapi::futures::{QapiService, QmpStreamTokio};
use qapi::qmp::{Event, ShutdownCause};
use tokio::io::WriteHalf;
use tokio::net::UnixStream;
use tokio::sync::watch;

use crate::error::VmError;

type Service = QapiService<QmpStreamTokio<WriteHalf<UnixStream>>>;

/// A connection that negotiates in the background: starting a machine does not wait for it.
#[derive(Clone)]
pub(super) struct Qmp {
    service: watch::Receiver<Option<Arc<Service>>>,
    shutdown: Arc<Mutex<Option<ShutdownCause>>>,
}

impl std::fmt::Debug for Qmp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Qmp")
            .field("shutdown", &self.shutdown)
            .finish_non_exhaustive()
    }
}

impl Qmp {
    pub(super) fn follow(stream: UnixStream) -> Self {
        let (publish, service) = watch::channel(None);
        let shutdown = Arc::new(Mutex::new(None));
        tokio::spawn({
            let shutdown = Arc::clone(&shutdown);
            async move {
                // The end of the VMM ends this too, and is reported where the VMM is watched.
                if let Err(error) = converse(stream, publish, shutdown).await {
                    tracing::debug!(%error, "the QMP connection ended");
                }
            }
        });
        Self { service, shutdown }
    }

    /// Why the machine ended, once QEMU has said so.
    pub(super) fn shutdown_cause(&self) -> Option<ShutdownCause> {
        *self.shutdown.lock().expect("no holder of this lock panics")
    }

    pub(super) async fn execute<C: qapi::Command>(
        &self,
        name: &'static str,
        command: C,
    ) -> Result<C::Ok, VmError>
    where
        QmpStreamTokio<WriteHalf<UnixStream>>:
            futures_util::Sink<qapi::Execute<C, u32>, Error = io::Error>,
    {
        let disconnected = |source| VmError::Disconnected {
            command: name,
            source,
        };
        let mut service = self.service.clone();
        let service = service.wait_for(Option::is_some).await;
        let service = service.ok().and_then(|service| service.clone());
        let service =
            service.ok_or_else(|| disconnected(io::ErrorKind::ConnectionAborted.into()))?;
        service.execute(command).await.map_err(|error| match error {
            qapi::ExecuteError::Qapi(error) => VmError::Refused {
                command: name,
                answer: error.desc,
            },
            qapi::ExecuteError::Io(source) => disconnected(source),
        })
    }
}

async fn converse(
    stream: UnixStream,
    publish: watch::Sender<Option<Arc<Service>>>,
    shutdown: Arc<Mutex<Option<ShutdownCause>>>,
) -> io::Result<()> {
    let (read, write) = tokio::io::split(stream);
    let stream = QmpStreamTokio::open_split(read, write)
        .await?
        .negotiate()
        .await?;
    let (service, mut events) = stream.into_parts();
    publish.send_replace(Some(Arc::new(service)));
    while let Some(event) = events.next().await {
        let event = event?;
        tracing::debug!(?event, "QMP event");
        if let Event::SHUTDOWN { data, .. } = event {
            *shutdown.lock().expect("no holder of this lock panics") = Some(data.reason);
        }
    }
    publish.send_replace(None);
    Ok(())
}
