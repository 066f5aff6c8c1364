//! What a process that faces the guest is not given.
//!
//! The VMM parses what the guest sends. Should the guest break it, it finds a process that owns and reaches no
//! files but those that it was given, sees no network and can gain no privilege: what it needs is handed over as open
//! descriptors.

mod landlock;

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use nix::sched::{CloneFlags, setns, unshare};
use tokio::process::Command;

use crate::accel::Accelerator;
use crate::error::VmError;

pub(crate) use landlock::Reach;
pub use landlock::has_landlock;

/// First of the user ids that virtual machines run as: above what systems and user namespaces give
/// out. The starting process's id is added, so no two live machines share one.
const FIRST_UID: u32 = 0x7000_0000;

/// Who a VMM runs as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Identity {
    /// A user and group of its own, and this further group to open `/dev/kvm`.
    Own { id: u32, kvm_group: Option<u32> },
    /// The caller's user without any capability.
    Bare,
}

impl Identity {
    /// The one for a VMM that this process starts.
    pub(crate) fn choose(accelerator: Accelerator) -> Self {
        if !nix::unistd::geteuid().is_root() || in_user_namespace() {
            return Self::Bare;
        }
        let id = FIRST_UID.wrapping_add(std::process::id());
        match accelerator {
            Accelerator::Tcg => Self::Own {
                id,
                kvm_group: None,
            },
            Accelerator::Kvm => match kvm_access() {
                Some(KvmAccess::Anyone) => Self::Own {
                    id,
                    kvm_group: None,
                },
                Some(KvmAccess::Group(group)) => Self::Own {
                    id,
                    kvm_group: Some(group),
                },
                None => {
                    tracing::warn!(
                        "/dev/kvm has no group that may use it: the VMM runs as root without \
                         capabilities instead of a user of its own"
                    );
                    Self::Bare
                }
            },
        }
    }

    /// Gives a file of ours to the VMM, which opens, connects to or writes it by itself.
    pub(crate) fn give(self, path: &Path) -> Result<(), VmError> {
        match self {
            Self::Own { id, .. } => std::os::unix::fs::lchown(path, Some(id), Some(id))
                .map_err(VmError::host(format!("give {} to the VMM", path.display()))),
            Self::Bare => Ok(()),
        }
    }

    /// The same for a directory and what is in it.
    pub(crate) fn give_all(self, dir: &Path) -> Result<(), VmError> {
        let listing = || VmError::host(format!("list {}", dir.display()));
        self.give(dir)?;
        for entry in std::fs::read_dir(dir).map_err(listing())? {
            self.give(&entry.map_err(listing())?.path())?;
        }
        Ok(())
    }

    /// The user's id.
    pub(crate) fn uid(self) -> u32 {
        match self {
            Self::Own { id, .. } => id,
            Self::Bare => nix::unistd::geteuid().as_raw(),
        }
    }
}

enum KvmAccess {
    Anyone,
    Group(u32),
}

fn kvm_access() -> Option<KvmAccess> {
    let device = std::fs::metadata("/dev/kvm").ok()?;
    if !device.file_type().is_char_device() {
        return None;
    }
    match device.mode() {
        mode if mode & 0o006 == 0o006 => Some(KvmAccess::Anyone),
        // Root's own group would be no restriction.
        mode if mode & 0o060 == 0o060 && device.gid() != 0 => Some(KvmAccess::Group(device.gid())),
        _ => None,
    }
}

/// The initial user namespace maps every id to itself.
fn in_user_namespace() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.split_whitespace().ne(["0", "0", "4294967295"])
}

/// Confines what `command` starts: a network namespace that nothing else is in, or this one, an IPC namespace of its own,
/// an identity of its own or no capabilities, no way to gain privileges, and no file of the host's but these.
///
/// # Errors
/// When the kernel refuses the rules for the files.
pub(crate) fn confine(
    command: &mut Command,
    identity: Identity,
    network: Option<OwnedFd>,
    reach: &Reach<'_>,
) -> Result<(), VmError> {
    let ruleset = reach.ruleset()?;
    let groups: Vec<libc::gid_t> = match identity {
        Identity::Own { kvm_group, .. } => kvm_group.into_iter().collect(),
        Identity::Bare => Vec::new(),
    };
    // SAFETY: between fork and exec only system calls are made, on memory that is there already.
    unsafe {
        command.pre_exec(move || {
            match &network {
                Some(namespace) => setns(namespace, CloneFlags::CLONE_NEWNET)?,
                None => unshare(CloneFlags::CLONE_NEWNET)?,
            }
            unshare(CloneFlags::CLONE_NEWIPC)?;
            match identity {
                Identity::Own { id, .. } => become_user(id, &groups)?,
                Identity::Bare => drop_capabilities()?,
            }
            check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
            ruleset.as_ref().map_or(Ok(()), landlock::enforce)
        });
    }
    Ok(())
}

fn become_user(id: u32, groups: &[libc::gid_t]) -> io::Result<()> {
    // SAFETY: the list is a slice of that length; the other calls take plain numbers.
    unsafe {
        check(libc::setgroups(groups.len(), groups.as_ptr()))?;
        check(libc::setresgid(id, id, id))?;
        check(libc::setresuid(id, id, id))
    }
}

/// So that exec gives none back: a root without the power of root (capabilities(7), securebits).
fn drop_capabilities() -> io::Result<()> {
    const SECURE: libc::c_int = libc::SECBIT_NOROOT
        | libc::SECBIT_NOROOT_LOCKED
        | libc::SECBIT_NO_SETUID_FIXUP
        | libc::SECBIT_NO_SETUID_FIXUP_LOCKED
        | libc::SECBIT_NO_CAP_AMBIENT_RAISE
        | libc::SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED;
    // SAFETY: prctl takes plain numbers here.
    unsafe {
        // An ordinary user has no capability to lose and may not set the bits.
        if libc::geteuid() != 0 {
            return Ok(());
        }
        check(libc::prctl(libc::PR_SET_SECUREBITS, SECURE, 0, 0, 0))?;
        for capability in 0..=libc::c_ulong::from(u8::MAX) {
            if libc::prctl(libc::PR_CAPBSET_READ, capability, 0, 0, 0) < 0 {
                // The kernel has no more.
                break;
            }
            check(libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0))?;
        }
    }
    Ok(())
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests;
