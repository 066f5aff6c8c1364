//! The namespaces a back end lives in.

use std::fs;

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid, setgroups};

use super::Error;

/// Moves the process into mount, network, IPC and UTS namespaces of its own, inside a new user
/// namespace where the caller may not do so otherwise, and drops its supplementary groups.
///
/// # Errors
/// When the kernel refuses namespaces even with a user namespace.
pub fn unshare_namespaces() -> Result<(), Error> {
    let flags = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS;
    match unshare(flags) {
        Ok(()) => drop_groups(),
        Err(Errno::EPERM) => unshare_user(flags),
        Err(error) => Err(Error::Unshare(error)),
    }
}

/// The way for an ordinary user: root of a user namespace that knows only this user.
fn unshare_user(flags: CloneFlags) -> Result<(), Error> {
    let (uid, gid) = (Uid::effective(), Gid::effective());
    unshare(flags | CloneFlags::CLONE_NEWUSER).map_err(Error::Unshare)?;
    // The kernel wants setgroups denied before an unprivileged process maps its group.
    write("/proc/self/setgroups", "deny")?;
    write("/proc/self/uid_map", &format!("0 {uid} 1"))?;
    write("/proc/self/gid_map", &format!("0 {gid} 1"))
}

fn write(path: &'static str, text: &str) -> Result<(), Error> {
    fs::write(path, text).map_err(|source| Error::IdMap { path, source })
}

fn drop_groups() -> Result<(), Error> {
    match setgroups(&[]) {
        Ok(()) => Ok(()),
        // A user namespace made without privilege forbids the call. Its groups cannot be dropped, and
        // they are the ones its owner has anyway.
        Err(Errno::EPERM) if groups_are_denied() => Ok(()),
        Err(error) => Err(Error::Groups(error)),
    }
}

fn groups_are_denied() -> bool {
    fs::read_to_string("/proc/self/setgroups").is_ok_and(|text| text.trim() == "deny")
}
