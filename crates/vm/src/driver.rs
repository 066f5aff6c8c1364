//! What every VMM driver offers.

use std::fmt;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::accel::Accelerator;
use crate::config::VmConfig;
use crate::error::VmError;
use crate::process::ProcessRecord;
use crate::snapshot::{OutletRecord, Snapshot};

/// What a driver can do. A feature that is `false` is refused with [`VmError::Unsupported`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Capabilities {
    /// It runs guests without KVM, too.
    pub translator: bool,
    /// [`Device::Fs`](crate::Device::Fs).
    pub virtio_fs: bool,
    /// How it connects a guest.
    pub net: NetDevices,
    /// [`Vm::pause`] and [`Vm::resume`].
    pub pause: bool,
    /// [`Vm::snapshot`] and [`Driver::restore`].
    pub snapshot: bool,
    /// Most [`VmConfig::devices`].
    pub devices: usize,
}

/// The network devices that a VMM knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum NetDevices {
    /// [`Device::NetStream`](crate::Device::NetStream) and [`Device::Net`](crate::Device::Net).
    Stream,
    /// [`Device::Net`](crate::Device::Net).
    Tap,
    /// The same, but it opens the tap by its name: it has to be in the tap's network namespace, and the tap outlives it.
    NamedTap,
}

impl fmt::Display for Capabilities {
    /// For people: "virtio-fs, pause, 7 devices".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = [
            (self.virtio_fs, "virtio-fs"),
            (self.net == NetDevices::Stream, "frames over a socket"),
            (self.pause, "pause"),
            (self.snapshot, "snapshot"),
        ];
        for (_, name) in named.iter().filter(|(has, _)| *has) {
            write!(f, "{name}, ")?;
        }
        write!(f, "{} devices", self.devices)
    }
}

/// Runs virtual machines with one VMM.
#[async_trait]
pub trait Driver: Send + Sync + std::fmt::Debug {
    /// The VMM's name, as in [`Vmm`](crate::Vmm).
    fn name(&self) -> &'static str;

    /// What this driver can do.
    fn capabilities(&self) -> Capabilities;

    /// Starts a machine. When it answers, the VMM runs and the guest boots.
    ///
    /// # Errors
    /// When the configuration asks for what cannot be, or the VMM does not start. No process is left then; what is in
    /// the machine's directory is the caller's to remove.
    async fn launch(&self, config: VmConfig) -> Result<Box<dyn Vm>, VmError>;

    /// Starts a machine that goes on from a snapshot, in other places: with its own directories, descriptors and network.
    /// What it has is the snapshot's [`Shape`](crate::snapshot::Shape); what it boots is of no account. When it answers,
    /// the guest runs. It keeps what it had in memory, its clock, its entropy and its addresses among them, and listens on
    /// vsock where it did.
    ///
    /// The machine uses the snapshot's files as long as it runs. A VMM that is in its guest's hands can still write what
    /// it wrote before: a snapshot is of no use to others until its own machine has ended.
    ///
    /// # Errors
    /// When the snapshot is of another machine or another VMM, or the VMM refuses it. As with [`Driver::launch`].
    async fn restore(&self, config: VmConfig, snapshot: &Snapshot) -> Result<Box<dyn Vm>, VmError>;

    /// Takes over a machine that another process of ours had started.
    ///
    /// # Errors
    /// When the VMM is gone or does not answer.
    async fn attach(&self, record: &VmRecord) -> Result<Box<dyn Vm>, VmError>;
}

/// A virtual machine that runs.
#[async_trait]
pub trait Vm: Send + Sync + std::fmt::Debug {
    /// What [`Driver::attach`] needs to find the machine again.
    fn record(&self) -> VmRecord;

    /// How the guest's instructions run.
    fn accelerator(&self) -> Accelerator;

    /// Completes when the VMM has ended, with what is known of the cause. May be called any number
    /// of times, also after the end.
    async fn wait(&self) -> Exit;

    /// Once, when the guest has said its first word and has not grown yet: gives back what only its start needed.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn booted(&self) -> Result<(), VmError>;

    /// Stops all virtual CPUs.
    ///
    /// # Errors
    /// When the VMM refuses or is gone.
    async fn pause(&self) -> Result<(), VmError>;

    /// Lets the virtual CPUs run again.
    ///
    /// # Errors
    /// When the VMM refuses or is gone.
    async fn resume(&self) -> Result<(), VmError>;

    /// Writes what the paused machine is into the new directory `dir`, for [`Snapshot::open`]. The machine may then go on.
    ///
    /// Connections over vsock are not in it, but not every VMM tells the guest of a restored machine that they have
    /// ended (Cloud Hypervisor does not, and gives their numbers to new ones, which then fail): they are to be closed
    /// before the machine is paused.
    ///
    /// # Errors
    /// When `dir` exists already, the machine has a device whose state is elsewhere ([`Device::Fs`](crate::Device::Fs)),
    /// or the VMM refuses, as it does when the machine is not paused. There is no `dir` then.
    async fn snapshot(&self, dir: &Path) -> Result<(), VmError>;

    /// Ends the VMM and its helpers at once, whatever the guest does, and waits for their end.
    async fn kill(&self);

    /// Last lines of the guest's console, oldest first.
    fn console_tail(&self) -> Vec<String>;
}

/// How to find a running machine again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmRecord {
    /// [`Driver::name`].
    pub driver: String,
    /// [`VmConfig::run_dir`](crate::VmConfig::run_dir).
    pub run_dir: PathBuf,
    /// How the guest's instructions run.
    pub accelerator: Accelerator,
    /// The VMM.
    pub vmm: ProcessRecord,
    /// Helper processes of the driver.
    pub helpers: Vec<ProcessRecord>,
    /// Where the VMM writes snapshots, if it does.
    #[serde(default)]
    pub outlet: Option<OutletRecord>,
}

/// How a VMM ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// Why, for people, without the console: "the guest's kernel panicked", "killed by signal 9".
    pub cause: String,
    /// The guest asked for the end (power-off, reset); says nothing about why.
    pub by_guest: bool,
}
