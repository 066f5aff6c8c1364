//! QEMU, with the `microvm` machine: virtio over MMIO, no PCI, no firmware, direct PVH boot.
//!
//! vsock is served by `hull-vsock`, our vhost-user back end, so no host kernel module is needed and
//! the host side speaks the same hybrid protocol as with every other VMM.

mod clock;
mod command_line;
mod machine;
mod qmp;

use std::os::fd::AsRawFd;
use std::path::PathBuf;

use async_trait::async_trait;
use tokio::process::Command;

use crate::accel::Accelerator;
use crate::config::VmConfig;
use crate::confine::{Identity, Reach, confine};
use crate::driver::{Capabilities, Driver, NetDevices, Vm, VmRecord};
use crate::error::VmError;
use crate::memory::{Booting, Layout, Memory};
use crate::process::{self, Process};
use crate::program::Program;
use crate::snapshot::Snapshot;

use command_line::{Handed, Sockets};
use machine::Machine;

/// [`Driver::name`].
const NAME: &str = "qemu";
/// QEMU's program.
pub const PROGRAM: Program = Program {
    title: "QEMU",
    name: "qemu-system-x86_64",
    variable: "HULL_QEMU",
    advice: "install the package qemu-system-x86",
};
/// File name of the vsock back end.
pub const VSOCK_PROGRAM: &str = "hull-vsock";

/// Where its firmware is.
const DATA: [&str; 2] = ["share/qemu", "share/seabios"];

/// The devices that it opens.
fn devices(accelerator: Accelerator) -> &'static [&'static str] {
    match accelerator {
        Accelerator::Kvm => &["/dev/urandom", "/dev/kvm"],
        Accelerator::Tcg => &["/dev/urandom"],
    }
}

/// Where a microvm has its memory.
const LAYOUT: Layout = Layout {
    split_mib: 3584,
    low_mib: 3072,
};

/// The machine has eight places for virtio devices, of which vsock takes one.
const MOST_DEVICES: usize = 7;

/// The QEMU driver.
#[derive(Debug)]
pub struct Qemu {
    program: PathBuf,
    vsock_program: PathBuf,
}

impl Qemu {
    /// Finds QEMU and our vsock back end.
    ///
    /// # Errors
    /// When one of them is not installed.
    pub fn find() -> Result<Self, VmError> {
        Ok(Self {
            program: PROGRAM.find()?,
            vsock_program: process::require_program(
                VSOCK_PROGRAM,
                "it belongs beside hull's other programs: install Hull again",
            )?,
        })
    }

    fn spawn_vsock(&self, config: &VmConfig, sockets: &Sockets) -> Result<Process, VmError> {
        let vhost = process::listen(&sockets.vsock_vhost)?;
        let hybrid = process::listen(&config.vsock)?;
        let mut command = Command::new(&self.vsock_program);
        command
            .arg("--vhost-socket-fd")
            .arg(vhost.as_raw_fd().to_string())
            .arg("--listen-fd")
            .arg(hybrid.as_raw_fd().to_string())
            .arg("--uds")
            .arg(&config.vsock);
        Process::spawn(
            command,
            vec![vhost, hybrid],
            &process::log_of(&config.run_dir, VSOCK_PROGRAM),
        )
    }
}

#[async_trait]
impl Driver for Qemu {
    fn name(&self) -> &'static str {
        NAME
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            translator: true,
            virtio_fs: true,
            net: NetDevices::Stream,
            pause: true,
            snapshot: false,
            devices: MOST_DEVICES,
        }
    }

    async fn launch(&self, config: VmConfig) -> Result<Box<dyn Vm>, VmError> {
        config.validate()?;
        let accelerator = config.acceleration.resolve()?;
        let sockets = Sockets::in_dir(&config.run_dir);
        let vsock = self.spawn_vsock(&config, &sockets)?;
        match self.launch_with(config, accelerator, &sockets).await {
            Ok((vmm, parts)) => Ok(Box::new(Machine::new(vmm, vsock, parts))),
            Err(error) => {
                vsock.kill().await;
                Err(error)
            }
        }
    }

    async fn restore(
        &self,
        _config: VmConfig,
        _snapshot: &Snapshot,
    ) -> Result<Box<dyn Vm>, VmError> {
        Err(no_snapshots())
    }

    async fn attach(&self, record: &VmRecord) -> Result<Box<dyn Vm>, VmError> {
        Ok(Box::new(Machine::attach(record).await?))
    }
}

/// It saves no machine whose vsock is served by another process (`vhost-user-vsock` is marked `unmigratable`).
fn no_snapshots() -> VmError {
    VmError::Unsupported {
        driver: NAME,
        what: "take a snapshot of a machine, or go on from one",
    }
}

impl Qemu {
    async fn launch_with(
        &self,
        mut config: VmConfig,
        accelerator: Accelerator,
        sockets: &Sockets,
    ) -> Result<(Process, machine::Parts), VmError> {
        // We connect before QEMU runs: the connections wait in the listeners' queues, and nothing
        // that QEMU or the guest says first is missed.
        let qmp_listener = process::listen(&sockets.qmp)?;
        let console_listener = process::listen(&sockets.console)?;
        let connections = machine::Connections::open(sockets, &config.run_dir).await?;

        let run_dir = config.run_dir.clone();
        let network = config.network_namespace.take();
        let memory = Memory::new(config.size, config.max, LAYOUT);
        let (booting, file) = Booting::new(config.size, memory)?;
        let handed = Handed::open(&config, file, sockets, qmp_listener, console_listener)?;
        let line = command_line::build(config, memory, accelerator, handed)?;
        tracing::debug!(arguments = ?line.arguments, "starting QEMU");
        let mut command = Command::new(&self.program);
        command.args(&line.arguments);
        let reach = Reach {
            program: &self.program,
            data: &DATA,
            devices: devices(accelerator),
            handed: &line.inherited,
        };
        confine(&mut command, Identity::choose(accelerator), network, &reach)?;
        let vmm = Process::spawn(
            command,
            line.inherited,
            &process::log_of(&run_dir, PROGRAM.name),
        )?;
        let parts = machine::Parts {
            run_dir,
            accelerator,
            connections,
            booting,
        };
        Ok((vmm, parts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::confine::has_landlock;
    use crate::stand_in::{READS, StandIn};

    #[tokio::test]
    async fn a_vmm_reads_nothing_of_the_host_but_randomness() {
        if !has_landlock() {
            return;
        }
        let stand_in = StandIn::new();
        stand_in.order(READS);
        let qemu = Qemu {
            program: stand_in.program(),
            vsock_program: PathBuf::new(),
        };
        let config = stand_in.config(vec![]);
        let sockets = Sockets::in_dir(&stand_in.path(""));
        let _vsock = process::listen(&sockets.vsock_vhost).unwrap();
        let started = qemu.launch_with(config, Accelerator::Tcg, &sockets).await;
        let (vmm, _parts) = started.unwrap();
        vmm.wait().await;
        assert_eq!(vmm.log_tail(), "/dev/urandom");
    }

    #[test]
    fn a_translator_does_not_open_kvm() {
        assert!(devices(Accelerator::Kvm).contains(&"/dev/kvm"));
        assert!(!devices(Accelerator::Tcg).contains(&"/dev/kvm"));
    }
}
