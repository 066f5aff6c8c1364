//! The settings' types and defaults.

use std::path::PathBuf;

use hull_vm::{Acceleration, FileSharing, Vmm};

use crate::choice::Choice;
use crate::size::Size;

/// A pod's virtual machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmSettings {
    /// What runs it.
    pub vmm: Vmm,
    /// How its instructions run.
    pub acceleration: Acceleration,
    /// How the guest reaches the host's files.
    pub file_sharing: FileSharing,
    /// How the guest comes up.
    pub start: Start,
    /// The directory with templates, when it is not the one in Hull's data.
    pub template_dir: Option<PathBuf>,
    /// Virtual CPUs of a pod whose limits do not say.
    pub vcpus: u32,
    /// Guest memory of a pod whose limits do not say.
    pub memory: Size,
    /// Virtual CPUs that a pod grows to at most, as far as the host has them.
    pub max_vcpus: u32,
    /// Guest memory that a pod grows to at most.
    pub max_memory: Size,
    /// What a guest gets beside its containers' memory limits.
    pub memory_overhead: Size,
    /// What its processes on the host may take beside the guest's memory, where that is limited.
    pub host_memory_overhead: Size,
}

/// How a guest comes up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Start {
    /// It boots.
    #[default]
    Boot,
    /// It goes on from a snapshot of one that has booted, where that can be.
    Template,
}

/// A container's root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootSettings {
    /// How the guest gets it.
    pub kind: RootKind,
    /// The directory with images, when it is not the one in Hull's data.
    pub cache_dir: Option<PathBuf>,
    /// How much of the disk images take together as far as they are not in use.
    pub cache_size: Size,
    /// What of the disk may be written over an image; with nothing of it, the guest's memory takes it.
    pub disk_size: Size,
}

/// How a guest gets a container's root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RootKind {
    /// The host's directory.
    #[default]
    Shared,
    /// An image, which it mounts by itself, and over which it keeps what is written.
    Image,
}

/// The guest's files.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GuestSettings {
    /// Its kernel, when it is not the one beside the program.
    pub kernel: Option<PathBuf>,
    /// Its first file system, when it is not the one beside the program.
    pub initramfs: Option<PathBuf>,
}

/// A pod's network.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NetworkSettings {
    /// How many interfaces a pod can get after its start.
    pub spare_interfaces: u32,
}

/// What a pod may ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnnotationSettings {
    /// Keys of the settings that its annotations may change.
    pub allow: Vec<&'static str>,
}

/// The pod process's log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogSettings {
    /// How much is written.
    pub level: LogLevel,
}

/// How much is logged; each level includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogLevel {
    /// What failed.
    Error,
    /// What may be wrong.
    #[default]
    Warn,
    /// What was done.
    Info,
    /// How it was done.
    Debug,
    /// Each step.
    Trace,
}

impl Default for VmSettings {
    fn default() -> Self {
        Self {
            vmm: Vmm::default(),
            acceleration: Acceleration::default(),
            file_sharing: FileSharing::default(),
            start: Start::default(),
            template_dir: None,
            vcpus: 2,
            memory: Size::from_mib(2048),
            max_vcpus: 4,
            max_memory: Size::from_mib(4096),
            memory_overhead: Size::from_mib(64),
            host_memory_overhead: Size::from_mib(256),
        }
    }
}

impl Default for RootSettings {
    fn default() -> Self {
        Self {
            kind: RootKind::default(),
            cache_dir: None,
            cache_size: Size::from_mib(10 * 1024),
            disk_size: Size::from_mib(0),
        }
    }
}

impl Default for AnnotationSettings {
    fn default() -> Self {
        Self {
            allow: vec!["vm.vcpus", "vm.memory", "vm.max_vcpus", "vm.max_memory"],
        }
    }
}

impl LogLevel {
    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.name()
    }
}
