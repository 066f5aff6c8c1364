//! The mount namespace in which this process was started, where an engine's paths mean what the engine
//! means by them.
//!
//! The pod process has a mount namespace of its own. What is mounted on the host afterwards appears there
//! only if the host's mounts are shared, as systemd makes them. A volume that is mounted after its pod
//! has started must not depend on that: written to what lies below its mount point, its data would be lost.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::OnceLock;

use nix::sched::{CloneFlags, setns, unshare};

static ORIGIN: OnceLock<File> = OnceLock::new();

/// Keeps the mount namespace that this process is in, before it goes into another.
///
/// # Errors
/// When the kernel refuses.
pub fn remember() -> io::Result<()> {
    let namespace = File::open("/proc/self/ns/mnt")?;
    // Whoever was first has seen the origin.
    let _ = ORIGIN.set(namespace);
    Ok(())
}

/// Runs `task` in the namespace, on a thread of its own that ends with it; right here in a process that
/// has never left its own.
pub(crate) fn there<T: Send>(task: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    let Some(namespace) = ORIGIN.get() else {
        return task();
    };
    let enter = || -> io::Result<T> {
        // A thread that shares its root with others cannot change namespaces.
        unshare(CloneFlags::CLONE_FS)?;
        setns(namespace, CloneFlags::CLONE_NEWNS)?;
        task()
    };
    std::thread::scope(|scope| {
        let run = std::thread::Builder::new().spawn_scoped(scope, enter)?;
        run.join().expect("looking at files does not panic")
    })
}

/// A copy of what `source` shows there, with what is mounted below it if `recursive`, attached to nothing.
/// It receives the mounts that come later, and nothing that happens to it reaches the host.
pub(super) fn clone_tree(source: &Path, recursive: bool) -> io::Result<OwnedFd> {
    let name = CString::new(source.as_os_str().as_bytes())?;
    let tree = there(|| open_tree(&name, recursive))?;
    make_slave(&tree)?;
    Ok(tree)
}

fn open_tree(name: &CString, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= libc::AT_RECURSIVE.cast_unsigned();
    }
    // SAFETY: the name is a C string that outlives the call.
    let fd = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, name.as_ptr(), flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = RawFd::try_from(fd).expect("descriptors are ints");
    // SAFETY: the kernel has just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Before it is attached anywhere: were it a peer of the host's mounts, unmounting it would unmount
/// theirs.
fn make_slave(tree: &OwnedFd) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: 0,
        attr_clr: 0,
        propagation: libc::MS_SLAVE,
        userns_fd: 0,
    };
    // SAFETY: the attributes and the empty path outlive the call, and their size is given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
            &raw const attributes,
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
