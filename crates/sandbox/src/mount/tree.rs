//! Mounts by descriptor: open_tree(2), mount_setattr(2), move_mount(2).

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A copy of the mount at `path`, with what is mounted below it if `recursive`, attached to nothing.
pub(crate) fn clone(path: &Path, recursive: bool) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= libc::AT_RECURSIVE.cast_unsigned();
    }
    // SAFETY: the path is a C string that outlives the call.
    let fd = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = RawFd::try_from(fd).expect("descriptors are ints");
    // SAFETY: the kernel has just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Mounts and unmounts still arrive, and none leave.
pub(super) fn make_slave(tree: &OwnedFd) -> io::Result<()> {
    let slave = libc::mount_attr {
        propagation: libc::MS_SLAVE,
        ..unchanged()
    };
    set_attributes(tree, &slave, libc::AT_RECURSIVE)
}

/// Undoes that a mount is read-only.
pub(crate) fn make_writable(tree: &OwnedFd) -> io::Result<()> {
    let writable = libc::mount_attr {
        attr_clr: libc::MOUNT_ATTR_RDONLY,
        ..unchanged()
    };
    set_attributes(tree, &writable, 0)
}

fn unchanged() -> libc::mount_attr {
    libc::mount_attr {
        attr_set: 0,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    }
}

fn set_attributes(tree: &OwnedFd, attributes: &libc::mount_attr, flags: i32) -> io::Result<()> {
    // SAFETY: the attributes and the empty path outlive the call, and their size is given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | flags,
            std::ptr::from_ref(attributes),
            size_of::<libc::mount_attr>(),
        )
    };
    check(result)
}

/// Attaches a tree.
pub(super) fn attach(tree: &OwnedFd, target: &Path) -> io::Result<()> {
    let target = CString::new(target.as_os_str().as_bytes())?;
    // SAFETY: both paths are C strings that outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            target.as_ptr(),
            libc::MOVE_MOUNT_F_EMPTY_PATH,
        )
    };
    check(result)
}

fn check(result: libc::c_long) -> io::Result<()> {
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
