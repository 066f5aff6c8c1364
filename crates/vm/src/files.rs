//! How a guest reaches the files that the host shares with it.

use serde::{Deserialize, Serialize};

use crate::driver::Driver;
use crate::error::VmError;

/// What the user asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileSharing {
    /// virtio-fs where the VMM has it, else FUSE over vsock.
    #[default]
    Auto,
    /// virtio-fs or an error.
    VirtioFs,
    /// FUSE over vsock, which every VMM has. Slower, as each request is copied on its way.
    Vsock,
}

/// What a machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileTransport {
    /// A [`Device::Fs`](crate::Device::Fs).
    VirtioFs,
    /// Connections of the guest's to a port of the host's.
    Vsock,
}

impl FileSharing {
    /// What a machine of this driver's gets.
    ///
    /// # Errors
    /// When the driver has no virtio-fs and it was asked for.
    pub fn transport(self, driver: &dyn Driver) -> Result<FileTransport, VmError> {
        match (self, driver.capabilities().virtio_fs) {
            (Self::Auto | Self::VirtioFs, true) => Ok(FileTransport::VirtioFs),
            (Self::Vsock, _) | (Self::Auto, false) => Ok(FileTransport::Vsock),
            (Self::VirtioFs, false) => Err(VmError::Unsupported {
                driver: driver.name(),
                what: "virtio-fs",
            }),
        }
    }
}
