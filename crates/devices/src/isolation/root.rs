//! The root directory of a sandboxed process.

use std::ffi::CStr;
use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

use nix::NixPath;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::Mode;
use nix::unistd::{fchdir, pivot_root};

use super::Error;

/// What the file server needs of `/proc` after it has left it behind.
#[derive(Debug)]
pub struct ProcHandles {
    /// `/proc/self/fd` as a mount of its own, from which no path leads to the rest of `/proc`.
    pub self_fd: File,
    /// The mounts as seen from the new root.
    pub mountinfo: File,
}

/// Makes `directory` the root: that directory's file system only, read-only, nothing mounted below
/// it. Sockets in it can still be connected to.
///
/// # Errors
/// When one of the mount operations fails.
pub fn enter_read_only(directory: &Path) -> Result<(), Error> {
    stop_propagation()?;
    let tree = open_tree(directory, libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC)
        .map_err(at("clone the mount of", directory))?;
    restrict(&tree).map_err(at("make read-only", directory))?;
    pivot_into(&tree, directory)
}

/// Makes `directory` the root, with everything mounted below it now and later.
///
/// Later mounts appear when the caller's mount of `directory` is shared.
///
/// # Errors
/// When one of the mount operations fails, or `/proc` is not mounted.
pub fn enter_tree(directory: &Path) -> Result<ProcHandles, Error> {
    stop_propagation()?;
    let proc_self_fd = Path::new("/proc/self/fd");
    let self_fd = open_tree(
        proc_self_fd,
        libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC,
    )
    .map_err(at("clone", proc_self_fd))?;
    let proc_self = Path::new("/proc/self");
    let proc_self_fd = open(proc_self, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(at("open", proc_self))?;

    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | recursive();
    let tree = open_tree(directory, flags).map_err(at("clone the mounts of", directory))?;
    pivot_into(&tree, directory)?;

    // Only now: the kernel lists the mounts below the root that the process has at this moment.
    let mountinfo = openat(
        &proc_self_fd,
        "mountinfo",
        OFlag::O_RDONLY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )
    .map_err(at("open mountinfo in", proc_self))?;
    Ok(ProcHandles {
        self_fd: File::from(self_fd),
        mountinfo: File::from(mountinfo),
    })
}

/// Mounts of the caller still arrive here, ours never reach the caller.
fn stop_propagation() -> Result<(), Error> {
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none)
        .map_err(at("stop the propagation of mounts from", Path::new("/")))
}

/// Mounts `tree` over `directory`, makes it the root and lets go of the old one.
fn pivot_into(tree: &OwnedFd, directory: &Path) -> Result<(), Error> {
    move_mount(tree, directory).map_err(at("mount the new root on", directory))?;
    fchdir(tree).map_err(at("change to the new root", directory))?;
    // The old root is stacked on the new one ("." is both) and then dropped, so that no directory has
    // to be made for it.
    pivot_root(".", ".").map_err(at("pivot the root to", directory))?;
    umount2(".", MntFlags::MNT_DETACH).map_err(at("let go of the root above", directory))?;
    fchdir(tree).map_err(at("change to the new root", directory))
}

fn at(operation: &'static str, path: &Path) -> impl FnOnce(Errno) -> Error {
    let path = path.to_path_buf();
    move |source| Error::Mount {
        operation,
        path,
        source,
    }
}

/// `AT_RECURSIVE`, in the type of `open_tree`'s flags.
const fn recursive() -> libc::c_uint {
    libc::AT_RECURSIVE.cast_unsigned()
}

fn open_tree(path: &Path, flags: libc::c_uint) -> Result<OwnedFd, Errno> {
    let fd = path.with_nix_path(|path| {
        // SAFETY: `path` is a terminated string that outlives the call.
        unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) }
    })?;
    let fd = RawFd::try_from(Errno::result(fd)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn move_mount(tree: &OwnedFd, target: &Path) -> Result<(), Errno> {
    const EMPTY: &CStr = c"";
    let result = target.with_nix_path(|target| {
        // SAFETY: both strings are terminated and outlive the call.
        unsafe {
            libc::syscall(
                libc::SYS_move_mount,
                tree.as_raw_fd(),
                EMPTY.as_ptr(),
                libc::AT_FDCWD,
                target.as_ptr(),
                libc::MOVE_MOUNT_F_EMPTY_PATH,
            )
        }
    })?;
    Errno::result(result).map(drop)
}

/// Read-only, no devices, no programs, on top of what the mount forbids already.
fn restrict(tree: &OwnedFd) -> Result<(), Errno> {
    const EMPTY: &CStr = c"";
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_RDONLY
            | libc::MOUNT_ATTR_NOSUID
            | libc::MOUNT_ATTR_NODEV
            | libc::MOUNT_ATTR_NOEXEC,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: the string and the structure outlive the call, and the size is the structure's.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            EMPTY.as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    Errno::result(result).map(drop)
}
