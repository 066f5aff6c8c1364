//! Making and entering processes and namespaces.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::sched::CloneFlags;
use nix::unistd::Pid;

use super::check;

/// libc's constant is too narrow for it.
const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// In which of the two processes a [`clone`] returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cloned {
    Child,
    Parent(Pid),
}

/// Forks into new namespaces and, with `cgroup`, straight into that cgroup. The child is a sibling
/// of the caller: its parent is the caller's.
///
/// # Safety
/// The caller must be single-threaded, else the child may find locks held for ever.
pub(crate) unsafe fn clone_sibling(
    namespaces: CloneFlags,
    cgroup: Option<BorrowedFd<'_>>,
) -> io::Result<Cloned> {
    // SAFETY: clone_args is plain integers, for which zero means "not used".
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = u64::from(
        (namespaces | CloneFlags::CLONE_PARENT)
            .bits()
            .cast_unsigned(),
    );
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = u64::from(cgroup.as_raw_fd().cast_unsigned());
    }
    // SAFETY: the arguments are initialised and of the size given; no memory is shared, so the call
    // behaves as fork, which is sound in a single-threaded process.
    let pid = check(unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw mut args,
            size_of::<libc::clone_args>(),
        )
    })?;
    match libc::pid_t::try_from(pid).map_err(io::Error::other)? {
        0 => Ok(Cloned::Child),
        pid => Ok(Cloned::Parent(Pid::from_raw(pid))),
    }
}

/// Ends this process at once: no destructors, no atexit handlers, which belong to the parent.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(code) }
}

/// A handle on a process that cannot come to mean another one.
pub(crate) fn pidfd_open(pid: Pid) -> io::Result<std::os::fd::OwnedFd> {
    // SAFETY: no memory is passed.
    super::check_fd(unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) })
}
