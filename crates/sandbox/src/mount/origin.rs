//! The mount namespace in which this process was started, where an engine's paths mean what the engine
//! means by them.
//!
//! The pod process has a mount namespace of its own. What is mounted on the host afterwards appears there
//! only if the host's mounts are shared, as systemd makes them. A volume that is mounted after its pod
//! has started must not depend on that: written to what lies below its mount point, its data would be lost.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::OnceLock;

use nix::sched::{CloneFlags, setns, unshare};

use super::tree;

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

/// Lets a program run there.
pub(crate) fn enter_before_exec(command: &mut tokio::process::Command) {
    let Some(namespace) = ORIGIN.get() else {
        return;
    };
    // SAFETY: the closure makes one system call and allocates nothing.
    unsafe {
        command.pre_exec(move || Ok(setns(namespace, CloneFlags::CLONE_NEWNS)?));
    }
}

/// A copy of what `source` shows there, with what is mounted below it if `recursive`, attached to nothing.
/// It receives the mounts that come later, and nothing that happens to it reaches the host.
pub(super) fn clone_tree(source: &Path, recursive: bool) -> io::Result<OwnedFd> {
    let tree = there(|| tree::clone(source, recursive))?;
    // Before it is attached anywhere: were it a peer of the host's mounts, unmounting it would unmount
    // theirs.
    tree::make_slave(&tree)?;
    Ok(tree)
}
