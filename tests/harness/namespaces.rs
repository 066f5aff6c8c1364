//! Mounts that nobody else sees.

use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

/// Lets this thread, and what it starts from now on, mount without anybody else seeing it.
///
/// # Panics
/// When the kernel refuses: it needs root.
pub fn own_mounts() {
    let none = None::<&str>;
    unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace");
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("private");
}

/// What is mounted below `dir` for this thread, the latest last.
///
/// # Panics
/// When `/proc` cannot be read.
#[must_use]
pub fn mounts_below(dir: &Path) -> Vec<PathBuf> {
    let mountinfo = std::fs::read_to_string("/proc/thread-self/mountinfo").expect("mountinfo");
    let points = mountinfo
        .lines()
        .filter_map(|line| line.split(' ').nth(4).map(PathBuf::from));
    points.filter(|point| point.starts_with(dir)).collect()
}

/// Unmounts all that, whatever uses it.
pub fn unmount_all_below(dir: &Path) {
    for point in mounts_below(dir).into_iter().rev() {
        // It may have gone with the one that it was in.
        let _ = umount2(&point, MntFlags::MNT_DETACH);
    }
}
