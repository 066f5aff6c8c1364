//! Hull as an ordinary user: a user namespace in which this process is root.
//!
//! Layers need files of more than one owner, and mounts need privilege. In a user namespace an
//! ordinary user has both: with ranges of ids in `/etc/subuid` and `/etc/subgid` (and the setuid
//! programs `newuidmap` and `newgidmap`, which check them) images keep their owners; without them all
//! files belong to the one id that is mapped.

mod join;
mod ranges;

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sched::{CloneFlags, unshare};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Gid, Uid, fork, getpid, setresgid, setresuid};

pub(crate) use ranges::{Range, own_ranges};

/// Why an ordinary user cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RootlessError {
    /// The kernel or a security module forbids it.
    #[error(
        "cannot make a user namespace, which hull needs when it is not root (`hull check` says what to do)"
    )]
    Namespace(#[source] io::Error),
    /// A process could not be started or waited for.
    #[error("cannot run {0}")]
    Helper(&'static str, #[source] io::Error),
    /// The ids could not be mapped.
    #[error("newuidmap or newgidmap refuses the ranges in /etc/subuid and /etc/subgid")]
    Refused,
    /// A map could not be written.
    #[error("cannot write {0}")]
    Map(&'static str, #[source] io::Error),
    /// The mapped root could not be taken.
    #[error("cannot become root in the user namespace")]
    Become(#[source] io::Error),
}

/// Makes this process root in a user namespace, and gives it a mount namespace of its own. Called
/// before any thread is started.
///
/// All containers of a user share one user namespace for as long as any of them runs: only from there
/// can a running pod's files be reached, and its pod process be started again.
pub(crate) fn enter(state: &Path) -> Result<(), RootlessError> {
    let (uid, gid) = (Uid::current(), Gid::current());
    if join::running(state) {
        unshare(CloneFlags::CLONE_NEWNS).map_err(|error| RootlessError::Namespace(error.into()))?;
        return become_root();
    }
    match own_ranges(uid) {
        Some((users, groups)) if find("newuidmap").is_some() && find("newgidmap").is_some() => {
            with_ranges(uid, gid, &users, &groups)?;
        }
        _ => with_one_id(uid, gid)?,
    }
    become_root()
}

fn become_root() -> Result<(), RootlessError> {
    let root = (Uid::from_raw(0), Gid::from_raw(0));
    setresgid(root.1, root.1, root.1).map_err(|error| RootlessError::Become(error.into()))?;
    setresuid(root.0, root.0, root.0).map_err(|error| RootlessError::Become(error.into()))
}

fn separate() -> Result<(), RootlessError> {
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)
        .map_err(|error| RootlessError::Namespace(error.into()))
}

/// Maps root to the user and the following ids to the user's ranges. Only a process outside of the
/// namespace may do that, so one is left there.
fn with_ranges(uid: Uid, gid: Gid, users: &[Range], groups: &[Range]) -> Result<(), RootlessError> {
    let helper = |error| RootlessError::Helper("a helper process", error);
    let (mut told, mut tell) = io::pipe().map_err(helper)?;
    let this = getpid().to_string();
    // SAFETY: this process has one thread, so the child may do anything.
    match unsafe { fork() }.map_err(|error| helper(error.into()))? {
        ForkResult::Child => {
            drop(tell);
            let mut go = [0];
            // Without the byte there is no namespace to map.
            let mapped = told.read_exact(&mut go).is_ok()
                && map("newuidmap", &this, uid.as_raw(), users)
                && map("newgidmap", &this, gid.as_raw(), groups);
            std::process::exit(i32::from(!mapped));
        }
        ForkResult::Parent { child } => {
            drop(told);
            let separated = separate();
            if separated.is_ok() {
                tell.write_all(b".").map_err(helper)?;
            }
            drop(tell);
            let status = waitpid(child, None).map_err(|error| helper(error.into()))?;
            separated?;
            match status {
                WaitStatus::Exited(_, 0) => Ok(()),
                _ => Err(RootlessError::Refused),
            }
        }
    }
}

fn map(program: &'static str, pid: &str, own: u32, ranges: &[Range]) -> bool {
    let mut command = Command::new(program);
    command.arg(pid).args(["0", &own.to_string(), "1"]);
    let mut inside: u32 = 1;
    for range in ranges {
        let fields = [inside, range.start, range.count];
        command.args(fields.map(|field| field.to_string()));
        inside = inside.saturating_add(range.count);
    }
    command.status().is_ok_and(|status| status.success())
}

/// Maps root to the user and nothing else.
fn with_one_id(uid: Uid, gid: Gid) -> Result<(), RootlessError> {
    separate()?;
    let write = |path: &'static str, text: String| {
        fs::write(path, text).map_err(|source| RootlessError::Map(path, source))
    };
    // The kernel's condition for mapping a group without privilege.
    write("/proc/self/setgroups", "deny".to_owned())?;
    write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    write("/proc/self/gid_map", format!("0 {gid} 1"))
}

/// Where a program is in `PATH`.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/bin:/bin"));
    let places = std::env::split_paths(&path).map(|dir| dir.join(program));
    places.into_iter().find(|place| place.is_file())
}
