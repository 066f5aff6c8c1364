//! Mounts by descriptor: open_tree(2), mount_setattr(2), move_mount(2).

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::mount::MsFlags;

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

/// A mount of a file, attached to nothing.
pub(crate) fn of_file(file: &File, read_only: bool) -> io::Result<OwnedFd> {
    let tree = clone(
        &PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd())),
        false,
    )?;
    make_slave(&tree)?;
    let mut flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    flags.set(MsFlags::MS_RDONLY, read_only);
    restrict(&tree, flags, None)?;
    Ok(tree)
}

/// Mounts and unmounts still arrive, and none leave.
pub(super) fn make_slave(tree: &OwnedFd) -> io::Result<()> {
    let slave = Change {
        propagation: libc::MS_SLAVE,
        ..Change::default()
    };
    change(tree, slave, true)
}

/// Undoes that the topmost mount of a tree is read-only.
pub(crate) fn make_writable(tree: &OwnedFd) -> io::Result<()> {
    let writable = Change {
        clear: libc::MOUNT_ATTR_RDONLY,
        ..Change::default()
    };
    change(tree, writable, false)
}

/// Gives the topmost mount of a tree those of `flags` that restrict it; all mounts become read-only, or
/// writable where their file systems are, if `all_read_only` says so. What the source has already stays.
pub(super) fn restrict(
    tree: &OwnedFd,
    flags: MsFlags,
    all_read_only: Option<bool>,
) -> io::Result<()> {
    let pairs = [
        (MsFlags::MS_RDONLY, libc::MOUNT_ATTR_RDONLY),
        (MsFlags::MS_NOSUID, libc::MOUNT_ATTR_NOSUID),
        (MsFlags::MS_NODEV, libc::MOUNT_ATTR_NODEV),
        (MsFlags::MS_NOEXEC, libc::MOUNT_ATTR_NOEXEC),
    ];
    let asked = pairs.iter().filter(|(flag, _)| flags.contains(*flag));
    let top = Change {
        set: asked.fold(0, |all, (_, attribute)| all | attribute),
        ..Change::default()
    };
    let mut all = Change::default();
    match all_read_only {
        None => {}
        Some(true) => all.set = libc::MOUNT_ATTR_RDONLY,
        Some(false) => all.clear = libc::MOUNT_ATTR_RDONLY,
    }
    change(tree, top, false)?;
    change(tree, all, true)
}

/// Attributes (`MOUNT_ATTR_*`) and a propagation (`MS_*`, 0 leaves it as it is).
#[derive(Debug, Default, PartialEq, Eq)]
struct Change {
    set: u64,
    clear: u64,
    propagation: libc::c_ulong,
}

fn change(tree: &OwnedFd, change: Change, recursive: bool) -> io::Result<()> {
    if change == Change::default() {
        return Ok(());
    }
    let attributes = libc::mount_attr {
        attr_set: change.set,
        attr_clr: change.clear,
        propagation: change.propagation,
        userns_fd: 0,
    };
    let mut flags = libc::AT_EMPTY_PATH;
    if recursive {
        flags |= libc::AT_RECURSIVE;
    }
    // SAFETY: the attributes and the empty path outlive the call, and their size is given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    check(result)
}

/// Attaches a tree.
pub(crate) fn attach(tree: &OwnedFd, target: &Path) -> io::Result<()> {
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
