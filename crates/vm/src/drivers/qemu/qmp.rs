//! The QMP connection: commands, and the events that say why the machine ended.

use std::io;
use std::sync::{Arc, Mutex};

use futures_util::StreamExt;
use qapi::futures::{QapiService, QmpStreamTokio};
use qapi::qmp::{Event, ShutdownCause};
use tokio::io::WriteHalf;
use tokio::net::UnixStream;
use tokio::sync::watch;

use crate::deadline::{PROMPTLY, in_time};
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

    /// Has QEMU do something that takes it no time.
    ///
    /// # Errors
    /// When it refuses, hangs up or does not answer.
    pub(super) async fn execute<C: qapi::Command>(
        &self,
        name: &'static str,
        command: C,
    ) -> Result<C::Ok, VmError>
    where
        QmpStreamTokio<WriteHalf<UnixStream>>:
            futures_util::Sink<qapi::Execute<C, u32>, Error = io::Error>,
    {
        in_time(PROMPTLY, name, self.answer(name, command)).await
    }

    async fn answer<C: qapi::Command>(
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

#[cfg(test)]
mod tests {
    use qapi::qmp;
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

    use super::*;

    const GREETING: &str = r#"{"QMP": {"version": {"qemu": {"micro": 0, "minor": 2, "major": 7},
                                        "package": ""}, "capabilities": []}}"#;
    const DONE: &str = r#"{"return": {}, "id": ID}"#;

    /// What comes of a command when QEMU answers it so and hangs up, or says nothing more.
    async fn stop(answer: Option<&str>) -> Result<(), VmError> {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let qmp = Qmp::follow(ours);
        let (read, mut write) = tokio::io::split(theirs);
        let mut requests = BufReader::new(read).lines();
        let qemu = async {
            write
                .write_all(one_line(GREETING).as_bytes())
                .await
                .unwrap();
            for answer in [Some(DONE), answer] {
                let request = requests.next_line().await.unwrap().unwrap();
                let request: serde_json::Value = serde_json::from_str(&request).unwrap();
                let Some(answer) = answer else {
                    return std::future::pending().await;
                };
                let answer = answer.replace("ID", &request["id"].to_string());
                write.write_all(one_line(&answer).as_bytes()).await.unwrap();
            }
            drop((requests, write));
            std::future::pending().await
        };
        tokio::select! {
            done = qmp.execute("stop", qmp::stop {}) => done.map(drop),
            never = qemu => never,
        }
    }

    fn one_line(text: &str) -> String {
        text.replace('\n', " ") + "\n"
    }

    #[tokio::test]
    async fn a_command_is_done_or_refused_in_qemu_s_words() {
        stop(Some(DONE)).await.unwrap();
        let refusal = r#"{"error": {"class": "GenericError", "desc": "not now"}, "id": ID}"#;
        let error = stop(Some(refusal)).await.unwrap_err();
        assert_eq!(error.to_string(), "the VMM refused `stop`: not now");
    }

    #[tokio::test]
    async fn a_qemu_that_hangs_up_half_way_has_not_answered() {
        for cut in ["", r#"{"return""#] {
            let error = stop(Some(cut)).await.unwrap_err();
            assert!(matches!(error, VmError::Disconnected { .. }), "{error}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_qemu_that_does_not_answer_is_not_waited_for_for_ever() {
        let error = stop(None).await.unwrap_err();
        let VmError::Disconnected { source, .. } = &error else {
            panic!("{error}");
        };
        assert_eq!(source.kind(), io::ErrorKind::TimedOut);
    }
}
