//! What stands for a container on the host, and what its end means.

use std::sync::Arc;

use hull_vm::process::ProcessRecord;

use super::Pod;
use super::calls::SIGKILL;
use crate::anchor::Anchor;
use crate::container::Container;
use crate::error::SandboxError;
use crate::process::Process;

impl Pod {
    /// What stands for a container of this pod on the host.
    pub(super) fn anchor(
        &self,
        monitor: Option<ProcessRecord>,
    ) -> Result<Arc<Anchor>, SandboxError> {
        let anchor = match monitor {
            Some(monitor) => Anchor::monitor(monitor),
            None => Anchor::drop_in(&self.config.network),
        };
        anchor.map(Arc::new)
    }

    /// Kills a process when its monitor ends: its engine takes that for the process's own end, and nobody else would
    /// end or forget it. The container ends with its first. With the last container that has ended so the pod ends, as
    /// nothing can be started in it any more; unless something has to run when the container is deleted.
    pub(super) fn end_with_monitor(
        self: &Arc<Self>,
        container: &Arc<Container>,
        process: &Arc<Process>,
    ) {
        if process.anchor().record().is_none() || process.waits_for_start() {
            return;
        }
        let (pod, id) = (Arc::clone(self), container.id().to_owned());
        let process = Arc::clone(process);
        tokio::spawn(async move {
            process.anchor().gone().await;
            let exec_id = process.exec_id();
            let is_init = exec_id.is_empty();
            if process.exit().is_none() {
                if let Err(error) = pod.kill(&id, exec_id, SIGKILL, is_init).await
                    && process.exit().is_none()
                {
                    tracing::error!(container = id, exec_id, %error, "cannot kill a process whose monitor is gone");
                }
                process.wait().await;
            }
            if !is_init {
                // Usually the monitor has done that.
                let _ = pod.delete(&id, exec_id).await;
            } else if pod.is_done_with().await {
                pod.done_with.send_replace(true);
            }
        });
    }

    /// Whether all containers have ended that processes stand for on the host, and nothing is to come.
    async fn is_done_with(&self) -> bool {
        let containers = self.containers.lock().await;
        !containers.is_empty()
            && containers.values().all(|container| {
                let init = container.init();
                init.exit().is_some()
                    && init.anchor().record().is_some()
                    && !container.hooks().wait_for_deletion()
            })
    }
}
