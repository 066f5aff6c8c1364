//! The user namespace of containers that run already.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sched::{CloneFlags, setns};

/// ioctl_ns(2): a descriptor of the namespace's parent. `_IO(0xb7, 0x2)`.
const NS_GET_PARENT: libc::Ioctl = 0xb702;

/// Enters the user namespace of a pod below `state` that runs. Says whether there was one.
pub(super) fn running(state: &Path) -> bool {
    let entries = fs::read_dir(state).into_iter().flatten().flatten();
    let machines = entries.filter_map(|entry| hull_sandbox::live_vmm(&entry.path()));
    let mut namespaces = machines.filter_map(|machine| namespace_of(machine.pid).ok());
    // One that has just ended is no place to go; a new namespace always is.
    namespaces.any(|namespace| setns(namespace, CloneFlags::CLONE_NEWUSER).is_ok())
}

/// The user namespace that Hull made for a process: the one right below this process's own. Helpers
/// that give up their privileges are in further ones below it.
fn namespace_of(pid: i32) -> io::Result<File> {
    let own = fs::metadata("/proc/self/ns/user")?.ino();
    let mut namespace = File::open(format!("/proc/{pid}/ns/user"))?;
    loop {
        let parent = parent(&namespace)?;
        if parent.metadata()?.ino() == own {
            return Ok(namespace);
        }
        namespace = parent;
    }
}

fn parent(namespace: &File) -> io::Result<File> {
    // SAFETY: the descriptor is open, and this request takes no argument.
    let parent = unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_PARENT) };
    if parent < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { File::from_raw_fd(parent) })
}
