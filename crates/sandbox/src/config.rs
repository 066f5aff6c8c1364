//! What a pod is given: its size, its VMM, its guest and its network.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use hull_vm::{Acceleration, FileSharing, MachineSize, Vmm};
use serde::{Deserialize, Serialize};

use crate::cgroup::{Footprint, HostCgroup, HostLimits};
use crate::error::SandboxError;
use crate::json_file;

/// How a pod is run. Written as `pod.json` into the pod's state directory by whoever starts the pod
/// process, and read by it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PodConfig {
    /// The pod's id.
    pub id: String,
    /// The engine's namespace that it is in; empty without an engine.
    pub namespace: String,
    /// Host name in the guest.
    pub hostname: String,
    /// Which VMM runs it.
    pub vmm: Vmm,
    /// How the guest's instructions run.
    pub acceleration: Acceleration,
    /// How the guest reaches the host's files.
    pub file_sharing: FileSharing,
    /// The directory with templates, if the pod's guest is to go on from one where it can. They are for pods that trust
    /// each other.
    #[serde(default)]
    pub templates: Option<PathBuf>,
    /// How containers get their roots.
    #[serde(default)]
    pub roots: Roots,
    /// What its machine has at first.
    pub size: MachineSize,
    /// What it grows to at most when containers need more.
    pub max: MachineSize,
    /// What the guest needs beside the memory limits of its containers, MiB.
    pub memory_overhead_mib: u32,
    /// The guest's files.
    pub guest: GuestFiles,
    /// The pod's network.
    pub network: NetworkConfig,
    /// The control group on the host that all processes of the pod are in, as an engine names it
    /// (`linux.cgroupsPath`); whoever starts the pod process decides when there is none.
    pub cgroup: Option<String>,
    /// What that group may use: of a container that is a pod by itself. Other groups have the limits that the
    /// engine has given them.
    pub host_limits: Option<HostLimits>,
    /// What the pod's processes on the host need beside the guest's memory, MiB.
    pub host_memory_overhead_mib: u32,
    /// Kernel parameters of the pod, names and values.
    pub sysctls: BTreeMap<String, String>,
    /// The container that stands for the whole pod with its engine. There is no process in it.
    pub placeholder: Option<String>,
    /// The pod lives as long as its only container: what `hull run` asks for. Otherwise the pod ends
    /// when it is told to.
    pub single: Option<SingleContainer>,
}

/// A pod that lives as long as its only container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SingleContainer {
    /// Where the pod process writes an [`ExitRecord`](crate::ExitRecord) when the pod has ended.
    pub exit_file: PathBuf,
    /// Removed with all it holds when the pod has ended (`--rm`); the exit record is then written
    /// only if it lies elsewhere.
    pub remove: Option<PathBuf>,
}

/// How containers get their roots.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind", deny_unknown_fields)]
pub enum Roots {
    /// The host's directory: what is written to it is on the host.
    #[default]
    Shared,
    /// The guest mounts it: a file system in a file or on a disk as it is, of directories a read-only image, made once and
    /// kept. What is written over images goes to a layer that ends with the container.
    Image {
        /// The directory with the images.
        cache: PathBuf,
        /// Bytes of the disk that images take together as far as they are not in use.
        limit: u64,
        /// Bytes that may be written over an image, on the disk that the images are on; 0: to the guest's memory.
        disk_size: u64,
    },
}

/// The guest's kernel and initial file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuestFiles {
    /// An uncompressed ELF kernel.
    pub kernel: PathBuf,
    /// A cpio archive that holds the agent.
    pub initramfs: PathBuf,
}

/// The pod's network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind", deny_unknown_fields)]
pub enum NetworkConfig {
    /// Loopback only.
    None,
    /// A private network namespace whose traffic `pasta` carries as the host's own.
    Nat {
        /// Host ports that lead into the pod.
        publish: Vec<PublishedPort>,
    },
    /// A network namespace that the engine has made and filled: the guest takes the place of its
    /// interfaces.
    Namespace {
        /// The namespace's file.
        path: PathBuf,
        /// How many interfaces the guest can get after its start.
        spare_interfaces: u32,
    },
}

