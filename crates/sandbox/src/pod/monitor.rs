//! What stands for a container on the host, and what its end means.

use std::sync::Arc;

use hull_vm::process::ProcessRecord;

use super::Pod;
use super::calls::SIGKILL;
use crate::anchor::Anchor;
use crate::container::Container;
use crate::error::SandboxError;

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

    /// Kills a container when the process ends that stands for it: its engine takes that for the container's end.
    /// With the last container that has ended so the pod ends, as nothing can be started in it any more; unless
    /// something has to run when the container is deleted.
    pub(super) fn end_with_monitor(self: &Arc<Self>, container: &Arc<Container>) {
        let init = Arc::clone(container.init());
        if init.anchor().record().is_none() {
            return;
        }
        let (pod, id) = (Arc::clone(self), container.id().to_owned());
        tokio::spawn(async move {
            init.anchor().gone().await;
            if init.exit().is_none() {
                if let Err(error) = pod.kill(&id, "", SIGKILL, true).await
                    && init.exit().is_none()
                {
                    tracing::error!(container = id, %error, "cannot kill a container whose monitor is gone");
                }
                init.wait().await;
            }
            if pod.is_done_with().await {
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
