//! Linux system calls that neither std nor nix wraps.

use std::io;

pub(crate) mod clone;
pub(crate) mod event;
pub(crate) mod mount;
pub(crate) mod path;
pub(crate) mod socket;
pub(crate) mod vsock;

/// A raw system call's result as std has it.
pub(crate) fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// As [`check`], for a call that returns a new file descriptor.
pub(crate) fn check_fd(result: libc::c_long) -> io::Result<std::os::fd::OwnedFd> {
    use std::os::fd::FromRawFd;

    let fd = libc::c_int::try_from(check(result)?).map_err(io::Error::other)?;
    // SAFETY: the kernel just made this descriptor for us and nothing else knows it.
    Ok(unsafe { std::os::fd::OwnedFd::from_raw_fd(fd) })
}
