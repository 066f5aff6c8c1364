//! The processes on the host that one of several pods consists of.

use std::path::Path;

use hull_vm::Vmm;

use crate::traces::{parent_of, pids_of};

/// The program of a pod process.
pub const POD_PROCESS: &str = "containerd-shim-hull-v2";

/// The VMM's.
#[must_use]
pub fn vmm() -> &'static str {
    crate::settings::vmm().program().name
}

/// What errors call it.
#[must_use]
pub fn vmm_title() -> &'static str {
    crate::settings::vmm().program().title
}

/// The environment variable that names another one of this VMM's.
#[must_use]
pub fn vmm_variable() -> &'static str {
    crate::settings::vmm().program().variable
}

/// Whether the VMM of this run takes snapshots of its machines.
#[must_use]
pub fn takes_snapshots() -> bool {
    crate::settings::vmm() != Vmm::Qemu
}

/// Those that a virtual machine cannot do without.
#[must_use]
pub fn programs() -> Vec<&'static str> {
    match crate::settings::vmm() {
        Vmm::Qemu => vec![vmm(), "hull-fs", "hull-vsock"],
        // They serve the guest's vsock themselves.
        Vmm::CloudHypervisor | Vmm::Firecracker => vec![vmm(), "hull-fs"],
    }
}

/// The pod process of the pod with this host name, below Hull's `root`, if it runs.
fn pod_process(root: &Path, hostname: &str) -> Option<i32> {
    let named = |dir: &Path| {
        let config = std::fs::read(dir.join("pod.json")).unwrap_or_default();
        let config: serde_json::Value = serde_json::from_slice(&config).unwrap_or_default();
        config["hostname"] == hostname
    };
    let pods = std::fs::read_dir(root.join("run")).ok()?.flatten();
    let dir = pods.map(|entry| entry.path()).find(|dir| named(dir))?;
    let argument = format!("--state-dir {}", dir.display());
    pids_of(POD_PROCESS, &argument).first().copied()
}

/// The process of that pod that runs `program`, if it does.
#[must_use]
pub fn process_of_pod(root: &Path, hostname: &str, program: &str) -> Option<i32> {
    let pod = pod_process(root, hostname)?;
    match program {
        POD_PROCESS => Some(pod),
        _ => pids_of(program, "")
            .into_iter()
            .find(|pid| parent_of(*pid) == Some(pod)),
    }
}

/// Whether a process has not ended; a zombie has.
#[must_use]
pub fn is_running(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat
        .rsplit_once(") ")
        .map(|(_, fields)| fields.as_bytes()[0]);
    state.is_some_and(|state| !b"ZX".contains(&state))
}
