//! One folder per VMM: `command_line` says how it is started, `machine` is the running VM.

pub mod cloud_hypervisor;
pub mod firecracker;
pub mod qemu;
#[cfg(test)]
mod tests;

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::accel::Acceleration;
use crate::driver::Driver;
use crate::error::VmError;
use crate::program::Program;

/// The VMMs that a person can choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Vmm {
    /// QEMU's microvm machine.
    #[default]
    Qemu,
    /// Cloud Hypervisor.
    CloudHypervisor,
    /// Firecracker.
    Firecracker,
}

impl Vmm {
    /// All of them.
    pub const ALL: &[Self] = &[Self::Qemu, Self::CloudHypervisor, Self::Firecracker];

    /// Its name, as in the configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Qemu => "qemu",
            Self::CloudHypervisor => "cloud-hypervisor",
            Self::Firecracker => "firecracker",
        }
    }

    /// Finds what it needs.
    ///
    /// # Errors
    /// When something is not installed.
    pub fn driver(self) -> Result<Box<dyn Driver>, VmError> {
        match self {
            Self::Qemu => Ok(Box::new(qemu::Qemu::find()?)),
            Self::CloudHypervisor => Ok(Box::new(cloud_hypervisor::CloudHypervisor::find()?)),
            Self::Firecracker => Ok(Box::new(firecracker::Firecracker::find()?)),
        }
    }

    /// The same, if it can run a guest on this host.
    ///
    /// # Errors
    /// When something is not installed, or it needs KVM, which does not work here.
    pub fn usable(self) -> Result<Box<dyn Driver>, VmError> {
        let driver = self.driver()?;
        if !driver.capabilities().translator {
            Acceleration::Kvm.resolve()?;
        }
        Ok(driver)
    }

    /// Its program.
    #[must_use]
    pub fn program(self) -> &'static Program {
        match self {
            Self::Qemu => &qemu::PROGRAM,
            Self::CloudHypervisor => &cloud_hypervisor::PROGRAM,
            Self::Firecracker => &firecracker::PROGRAM,
        }
    }
}

impl FromStr for Vmm {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().find(|vmm| vmm.name() == text);
        found.copied().ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|vmm| vmm.name()).collect();
            format!("{text:?} is none of {}", names.join(", "))
        })
    }
}
