//! Cloud Hypervisor: virtio over PCI, ACPI, direct PVH boot. It needs KVM.
//!
//! It is started with its whole configuration on the command line, so the guest boots without a request of ours. It
//! serves the hybrid vsock socket itself, in a directory that belongs to it; all else is handed over as open descriptors.
//!
//! - `command_line`: how it is started
//! - `machine`: the running machine
//! - `api`: requests to it (`vmm/src/api/openapi/cloud-hypervisor.yaml` of its sources)
//! - `events`: what it tells without being asked

mod api;
mod command_line;
mod events;
mod machine;

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::process::Command;

use crate::config::{Device, VmConfig};
use crate::confine::{Identity, confine};
use crate::driver::{Capabilities, Driver, NetDevices, Vm, VmRecord};
use crate::error::VmError;
use crate::memory::{Booting, Layout, Memory};
use crate::pipe;
use crate::process::{self, Process};
use crate::program::Program;

use command_line::Handed;
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
            devices: MOST_DEVICES,
        }
    }

    async fn launch(&self, mut config: VmConfig) -> Result<Box<dyn Vm>, VmError> {
        config.validate()?;
        let accelerator = config.acceleration.hardware(NAME)?;
        let identity = Identity::choose(accelerator);
        give_files(&config, identity)?;

        let run_dir = config.run_dir.clone();
        let network = config.network_namespace.take();
        let api = process::listen(&api::socket(&run_dir))?;
        let console = pipe::make(&pipe::console(&run_dir), identity)?;
        let events = pipe::make(&events::pipe(&run_dir), identity)?;
        let memory = Memory::new(config.size, config.max, LAYOUT);
        let (booting, file) = Booting::new(config.size, memory)?;
        let readers = Readers::open(&run_dir)?;
        let handed = Handed::open(&config, file, api, console, events)?;
        let line = command_line::build(config, memory, handed)?;
        tracing::debug!(arguments = ?line.arguments, "starting Cloud Hypervisor");
        let mut command = Command::new(&self.program);
        command.args(&line.arguments);
        confine(&mut command, identity, network);
        let log = process::log_of(&run_dir, PROGRAM.name);
        let vmm = Arc::new(Process::spawn(command, line.inherited, &log)?);
        // From here on the VMM alone holds the pipes' other ends, and its end is theirs.
        let parts = Parts::follow(run_dir, readers, &vmm, booting).await?;
        Ok(Box::new(Machine::new(vmm, accelerator, parts)))
    }

    async fn attach(&self, record: &VmRecord) -> Result<Box<dyn Vm>, VmError> {
        let vmm = Arc::new(Process::attach(record.vmm, PROGRAM.name)?);
        let readers = Readers::open(&record.run_dir)?;
        let parts =
            Parts::follow(record.run_dir.clone(), readers, &vmm, Booting::default()).await?;
        Ok(Box::new(Machine::new(vmm, record.accelerator, parts)))
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