/// A host port that leads into the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublishedPort {
    /// Host address to listen on; all of them when it is not given.
    pub address: Option<IpAddr>,
    /// Port on the host.
    pub host: u16,
    /// Port in the pod.
    pub container: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// Names another directory with `vmlinux` and `initramfs.img`.
pub const GUEST_VARIABLE: &str = "HULL_GUEST";

impl GuestFiles {
    /// The files that are given, and for those that are not the ones that [`find`](Self::find) finds.
    ///
    /// # Errors
    /// When there is none.
    pub fn choose(kernel: Option<&Path>, initramfs: Option<&Path>) -> Result<Self, SandboxError> {
        if let (Some(kernel), Some(initramfs)) = (kernel, initramfs) {
            return Ok(Self {
                kernel: kernel.to_owned(),
                initramfs: initramfs.to_owned(),
            });
        }
        let found = Self::find()?;
        Ok(Self {
            kernel: kernel.map_or(found.kernel, Path::to_owned),
            initramfs: initramfs.map_or(found.initramfs, Path::to_owned),
        })
    }

    /// The guest in `$HULL_GUEST`, else the one that was installed with this program, else the one
    /// that the checkout around this program has built.
    ///
    /// # Errors
    /// When there is none.
    pub fn find() -> Result<Self, SandboxError> {
        let in_dir = |dir: &Path| Self {
            kernel: dir.join("vmlinux"),
            initramfs: dir.join("initramfs.img"),
        };
        if let Some(dir) = std::env::var_os(GUEST_VARIABLE) {
            return Ok(in_dir(Path::new(&dir)));
        }
        let own = std::env::current_exe().ok();
        let own_dir = own.as_deref().and_then(Path::parent);
        let places = ["../share/hull", "../../share/hull", "../guest"];
        let candidates = places.iter().filter_map(|place| Some(own_dir?.join(place)));
        let found = candidates
            .map(|dir| in_dir(&dir))
            .find(|guest| guest.kernel.exists());
        found.ok_or(SandboxError::NoGuest)
    }
}

impl PodConfig {
    /// File name in the state directory.
    pub const FILE: &str = "pod.json";

    /// Reads `pod.json`.
    ///
    /// # Errors
    /// When it cannot be read or is malformed.
    pub fn read(state_dir: &Path) -> Result<Self, SandboxError> {
        json_file::read(state_dir.join(Self::FILE))
    }

    /// Writes `pod.json`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, state_dir: &Path) -> Result<(), SandboxError> {
        json_file::write(state_dir.join(Self::FILE), self)
    }

    /// The pod's control group on the host, if it has one.
    ///
    /// # Errors
    /// When its path leads out, or the host has none.
    pub fn host_group(&self) -> Result<Option<HostCgroup>, SandboxError> {
        self.cgroup.as_deref().map(HostCgroup::new).transpose()
    }

    /// Makes that group, with its limits, and moves this process into it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn enter(&self, group: &HostCgroup) -> Result<(), SandboxError> {
        let footprint = self.footprint(self.size);
        group.enter(self.host_limits.as_ref().map(|limits| (limits, footprint)))
    }

    /// What the pod takes of the host's memory when its machine has this size.
    pub(crate) fn footprint(&self, size: MachineSize) -> Footprint {
        let bytes = |mib: u32| u64::from(mib) << 20;
        // A guest takes more memory into use by whole blocks.
        let grown = size.memory_mib.saturating_sub(self.size.memory_mib);
        let grown = u64::from(grown).next_multiple_of(u64::from(self.size.block_mib()));
        let guest = bytes(self.size.memory_mib) + (grown << 20);
        // Each process that maps the guest's memory needs 2 MiB of page tables for each GiB: the VMM, the back
        // ends, and KVM.
        let overhead = bytes(self.host_memory_overhead_mib) + guest / 64;
        Footprint {
            most: guest + overhead,
            overhead: bytes(self.memory_overhead_mib) + overhead,
        }
    }
}
