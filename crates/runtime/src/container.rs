//! A container that is known, and its state.

use std::time::Duration;

use hull_sandbox::state::Status;
use hull_shim::client::{ClientError, Pod, PodError};
use hull_vm::process::Process;

use crate::error::RuntimeError;
use crate::store::{Record, Store};

/// The states of a container that has not ended.
pub(crate) const ALIVE: [Status; 3] = [Status::Created, Status::Running, Status::Paused];

/// A container, and the connection to its pod, if that runs.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) record: Record,
    pod: Option<Pod>,
}

impl Container {
    /// Finds a container. A pod that is gone is no error: its containers have ended.
    ///
    /// # Errors
    /// When there is none of that id, or its pod process cannot be reached.
    pub(crate) async fn find(store: &Store, id: &str) -> Result<Self, RuntimeError> {
        Self::of(store.find(id)?).await
    }

    /// The container of a record.
    ///
    /// # Errors
    /// When its pod process cannot be reached.
    pub(crate) async fn of(record: Record) -> Result<Self, RuntimeError> {
        let pod = match Pod::connect(&record.pod, &record.id).await {
            Ok(pod) => Some(pod),
            Err(PodError::Client(ClientError::NotRunning(_))) => None,
            Err(error) => return Err(RuntimeError::Pod(error)),
        };
        Ok(Self { record, pod })
    }

    /// The state it is in.
    ///
    /// # Errors
    /// When the pod process does not answer.
    pub(crate) async fn status(&self) -> Result<Status, RuntimeError> {
        let Some(pod) = &self.pod else {
            return Ok(Status::Stopped);
        };
        match pod.status("").await {
            Ok(status) => Ok(status),
            // Its creation failed on the way, or its deletion.
            Err(error) if error.is_not_found() => Ok(Status::Stopped),
            Err(error) => {
                let mut pod = pod.clone();
                // The pod may just have ended, as it does with its last container.
                match error.reconnect(&mut pod, &self.record.pod).await {
                    Err(error) if error.is_not_found() => Ok(Status::Stopped),
                    Err(error) => Err(RuntimeError::Pod(error)),
                    Ok(()) => pod.status("").await.map_err(RuntimeError::Pod),
                }
            }
        }
    }

    /// Completes when the process that stands for it on the host is gone, as it soon is when the container has ended:
    /// to an engine a container whose process is there may run. That it stays for want of a reader or of a parent is
    /// not waited for longer than engines wait themselves.
    pub(crate) async fn gone(&self) {
        const END: Duration = Duration::from_secs(10);
        const REAPED: Duration = Duration::from_secs(1);
        let monitor = self.record.monitor;
        if let Ok(process) = Process::attach(monitor, "hull-runtime") {
            // Past that, the engine learns what there is.
            let _ = tokio::time::timeout(END, process.wait()).await;
        }
        // Nothing tells when a process is reaped whose parent is another.
        let reaped = async {
            while monitor.is_there() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let _ = tokio::time::timeout(REAPED, reaped).await;
    }

    /// Its pod, if that runs.
    pub(crate) fn pod(&self) -> Option<&Pod> {
        self.pod.as_ref()
    }

    /// Its pod, for what only a container in one of these states can do.
    ///
    /// # Errors
    /// When it is in another.
    pub(crate) async fn pod_if(
        &self,
        action: &'static str,
        allowed: &[Status],
    ) -> Result<&Pod, RuntimeError> {
        let status = self.status().await?;
        match &self.pod {
            Some(pod) if allowed.contains(&status) => Ok(pod),
            _ if status == Status::Stopped => Err(RuntimeError::NotRunning),
            _ => Err(RuntimeError::State {
                action,
                state: status,
            }),
        }
    }
}
