//! File systems in files: what containerd's snapshotters `erofs` and `blockfile` give a container for a root
//! (the option `loop` of mount(8)).

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// As in `linux/loop.h`.
const LOOP_CTL_GET_FREE: libc::c_ulong = 0x4c82;
const LOOP_CONFIGURE: libc::c_ulong = 0x4c0a;
const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_AUTOCLEAR: u32 = 4;

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

/// A block device over a file. The kernel lets go of the file once this is dropped and nothing on the device
/// is mounted.
#[derive(Debug)]
pub(super) struct LoopDevice {
    path: PathBuf,
    _open: OwnedFd,
}

impl LoopDevice {
    /// # Errors
    /// When the kernel has no loop devices, or the file cannot be opened.
    pub(super) fn over(file: &Path, read_only: bool) -> io::Result<Self> {
        let backing = File::options().read(true).write(!read_only).open(file)?;
        let control = File::options()
            .read(true)
            .write(true)
            .open("/dev/loop-control")?;
        let flags = match read_only {
            true => LO_FLAGS_AUTOCLEAR | LO_FLAGS_READ_ONLY,
            false => LO_FLAGS_AUTOCLEAR,
        };
        loop {
            // SAFETY: the call takes no memory.
            let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) };
            if number < 0 {
                return Err(io::Error::last_os_error());
            }
            let path = PathBuf::from(format!("/dev/loop{number}"));
            let device = File::options().read(true).write(!read_only).open(&path)?;
            match configure(&device, &backing, flags) {
                Ok(()) => {
                    return Ok(Self {
                        path,
                        _open: device.into(),
                    });
                }
                // Somebody else was faster: another one is free.
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The device's file.
    pub(super) fn path(&self) -> &Path {
        &self.path
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
