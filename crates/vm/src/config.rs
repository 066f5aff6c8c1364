//! What a virtual machine has.

use std::borrow::Cow;
use std::fmt;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::accel::Acceleration;
use crate::error::VmError;

/// A virtual machine to start.
#[derive(Debug)]
pub struct VmConfig {
    /// Names the machine in logs and in the process list.
    pub id: String,
    /// Directory for the VMM's sockets and logs. It exists, belongs to the caller and is short enough
    /// for Unix socket paths (108 bytes with the names below it).
    pub run_dir: PathBuf,
    /// What the machine boots.
    pub boot: Boot,
    /// What the guest has at first.
    pub size: MachineSize,
    /// What it can grow to, at least [`size`](Self::size). A driver may round the memory up to what a guest can
    /// take into use at once.
    pub max: MachineSize,
    /// How the guest's instructions run.
    pub acceleration: Acceleration,
    /// The hybrid vsock Unix socket. The driver listens on it and dials `<socket>_<port>` for the
    /// guest.
    pub vsock: PathBuf,
    /// Further devices, in the order in which the guest sees them.
    pub devices: Vec<Device>,
    /// The network namespace that the VMM is in, where it may look at its taps. Without one it is alone in a new one.
    pub network_namespace: Option<OwnedFd>,
}

/// How large a machine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineSize {
    /// Number of virtual CPUs.
    pub vcpus: u32,
    /// Guest memory in MiB.
    pub memory_mib: u32,
}

impl fmt::Display for MachineSize {
    /// For people: "2 CPUs, 256 MiB".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} CPUs, {} MiB", self.vcpus, self.memory_mib)
    }
}

impl MachineSize {
    /// The larger of both in each respect.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self {
            vcpus: self.vcpus.max(other.vcpus),
            memory_mib: self.memory_mib.max(other.memory_mib),
        }
    }

    /// The smaller of both in each respect.
    #[must_use]
    pub fn min(self, other: Self) -> Self {
        Self {
            vcpus: self.vcpus.min(other.vcpus),
            memory_mib: self.memory_mib.min(other.memory_mib),
        }
    }

    /// What a guest of this size at its start takes into use at once, MiB: a block of its kernel's, which begins at
    /// a multiple of its size.
    #[must_use]
    pub fn block_mib(self) -> u32 {
        /// The block is larger in such a guest.
        const LARGE_MIB: u32 = 64 << 10;
        match self.memory_mib < LARGE_MIB {
            true => 128,
            false => 2048,
        }
    }

    fn validate(self) -> Result<(), VmError> {
        if !(MIN_MEMORY_MIB..=MAX_MEMORY_MIB).contains(&self.memory_mib) {
            return Err(VmError::Memory {
                asked_mib: self.memory_mib,
            });
        }
        if self.vcpus == 0 || self.vcpus > MAX_VCPUS {
            return Err(VmError::Vcpus { asked: self.vcpus });
        }
        Ok(())
    }
}

/// The guest's kernel, its initial file system and its command line.
#[derive(Debug, Clone)]
pub struct Boot {
    /// An uncompressed x86-64 ELF kernel with a PVH entry.
    pub kernel: PathBuf,
    /// A cpio archive with `/init`.
    pub initramfs: PathBuf,
    /// Appended to what the driver needs on the kernel's command line.
    pub arguments: Vec<String>,
}

/// A device of a virtual machine.
#[derive(Debug)]
pub enum Device {
    /// A virtio-fs share, served by a vhost-user process that listens on `socket`.
    Fs {
        /// The name under which the guest mounts it.
        tag: String,
        /// The file server's socket.
        socket: PathBuf,
    },
    /// A network interface behind a tap device.
    Net {
        /// An open tap device (`IFF_TAP | IFF_NO_PI | IFF_VNET_HDR`).
        tap: OwnedFd,
        /// An open `/dev/vhost-net`: under KVM the kernel then moves the packets, not the VMM.
        vhost: Option<OwnedFd>,
        /// The guest's hardware address.
        mac: MacAddress,
        /// Largest packet, bytes.
        mtu: u32,
        /// Whether the guest may leave checksums and segmentation to whoever receives its packets, and
        /// they to it: a kernel does that work, a process that reads frames does not.
        offload: bool,
    },
    /// A network interface whose frames go over a connected stream socket, each after its length
    /// (four bytes, big endian).
    NetStream {
        /// The socket.
        socket: OwnedFd,
        /// The guest's hardware address.
        mac: MacAddress,
        /// Largest packet, bytes.
        mtu: u32,
    },
    /// A source of randomness from the host.
    Rng,
    /// A balloon with free page reporting: memory that the guest does not use goes back to the host.
    Balloon,
}

