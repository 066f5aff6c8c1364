//! Block devices over files: the kernel's loop devices (loop(4), `linux/loop.h`).
//!
//! On the host they make roots of files with a file system in them, in the guest disks of the files that stand
//! for the host's.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4c82;
const LOOP_CONFIGURE: libc::Ioctl = 0x4c0a;
const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_AUTOCLEAR: u32 = 4;
const LO_FLAGS_DIRECT_IO: u32 = 16;

/// `LOOP_MAJOR`: all of them have it.
pub const MAJOR: u32 = 7;

/// `struct loop_info64`.
#[repr(C)]
struct Info {
    /// Device, inode, rdevice, offset and size limit: all to be filled in by the kernel, or none.
    numbers: [u64; 5],
    /// Number, and an encryption that there no longer is.
    unused: [u32; 3],
    flags: u32,
    names: [u8; 160],
    init: [u64; 2],
}

/// `struct loop_config`.
#[repr(C)]
struct Configuration {
    fd: u32,
    block_size: u32,
    info: Info,
    reserved: [u64; 8],
}

const _: () = assert!(size_of::<Configuration>() == 304);

/// How a file is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Access {
    /// Nothing is written.
    pub read_only: bool,
    /// Past this kernel's cache of the file, where its file system can.
    pub direct: bool,
}

/// A block device over a file. The kernel lets go of the file once this is dropped and nobody else has the
/// device open or mounted.
#[derive(Debug)]
pub struct LoopDevice {
    path: PathBuf,
    minor: u32,
    _open: File,
}

impl LoopDevice {
    /// Takes a device that nobody uses.
    ///
    /// # Errors
    /// When the kernel has no loop devices, or the file cannot be opened or is no file.
    pub fn over(file: &Path, access: Access) -> io::Result<Self> {
        let open = |path: &Path| {
            let mut options = File::options();
            options.read(true).write(!access.read_only).open(path)
        };
        let backing = open(file)?;
        let control = File::options()
            .read(true)
            .write(true)
            .open("/dev/loop-control")?;
        let mut flags = LO_FLAGS_AUTOCLEAR;
        if access.read_only {
            flags |= LO_FLAGS_READ_ONLY;
        }
        if access.direct {
            flags |= LO_FLAGS_DIRECT_IO;
        }
        loop {
            // SAFETY: the call takes no memory.
            let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) };
            let minor = u32::try_from(number).map_err(|_| io::Error::last_os_error())?;
            let path = PathBuf::from(format!("/dev/loop{minor}"));
            let device = open(&path)?;
            match configure(&device, &backing, flags) {
                Ok(()) => {
                    return Ok(Self {
                        path,
                        minor,
                        _open: device,
                    });
                }
                // Somebody else was faster: another one is free.
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The device's node.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its number, beside [`MAJOR`].
    #[must_use]
    pub fn minor(&self) -> u32 {
        self.minor
    }
}

fn configure(device: &File, backing: &File, flags: u32) -> io::Result<()> {
    let configuration = Configuration {
        fd: u32::try_from(backing.as_raw_fd()).expect("descriptors are positive"),
        block_size: 0,
        info: Info {
            numbers: [0; 5],
            unused: [0; 3],
            flags,
            names: [0; 160],
            init: [0; 2],
        },
        reserved: [0; 8],
    };
    // SAFETY: the kernel reads a structure of this size, which outlives the call.
    let result =
        unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, &raw const configuration) };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
