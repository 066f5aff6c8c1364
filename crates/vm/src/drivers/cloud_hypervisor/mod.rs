//! Cloud Hypervisor: virtio over PCI, ACPI, direct PVH boot. It needs KVM.
//!
//! It is started with its whole configuration on the command line, so the guest boots without a request of ours. It
//! serves the hybrid vsock socket itself, in a directory that belongs to it; all else is handed over as open descriptors.
//!
//! - `command_line`: how it is started
//! - `machine`: the running machine
//! - `api`: requests to it (`vmm/src/api/openapi/cloud-hypervisor.yaml` of its sources)
//! - `events`: what it tells without being asked
//! - `restored`: how it is started to go on from a snapshot

mod api;
mod command_line;
mod events;
mod machine;
mod restored;
#[cfg(test)]
mod tests;

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::process::Command;

use crate::accel::Accelerator;
use crate::command_line::CommandLine;
use crate::config::{Device, VmConfig};
use crate::confine::{Identity, Reach, confine};
use crate::driver::{Capabilities, Driver, NetDevices, Vm, VmRecord};
use crate::error::VmError;
use crate::memory::{Booting, Layout, Memory};
use crate::pipe;
use crate::process::{self, Process};
use crate::program::Program;
use crate::snapshot::{Outlet, Snapshot};

use command_line::{Handed, Payload};
use machine::{Machine, Parts, Readers};

/// [`Driver::name`].
const NAME: &str = "cloud-hypervisor";
/// Its program.
pub const PROGRAM: Program = Program {
    title: "Cloud Hypervisor",
    name: "cloud-hypervisor",
    variable: "HULL_CLOUD_HYPERVISOR",
    advice: "put Cloud Hypervisor's program there, or name it by the variable HULL_CLOUD_HYPERVISOR",
};

/// Where it has a machine's memory (`arch/src/x86_64/layout.rs` of its sources).
const LAYOUT: Layout = Layout {
    split_mib: 3072,
    low_mib: 3072,
};

/// The bus has 32 places, of which the host bridge and vsock take one each.
const MOST_DEVICES: usize = 30;

/// The Cloud Hypervisor driver.
#[derive(Debug)]
pub struct CloudHypervisor {
    program: PathBuf,
}

impl CloudHypervisor {
    /// Finds it.
    ///
    /// # Errors
    /// When it is not installed.
    pub fn find() -> Result<Self, VmError> {
        Ok(Self {
            program: PROGRAM.find()?,
        })
    }
}

#[async_trait]
impl Driver for CloudHypervisor {
    fn name(&self) -> &'static str {
        NAME
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            translator: false,
            virtio_fs: true,
            net: NetDevices::Tap,
            pause: true,
            snapshot: true,
            devices: MOST_DEVICES,
        }
    }

    async fn launch(&self, config: VmConfig) -> Result<Box<dyn Vm>, VmError> {
        config.validate()?;
        let accelerator = config.acceleration.hardware(NAME)?;
        Ok(Box::new(self.launched(config, accelerator).await?))
    }

    async fn restore(&self, config: VmConfig, snapshot: &Snapshot) -> Result<Box<dyn Vm>, VmError> {
        snapshot.check(NAME, &config)?;
        let accelerator = config.acceleration.hardware(NAME)?;
        Ok(Box::new(
            self.restored(config, accelerator, snapshot).await?,
        ))
    }

    async fn attach(&self, record: &VmRecord) -> Result<Box<dyn Vm>, VmError> {
        let run_dir = &record.run_dir;
        let vmm = Process::attach_in(run_dir, record.vmm, PROGRAM.name)?;
        let vmm = Arc::new(vmm);
        let readers = Readers::open(run_dir)?;
        let outlet = Outlet::find(record);
        let booting = Booting::default();
        let parts = Parts::follow(run_dir.clone(), readers, &vmm, booting, outlet).await?;
        Ok(Box::new(Machine::new(vmm, record.accelerator, parts)))
    }
}