/// A hardware address of a network interface.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MacAddress(pub [u8; 6]);

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not six hexadecimal bytes with colons between them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a hardware address")]
pub struct MalformedMac(String);

impl FromStr for MacAddress {
    type Err = MalformedMac;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let malformed = || MalformedMac(text.to_owned());
        let mut bytes = [0; 6];
        let mut parts = text.trim().split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2);
            *byte = u8::from_str_radix(part.ok_or_else(malformed)?, 16).map_err(|_| malformed())?;
        }
        match parts.next() {
            None => Ok(Self(bytes)),
            Some(_) => Err(malformed()),
        }
    }
}

/// Least memory that a guest boots in, MiB.
pub const MIN_MEMORY_MIB: u32 = 64;
/// Most memory that one guest gets, MiB (1 TiB).
pub const MAX_MEMORY_MIB: u32 = 1 << 20;
/// The guest's address on vsock, of which nobody takes notice: the hybrid socket is this guest's alone.
pub(crate) const GUEST_CID: u32 = 3;
/// Most virtual CPUs, the guest kernel's own limit.
pub const MAX_VCPUS: u32 = 64;

/// What every guest's kernel is told: it says little, does not stay when it panics, trusts the CPU's random numbers
/// and does not test its ciphers.
const KERNEL_ARGUMENTS: &str = "quiet panic=-1 random.trust_cpu=on cryptomgr.notests";

impl VmConfig {
    /// Checks what every driver needs.
    ///
    /// # Errors
    /// A size that no guest can have, or a kernel that is not one.
    pub fn validate(&self) -> Result<(), VmError> {
        self.size.validate()?;
        self.max.validate()?;
        self.boot.validate()
    }

    /// The directory of the vsock socket.
    pub(crate) fn vsock_dir(&self) -> &Path {
        match self.vsock.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir,
            _ => Path::new("."),
        }
    }

    /// The vsock socket's name in it.
    pub(crate) fn vsock_name(&self) -> Cow<'_, str> {
        let name = self.vsock.file_name().unwrap_or_default();
        name.to_string_lossy()
    }

    /// The kernel's command line: `own` of the driver's, what all have, and what the configuration says. Beyond
    /// `limit_mib` of addresses the guest uses no memory at first.
    pub(crate) fn kernel_command_line(&self, own: &str, limit_mib: Option<u32>) -> String {
        let mut words = vec![own.to_owned(), KERNEL_ARGUMENTS.to_owned()];
        if self.max.vcpus > self.size.vcpus {
            words.push(format!("maxcpus={}", self.size.vcpus));
        }
        words.extend(limit_mib.map(|limit| format!("mem={limit}M")));
        words.extend(self.boot.arguments.iter().cloned());
        words.join(" ")
    }
}

impl Boot {
    /// Looks at the files' first bytes: a VMM's own words for a wrong kernel are hard to read.
    fn validate(&self) -> Result<(), VmError> {
        use std::io::Read;

        let unreadable = |path: &PathBuf| {
            let path = path.clone();
            move |source| VmError::BootFile { path, source }
        };
        let mut magic = [0; 20];
        let mut kernel = std::fs::File::open(&self.kernel).map_err(unreadable(&self.kernel))?;
        let is_elf = match kernel.read_exact(&mut magic) {
            // ELF, 64 bits, little endian; e_machine (offset 18) 62 is x86-64.
            Ok(()) => magic.starts_with(b"\x7fELF\x02\x01") && magic[18..20] == [62, 0],
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => false,
            Err(error) => return Err(unreadable(&self.kernel)(error)),
        };
        if !is_elf {
            return Err(VmError::NotAKernel {
                path: self.kernel.clone(),
            });
        }
        std::fs::File::open(&self.initramfs).map_err(unreadable(&self.initramfs))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hardware_address_survives_its_text() {
        let mac = MacAddress([2, 0, 0xfc, 0, 0, 1]);
        assert_eq!(mac.to_string().parse(), Ok(mac));
    }

    #[test]
    fn malformed_hardware_addresses_are_refused() {
        for text in [
            "",
            "02:00:fc:00:00",
            "02:00:fc:00:00:01:02",
            "2:0:f:0:0:1",
            "zz:00:fc:00:00:01",
        ] {
            assert!(text.parse::<MacAddress>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_file_that_is_no_kernel_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let boot = |kernel: &[u8]| {
            let path = dir.path().join("kernel");
            std::fs::write(&path, kernel).unwrap();
            Boot {
                kernel: path.clone(),
                initramfs: path,
                arguments: vec![],
            }
        };
        for bytes in [
            &b""[..],
            b"\x7fELF",
            b"#!/bin/sh\nexit 0\n# and more",
            &[0; 64],
        ] {
            assert!(matches!(
                boot(bytes).validate(),
                Err(VmError::NotAKernel { .. })
            ));
        }
    }
}
