//! The state file: what a pod process that is started again needs to take the pod over.

use std::path::Path;
use std::sync::Arc;

use hull_vm::VmRecord;
use hull_vm::process::ProcessRecord;
use serde::{Deserialize, Serialize};

use super::{Machine, Pod, boot};
use crate::config::PodConfig;
use crate::container::{Container, ContainerRecord};
use crate::error::SandboxError;
use crate::guest::Guest;
use crate::network::{NetworkRecord, PodNetwork};
use crate::share::Share;

const FILE: &str = "state.json";

/// What is in the state file.
#[derive(Debug, Serialize, Deserialize)]
struct PodRecord {
    vm: VmRecord,
    file_server: ProcessRecord,
    network: NetworkRecord,
    containers: Vec<ContainerRecord>,
}

/// The VMM of the pod in `state_dir`, if it runs.
#[must_use]
pub fn live_vmm(state_dir: &Path) -> Option<ProcessRecord> {
    let bytes = std::fs::read(state_dir.join(FILE)).ok()?;
    let record: PodRecord = serde_json::from_slice(&bytes).ok()?;
    Some(record.vm.vmm).filter(ProcessRecord::is_alive)
}

impl Pod {
    /// Writes the state file.
    pub(super) async fn save(&self) -> Result<(), SandboxError> {
        // Held while writing: the last writer has seen the latest state.
        let containers = self.containers.lock().await;
        let record = PodRecord {
            vm: self.machine.vm.record(),
            file_server: self.machine.share.server().record(),
            network: self.machine.network.record(),
            containers: containers
                .values()
                .map(|container| container.record())
                .collect(),
        };
        let bytes = serde_json::to_vec(&record).expect("plain data encodes");
        let path = self.state_dir.join(FILE);
        let new = self.state_dir.join("state.json.new");
        std::fs::write(&new, bytes)
            .and_then(|()| std::fs::rename(&new, &path))
            .map_err(SandboxError::host(format!("write {}", path.display())))
    }

    /// Takes over the pod of a pod process that is gone.
    ///
    /// # Errors
    /// When the pod's processes are gone too, or the guest does not answer.
    pub async fn attach(config: PodConfig, state_dir: &Path) -> Result<Arc<Self>, SandboxError> {
        let path = state_dir.join(FILE);
        let bytes =
            std::fs::read(&path).map_err(SandboxError::host(format!("read {}", path.display())))?;
        let record: PodRecord = serde_json::from_slice(&bytes)
            .map_err(|source| SandboxError::Malformed { path, source })?;
        let machine = Machine {
            vm: boot::driver(config.vmm)?.attach(&record.vm).await?,
            share: Share::attach(state_dir, record.file_server)?,
            network: PodNetwork::attach(&record.network)?,
        };
        let guest = Guest::connect(&boot::vsock(state_dir)).await?;
        let pod = Self::with_guest(config, state_dir, machine, guest);
        for record in record.containers {
            let container = Arc::new(Container::from_record(record, pod.machine.share.dir()));
            pod.containers
                .lock()
                .await
                .insert(container.id().to_owned(), Arc::clone(&container));
            pod.set_first(&container);
            for process in container.execs().iter().chain([container.init()]) {
                pod.take_over(&container, process).await?;
            }
        }
        Ok(pod)
    }

    async fn take_over(
        self: &Arc<Self>,
        container: &Arc<Container>,
        process: &Arc<crate::process::Process>,
    ) -> Result<(), SandboxError> {
        let waits_for_start =
            process.process.is_some() && process.status() == crate::state::Status::Created;
        if process.exit().is_none() && !waits_for_start {
            process.reopen_stdio(&self.guest).await?;
            self.follow(container, process);
        }
        Ok(())
    }
}
