//! Firecracker: virtio over MMIO, no ACPI, direct PVH boot. It needs KVM, and has no virtio-fs.
//!
//! It is started with its whole configuration in a file, so the guest boots without a request of ours. It serves the
//! hybrid vsock socket and its API in directories that belong to it, and opens its taps by their names; all else is
//! handed over as open descriptors.
//!
//! - `config_file`: what it runs (`src/firecracker/swagger/firecracker.yaml` of its sources)
//! - `machine`: the running machine
//! - `api`: requests to it (the same document)
//! - `tap`: taps that it can open

mod api;
mod config_file;
mod machine;
mod tap;

use std::path::PathBuf;
use std::process::Stdio;

use async_trait::async_trait;
use tokio::process::Command;

use crate::config::VmConfig;
use crate::confine::{Identity, confine};
use crate::driver::{Capabilities, Driver, NetDevices, Vm, VmRecord};
use crate::error::VmError;
use crate::memory::{Layout, Memory};
use crate::pipe;
use crate::process::{self, Process};
use crate::program::Program;

use config_file::{ConfigFile, Places};
use machine::Machine;

/// [`Driver::name`].
const NAME: &str = "firecracker";
/// Its program.
pub const PROGRAM: Program = Program {
    title: "Firecracker",
    name: "firecracker",
    variable: "HULL_FIRECRACKER",
    advice: "put Firecracker's program there, or name it by the variable HULL_FIRECRACKER",
};

/// Where it has a machine's memory (`src/vmm/src/arch/x86_64/layout.rs` of its sources).
const LAYOUT: Layout = Layout {
    split_mib: 3072,
    low_mib: 3072,
};

/// There are interrupts for 17 devices on MMIO, of which vsock takes one.
const MOST_DEVICES: usize = 16;

/// The Firecracker driver.
#[derive(Debug)]
pub struct Firecracker {
    program: PathBuf,
}

impl Firecracker {
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
impl Driver for Firecracker {
    fn name(&self) -> &'static str {
        NAME
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            translator: false,
            virtio_fs: false,
            net: NetDevices::NamedTap,
            pause: true,
            devices: MOST_DEVICES,
        }
    }

    async fn launch(&self, mut config: VmConfig) -> Result<Box<dyn Vm>, VmError> {
        config.validate()?;
        let accelerator = config.acceleration.hardware(NAME)?;
        let identity = Identity::choose(accelerator);
        identity.give_all(config.vsock_dir())?;
        let run_dir = config.run_dir.clone();
        let api_dir = api::make_dir(&run_dir, identity)?;
        let network = config.network_namespace.take();

        let console = pipe::make(&pipe::console(&run_dir), identity)?;
        let reader = pipe::open(&pipe::console(&run_dir))?;
        let places = Places {
            kernel: process::open_file(&config.boot.kernel)?,
            initramfs: process::open_file(&config.boot.initramfs)?,
            vsock_dir: process::open_place(config.vsock_dir())?,
        };
        let memory = Memory::new(config.size, config.max, LAYOUT);
        let file = ConfigFile::new(config, memory, places, |tap| tap::keep(tap, identity))?;
        let mut inherited = file.inherited;
        let written = config_file::write(&file.json)?;
        let mut command = Command::new(&self.program);
        command
            .arg("--config-file")
            .arg(process::path_of(&written))
            .arg("--api-sock")
            .arg(api::socket(process::path_of(&api_dir)))
            .args(["--level", "Warning"]);
        tracing::debug!(configuration = %file.json, "starting Firecracker");
        inherited.extend([written, api_dir]);
        confine(&mut command, identity, network);
        let log = process::log_of(&run_dir, PROGRAM.name);
        let vmm = Process::spawn_with_output(command, inherited, Stdio::from(console), &log)?;
        let machine = Machine::follow(vmm, accelerator, run_dir, reader).await?;
        Ok(Box::new(machine))
    }

    async fn attach(&self, record: &VmRecord) -> Result<Box<dyn Vm>, VmError> {
        let vmm = Process::attach(record.vmm, PROGRAM.name)?;
        let run_dir = record.run_dir.clone();
        let reader = pipe::open(&pipe::console(&run_dir))?;
        let machine = Machine::follow(vmm, record.accelerator, run_dir, reader).await?;
        Ok(Box::new(machine))
    }
}
