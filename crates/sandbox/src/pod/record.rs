//! The state file: what a pod process that is started again needs to take the pod over.

use std::path::Path;
use std::sync::Arc;

use hull_vm::process::{Process, ProcessRecord};
use hull_vm::{MachineSize, VmRecord};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use super::{Machine, Pod, boot, template};
use crate::anchor::Anchor;
use crate::config::PodConfig;
use crate::container::{Container, ContainerRecord};
use crate::error::SandboxError;
use crate::guest::Guest;
use crate::json_file;
use crate::network::{NetworkRecord, PodNetwork};
use crate::share::Share;

const FILE: &str = "state.json";

/// What is in the state file.
#[derive(Debug, Serialize, Deserialize)]
struct PodRecord {
    pod_process: ProcessRecord,
    vm: VmRecord,
    file_server: ProcessRecord,
    network: NetworkRecord,
    size: MachineSize,
    containers: Vec<ContainerRecord>,
}

impl PodRecord {
    /// The record of the pod in `state_dir`. Without one nothing was started, or not by this version.
    fn find(state_dir: &Path) -> Option<Self> {
        json_file::read(state_dir.join(FILE)).ok()
    }

    /// Ends the machine, whatever of it still runs.
    async fn kill(&self) {
        let servers = [self.file_server]
            .into_iter()
            .chain(self.network.processes());
        kill_all(processes(&self.vm).chain(servers)).await;
        self.network.release().await;
    }
}

fn processes(vm: &VmRecord) -> impl Iterator<Item = ProcessRecord> {
    [vm.vmm].into_iter().chain(vm.helpers.clone())
}

/// Ends those that run.
async fn kill_all(processes: impl Iterator<Item = ProcessRecord>) {
    // One that has ended cannot be found.
    let found =
        processes.filter_map(|process| Process::attach(process, "a process of the pod").ok());
    let running: Vec<Process> = found.collect();
    // All at once: a VMM takes its time to give its memory back.
    for process in &running {
        process.signal(Signal::SIGKILL);
    }
    for process in &running {
        process.wait().await;
    }
}

/// The VMM of the pod in `state_dir`, or that of a template which was being made for it, if it runs.
#[must_use]
pub fn live_vmm(state_dir: &Path) -> Option<ProcessRecord> {
    let own = PodRecord::find(state_dir).map(|record| record.vm);
    let vms = own.into_iter().chain(template::unfinished(state_dir));
    vms.map(|vm| vm.vmm).find(ProcessRecord::is_alive)
}

/// The pod process of the pod in `state_dir`, if it runs.
#[must_use]
pub fn live_pod_process(state_dir: &Path) -> Option<ProcessRecord> {
    let record = PodRecord::find(state_dir)?;
    Some(record.pod_process).filter(ProcessRecord::is_alive)
}

/// Writes the state file of a pod with this machine and these containers.
pub(super) fn save(
    state_dir: &Path,
    machine: &Machine,
    size: MachineSize,
    containers: Vec<ContainerRecord>,
) -> Result<(), SandboxError> {
    let own = i32::try_from(std::process::id()).unwrap_or_default();
    let record = PodRecord {
        pod_process: ProcessRecord::of(own)
            .map_err(SandboxError::host("read when this process began"))?,
        vm: machine.vm.record(),
        file_server: machine.share.server().record(),
        network: machine.network.record(),
        size,
        containers,
    };
    let bytes = serde_json::to_vec(&record).expect("plain data encodes");
    let path = state_dir.join(FILE);
    let new = state_dir.join("state.json.new");
    let written = std::fs::write(&new, bytes).and_then(|()| std::fs::rename(&new, &path));
    if written.is_err() {
        // On a full disk this is what little room there was. The one before it is still good.
        let _ = std::fs::remove_file(&new);
    }
    written.map_err(SandboxError::host(format!("write {}", path.display())))
}

/// Ends the machine of the pod in `state_dir` that could not be taken over, and that of a template which was being made.
pub async fn abandon(state_dir: &Path) {
    if let Some(vm) = template::unfinished(state_dir) {
        kill_all(processes(&vm)).await;
    }
    if let Some(record) = PodRecord::find(state_dir) {
        record.kill().await;
    }
}

/// Ends what is left of the pod in `state_dir`, whatever state it is in, and removes the directory. A
/// pod process that still runs is killed too, as one that was asked in vain.
///
/// # Errors
/// When something cannot be removed.
pub async fn destroy(state_dir: &Path) -> Result<(), SandboxError> {
    // Read first: a pod process that is about to end removes it.
    let config = PodConfig::read(state_dir);
    if let Some(record) = PodRecord::find(state_dir)
        && let Ok(process) = Process::attach(record.pod_process, "the pod process")
    {
        process.kill().await;
    }
    abandon(state_dir).await;
    // The directory last: it says what there is to remove.
    let group = config.ok().map(|config| config.host_group()).transpose()?;
    group.flatten().map_or(Ok(()), |group| group.remove())?;
    // The pod's mounts were in a mount namespace that is gone with its last process.
    match std::fs::remove_dir_all(state_dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            let what = format!("remove {}", state_dir.display());
            Err(SandboxError::host(what)(error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

impl Pod {
    /// Writes the state file.
    pub(super) async fn save(&self) -> Result<(), SandboxError> {
        // Held while writing: the last writer has seen the latest state.
        let containers = self.containers.lock().await;
        let records = containers.values().map(|container| container.record());
        let size = *self.size.lock().await;
        save(&self.state_dir, &self.machine, size, records.collect())
    }

    /// Takes over the pod of a pod process that is gone.
    ///
    /// # Errors
    /// When one of the pod's processes is gone too, or the guest does not answer. [`abandon`] is for the
    /// others then.
    pub async fn attach(config: PodConfig, state_dir: &Path) -> Result<Arc<Self>, SandboxError> {
        let record: PodRecord = json_file::read(state_dir.join(FILE))?;
        let machine = Machine {
            vm: config.vmm.driver()?.attach(&record.vm).await?,
            share: Share::attach(state_dir, record.file_server)?,
            network: PodNetwork::attach(&record.network).await?,
        };
        let guest = Guest::connect(&boot::vsock(state_dir)).await?;
        let pod = Self::with_guest(config, state_dir, machine, guest, record.size);
        for record in record.containers {
            let anchor = match record.monitor() {
                Some(monitor) => Arc::new(Anchor::taken_over(monitor)),
                None => pod.anchor(None)?,
            };
            let share = pod.machine.share.dir();
            let container = Arc::new(Container::from_record(record, share, &anchor));
            pod.containers
                .lock()
                .await
                .insert(container.id().to_owned(), Arc::clone(&container));
            pod.set_first(&container);
            for process in container.execs().iter().chain([container.init()]) {
                pod.take_over(&container, process).await?;
            }
            if container.init().exit().is_none() {
                pod.reopen_notify_socket(&container).await?;
            }
        }
        // When all are known: those whose monitors have ended may be all there are.
        for container in pod.containers.lock().await.values() {
            for process in container.execs().iter().chain([container.init()]) {
                pod.end_with_monitor(container, process);
            }
        }
        pod.serve_names().await;
        Ok(pod)
    }

    async fn take_over(
        self: &Arc<Self>,
        container: &Arc<Container>,
        process: &Arc<crate::process::Process>,
    ) -> Result<(), SandboxError> {
        let in_guest = !process.is_placeholder() && !process.waits_for_start();
        if process.exit().is_none() && in_guest {
            process
                .reopen_stdio(&self.guest, &self.config.namespace)
                .await?;
            self.follow(container, process);
        }
        Ok(())
    }
}