/// A machine before its VMM runs.
#[derive(Debug)]
struct Starting {
    accelerator: Accelerator,
    identity: Identity,
    network: Option<OwnedFd>,
    run_dir: PathBuf,
    readers: Readers,
    booting: Booting,
    outlet: Outlet,
}

impl Starting {
    /// Makes what it finds, with this memory.
    fn prepare(
        config: &mut VmConfig,
        accelerator: Accelerator,
        booting: Booting,
        memory: OwnedFd,
    ) -> Result<(Self, Handed), VmError> {
        let identity = Identity::choose(accelerator);
        give_files(config, identity)?;
        let run_dir = config.run_dir.clone();
        let api = process::listen(&api::socket(&run_dir))?;
        let console = pipe::make(&pipe::console(&run_dir), identity)?;
        let events = pipe::make(&events::pipe(&run_dir), identity)?;
        let (outlet, outlet_dir) = Outlet::make(config)?;
        let handed = Handed {
            memory,
            vsock_dir: process::open_place(config.vsock_dir())?,
            outlet: outlet_dir,
            api,
            console,
            events,
        };
        let starting = Self {
            accelerator,
            identity,
            network: config.network_namespace.take(),
            readers: Readers::open(&run_dir)?,
            run_dir,
            booting,
            outlet,
        };
        Ok((starting, handed))
    }
}

impl CloudHypervisor {
    async fn launched(
        &self,
        mut config: VmConfig,
        accelerator: Accelerator,
    ) -> Result<Machine, VmError> {
        let memory = Memory::new(config.size, config.max, LAYOUT);
        let (booting, file) = Booting::new(config.size, memory)?;
        let (starting, handed) = Starting::prepare(&mut config, accelerator, booting, file)?;
        let payload = Payload::open(&config.boot)?;
        let line = command_line::build(config, memory, payload, handed)?;
        self.start(starting, line).await
    }

    async fn restored(
        &self,
        mut config: VmConfig,
        accelerator: Accelerator,
        snapshot: &Snapshot,
    ) -> Result<Machine, VmError> {
        let file = Memory::new(config.size, config.max, LAYOUT).file()?;
        let booting = Booting::default();
        let (starting, handed) = Starting::prepare(&mut config, accelerator, booting, file.into())?;
        let line = restored::build(config, snapshot, handed, starting.identity)?;
        let machine = self.start(starting, line).await?;
        machine.resumed().await?;
        Ok(machine)
    }

    async fn start(&self, starting: Starting, line: CommandLine) -> Result<Machine, VmError> {
        let Starting {
            accelerator,
            identity,
            network,
            run_dir,
            readers,
            booting,
            outlet,
        } = starting;
        tracing::debug!(arguments = ?line.arguments, "starting Cloud Hypervisor");
        let mut command = Command::new(&self.program);
        command.args(&line.arguments);
        let reach = Reach {
            program: &self.program,
            data: &[],
            devices: &["/dev/kvm", "/dev/urandom"],
            handed: &line.inherited,
        };
        confine(&mut command, identity, network, &reach)?;
        let log = process::log_of(&run_dir, PROGRAM.name);
        let vmm = Arc::new(Process::spawn(command, line.inherited, &log)?);
        // From here on the VMM alone holds the pipes' other ends, and its end is theirs.
        let parts = Parts::follow(run_dir, readers, &vmm, booting, Some(outlet)).await?;
        Ok(Machine::new(vmm, accelerator, parts))
    }
}

/// What the VMM opens or connects to by its path, though it cannot reach it there: the vsock directory, whose sockets
/// are its own or lead to listeners of ours, and those of the file servers.
fn give_files(config: &VmConfig, identity: Identity) -> Result<(), VmError> {
    identity.give_all(config.vsock_dir())?;
    for device in &config.devices {
        if let Device::Fs { socket, .. } = device {
            identity.give(socket)?;
        }
    }
    Ok(())
}
