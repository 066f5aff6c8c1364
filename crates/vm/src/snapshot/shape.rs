//! What a machine has.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::config::{Device, MacAddress, MachineSize, VmConfig};

/// What a machine has, as far as its guest knows of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shape {
    /// [`VmConfig::size`].
    pub size: MachineSize,
    /// [`VmConfig::max`].
    pub max: MachineSize,
    /// [`VmConfig::devices`].
    pub devices: Vec<DeviceShape>,
}

/// A [`Device`] without what it leads to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceShape {
    /// [`Device::Fs`].
    Fs {
        /// Its tag.
        tag: String,
    },
    /// [`Device::Net`].
    Net {
        /// Its address.
        mac: MacAddress,
        /// Largest packet, bytes.
        mtu: u32,
        /// Whether others do a part of the guest's work.
        offload: bool,
    },
    /// [`Device::NetStream`].
    NetStream {
        /// Its address.
        mac: MacAddress,
        /// Largest packet, bytes.
        mtu: u32,
    },
    /// [`Device::Rng`].
    Rng,
    /// [`Device::Balloon`].
    Balloon,
}

impl Shape {
    /// That of a machine with this configuration.
    #[must_use]
    pub fn of(config: &VmConfig) -> Self {
        Self {
            size: config.size,
            max: config.max,
            devices: config.devices.iter().map(DeviceShape::of).collect(),
        }
    }
}

impl DeviceShape {
    fn of(device: &Device) -> Self {
        match device {
            Device::Fs { tag, .. } => Self::Fs { tag: tag.clone() },
            Device::Net {
                mac, mtu, offload, ..
            } => Self::Net {
                mac: *mac,
                mtu: *mtu,
                offload: *offload,
            },
            Device::NetStream { mac, mtu, .. } => Self::NetStream {
                mac: *mac,
                mtu: *mtu,
            },
            Device::Rng => Self::Rng,
            Device::Balloon => Self::Balloon,
        }
    }
}

impl fmt::Display for Shape {
    /// For people: "1 CPUs, 128 MiB (growing to 2 CPUs, 256 MiB) and rng, balloon".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.size)?;
        if self.max != self.size {
            write!(f, " (growing to {})", self.max)?;
        }
        let devices: Vec<_> = self.devices.iter().map(ToString::to_string).collect();
        match devices.as_slice() {
            [] => f.write_str(" and no devices"),
            devices => write!(f, " and {}", devices.join(", ")),
        }
    }
}

impl fmt::Display for DeviceShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fs { tag } => write!(f, "fs {tag:?}"),
            Self::Net {
                mac, offload: true, ..
            } => write!(f, "net {mac}"),
            Self::Net { mac, .. } => write!(f, "net {mac} without offloads"),
            Self::NetStream { mac, .. } => write!(f, "net {mac} over a socket"),
            Self::Rng => f.write_str("rng"),
            Self::Balloon => f.write_str("balloon"),
        }
    }
}
