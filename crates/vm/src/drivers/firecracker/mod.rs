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
#[cfg(test)]
mod tests;

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Stdio;

use async_trait::async_trait;
use tokio::net::unix::pipe::Receiver;
use tokio::process::Command;

use crate::accel::Accelerator;
use crate::config::{Device, VmConfig};
use crate::confine::{Identity, Reach, confine};
use crate::driver::{Capabilities, Driver, NetDevices, Vm, VmRecord};
use crate::error::VmError;
use crate::memory::{Layout, Memory};
use crate::pipe;
use crate::process::{self, Process};
use crate::program::Program;
use crate::snapshot::{Outlet, Snapshot};

use api::Loaded;
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

/// What it writes of a machine: the state of its devices and virtual CPUs, and the guest's memory.
const FILES: [&str; 2] = ["state", "memory"];

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
        let run_dir = record.run_dir.clone();
        let vmm = Process::attach_in(&run_dir, record.vmm, PROGRAM.name)?;
        let console = pipe::open(&pipe::console(&run_dir))?;
        let outlet = Outlet::find(record);
        let machine = Machine::follow(vmm, record.accelerator, run_dir, console, outlet).await?;
        Ok(Box::new(machine))
    }
}

/// The host's devices that it opens for these.
fn devices(devices: &[Device]) -> &'static [&'static str] {
    match devices.iter().any(|it| matches!(it, Device::Net { .. })) {
        true => &["/dev/kvm", "/dev/net/tun"],
        false => &["/dev/kvm"],
    }
}

/// The names of a machine's interfaces, and those of their taps.
fn taps(devices: Vec<Device>, identity: Identity) -> Result<Vec<(String, String)>, VmError> {
    let mut taps = Vec::new();
    for device in devices {
        match device {
            Device::Net { tap, .. } => {
                let interface = config_file::interface_id(taps.len());
                taps.push((interface, tap::keep(tap, identity)?));
            }
            Device::NetStream { .. } => return Err(config_file::no_streams()),
            Device::Fs { .. } | Device::Rng | Device::Balloon => {}
        }
    }
    Ok(taps)
}

/// A machine before its VMM runs.
#[derive(Debug)]
struct Starting {
    accelerator: Accelerator,
    identity: Identity,
    network: Option<OwnedFd>,
    run_dir: PathBuf,
    devices: &'static [&'static str],
    /// Where the VMM makes its socket.
    api_dir: OwnedFd,
    console: OwnedFd,
    reader: Receiver,
    outlet: Outlet,
    inherited: Vec<OwnedFd>,
}

impl Starting {
    /// Makes what it finds.
    fn prepare(config: &mut VmConfig, accelerator: Accelerator) -> Result<Self, VmError> {
        let identity = Identity::choose(accelerator);
        identity.give_all(config.vsock_dir())?;
        let run_dir = config.run_dir.clone();
        let console = pipe::console(&run_dir);
        let (outlet, outlet_dir) = Outlet::make(config)?;
        Ok(Self {
            accelerator,
            identity,
            network: config.network_namespace.take(),
            devices: devices(&config.devices),
            api_dir: api::make_dir(&run_dir, identity)?,
            console: pipe::make(&console, identity)?,
            reader: pipe::open(&console)?,
            outlet,
            inherited: vec![outlet_dir],
            run_dir,
        })
    }

    /// A path under which the VMM finds the file.
    fn path_of(&mut self, file: OwnedFd) -> String {
        let path = process::path_of(&file);
        self.inherited.push(file);
        path
    }
}

impl Firecracker {
    async fn launched(
        &self,
        mut config: VmConfig,
        accelerator: Accelerator,
    ) -> Result<Machine, VmError> {
        let mut starting = Starting::prepare(&mut config, accelerator)?;
        let places = Places {
            kernel: process::open_file(&config.boot.kernel)?,
            initramfs: process::open_file(&config.boot.initramfs)?,
            vsock_dir: process::open_place(config.vsock_dir())?,
        };
        let memory = Memory::new(config.size, config.max, LAYOUT);
        let identity = starting.identity;
        let file = ConfigFile::new(config, memory, places, |tap| tap::keep(tap, identity))?;
        tracing::debug!(configuration = %file.json, "starting Firecracker");
        let written = config_file::write(&file.json)?;
        starting.inherited.extend(file.inherited);
        let path = starting.path_of(written);
        let machine = self.start(starting, &["--config-file", &path]).await?;
        Ok(machine.that_boots())
    }

    async fn restored(
        &self,
        mut config: VmConfig,
        accelerator: Accelerator,
        snapshot: &Snapshot,
    ) -> Result<Machine, VmError> {
        let mut starting = Starting::prepare(&mut config, accelerator)?;
        let vsock_dir = process::open_place(config.vsock_dir())?;
        let vsock = config_file::vsock(&config, &vsock_dir);
        starting.inherited.push(vsock_dir);
        let [state, memory] = FILES;
        let loaded = Loaded {
            state: starting.path_of(snapshot.file(state)?),
            memory: starting.path_of(snapshot.file(memory)?),
            taps: taps(config.devices, starting.identity)?,
            vsock,
        };
        tracing::debug!(?loaded, "starting Firecracker");
        let awaited = api::awaited(&starting.run_dir)?;
        let machine = self.start(starting, &[]).await?;
        machine.load(&awaited, &loaded).await?;
        Ok(machine)
    }

    async fn start(&self, mut starting: Starting, own: &[&str]) -> Result<Machine, VmError> {
        let mut command = Command::new(&self.program);
        command
            .args(own)
            .arg("--api-sock")
            .arg(api::socket(process::path_of(&starting.api_dir)))
            .args(["--level", "Warning"]);
        starting.inherited.push(starting.api_dir);
        let reach = Reach {
            program: &self.program,
            data: &[],
            devices: starting.devices,
            handed: &starting.inherited,
        };
        confine(&mut command, starting.identity, starting.network, &reach)?;
        let run_dir = starting.run_dir;
        let log = process::log_of(&run_dir, PROGRAM.name);
        let output = Stdio::from(starting.console);
        let vmm = Process::spawn_with_output(command, starting.inherited, output, &log)?;
        let (accelerator, outlet) = (starting.accelerator, Some(starting.outlet));
        Machine::follow(vmm, accelerator, run_dir, starting.reader, outlet).await
    }
}
