//! Device nodes and the usual links in a container's /dev.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::{fs, io};

use nix::errno::Errno;
use nix::sys::stat::{Mode, SFlag, mknodat};

use super::error::{Context, SetupError};
use crate::spec::{Device, DeviceKind, Mount};
use crate::sys::mount::{attach, clone_tree, fd_path};
use crate::sys::path::{Missing, ensure_in_root};

/// Devices that every container has: name, major, minor.
const DEFAULT: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

const LINKS: [(&str, &str); 4] = [
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
];

/// Whether the container gets a /dev of its own to fill, and not one that is bound from elsewhere.
pub(super) fn wanted(mounts: &[Mount]) -> bool {
    !mounts.iter().any(|mount| {
        mount.destination == Path::new("/dev")
            && mount.options.iter().any(|o| o == "bind" || o == "rbind")
    })
}

/// Makes the default devices, those of the specification, and the links.
pub(super) fn create(
    root: BorrowedFd<'_>,
    devices: &[Device],
    user_namespace: bool,
) -> Result<(), SetupError> {
    for (name, major, minor) in DEFAULT {
        let device = Device {
            path: Path::new("/dev").join(name),
            kind: DeviceKind::Character,
            major,
            minor,
            file_mode: Some(0o666),
            uid: 0,
            gid: 0,
        };
        create_one(root, &device, user_namespace)?;
    }
    for device in devices {
        create_one(root, device, user_namespace)?;
    }
    let dev = ensure_in_root(root, Path::new("/dev"), Missing::Directory)
        .at("open", Path::new("/dev"))?;
    for (target, name) in LINKS {
        link(&dev, target, name)?;
    }
    if Path::new("/proc/kcore").exists() {
        link(&dev, "/proc/kcore", "core")?;
    }
    // The container's own instance of devpts, where it has one.
    if fs::symlink_metadata(fd_path(&dev).join("pts/ptmx")).is_ok() {
        let ptmx = fd_path(&dev).join("ptmx");
        match fs::remove_file(&ptmx) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).at("replace", Path::new("/dev/ptmx"));
            }
            _ => link(&dev, "pts/ptmx", "ptmx")?,
        }
    }
    Ok(())
}

fn link(dev: &OwnedFd, target: &str, name: &str) -> Result<(), SetupError> {
    match nix::unistd::symlinkat(target, dev, name) {
        // The image's own is as good.
        Err(Errno::EEXIST) => Ok(()),
        other => other.at("make the link", &Path::new("/dev").join(name)),
    }
}

/// The guest's own node of a device; its kernel says what it is called.
fn node_of(device: &Device) -> io::Result<PathBuf> {
    let kind = match device.kind {
        DeviceKind::Character => "char",
        DeviceKind::Block => "block",
        DeviceKind::Fifo => return Err(io::ErrorKind::Unsupported.into()),
    };
    let (major, minor) = (device.major, device.minor);
    let event = fs::read_to_string(format!("/sys/dev/{kind}/{major}:{minor}/uevent"))?;
    let name = event.lines().find_map(|line| line.strip_prefix("DEVNAME="));
    let name = name.ok_or(io::ErrorKind::NotFound)?;
    Ok(Path::new("/dev").join(name))
}

fn create_one(
    root: BorrowedFd<'_>,
    device: &Device,
    user_namespace: bool,
) -> Result<(), SetupError> {
    let path = &device.path;
    let invalid = || SetupError::Invalid {
        field: "linux.devices path",
        value: path.display().to_string(),
    };
    if user_namespace {
        // Device nodes made in a user namespace cannot be opened: bind the guest's.
        let node = node_of(device).at("find the device", path)?;
        let tree = clone_tree(&node, false).at("open the device", path)?;
        let target = ensure_in_root(root, path, Missing::File).at("make", path)?;
        return attach(tree.as_fd(), target.as_fd()).at("bind the device", path);
    }
    let name: &OsStr = path.file_name().ok_or_else(invalid)?;
    let parent = path.parent().ok_or_else(invalid)?;
    let parent = ensure_in_root(root, parent, Missing::Directory).at("open", parent)?;
    let kind = match device.kind {
        DeviceKind::Character => SFlag::S_IFCHR,
        DeviceKind::Block => SFlag::S_IFBLK,
        DeviceKind::Fifo => SFlag::S_IFIFO,
    };
    let mode = Mode::from_bits_truncate(device.file_mode.unwrap_or(0o666) & 0o7777);
    let number = libc::makedev(device.major, device.minor);
    match mknodat(&parent, name, kind, mode, number) {
        // As an image may bring it along.
        Err(Errno::EEXIST) => Ok(()),
        Err(errno) => Err(errno).at("make the device", path),
        Ok(()) => chown(
            fd_path(&parent).join(name),
            Some(device.uid),
            Some(device.gid),
        )
        .at("set the owner of", path),
    }
}
