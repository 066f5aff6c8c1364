//! Mounts that nobody else sees.

use nix::mount::{MsFlags, mount};
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
