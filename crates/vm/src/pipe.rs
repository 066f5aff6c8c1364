//! Named pipes from a VMM to whoever has its machine: for its console, and for what it tells.
//!
//! The VMM holds an end for reading and writing, so that it is never without a reader: a pod process that takes the
//! machine over opens the pipe by its name and finds what was said meanwhile.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::sys::stat::Mode;
use tokio::net::unix::pipe;

use crate::confine::Identity;
use crate::error::VmError;

/// Where a machine's console is.
pub(crate) fn console(run_dir: &Path) -> PathBuf {
    run_dir.join("console.fifo")
}

/// Makes a pipe that the VMM may open, too, and the end for it.
///
/// # Errors
/// When something is there already, or the directory cannot be written to.
pub(crate) fn make(path: &Path, identity: Identity) -> Result<OwnedFd, VmError> {
    let cannot = || VmError::host(format!("make the pipe {}", path.display()));
    nix::unistd::mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR)
        .map_err(|errno| cannot()(errno.into()))?;
    identity.give(path)?;
    let held = File::options().read(true).write(true).open(path);
    Ok(held.map_err(cannot())?.into())
}

/// Opens our end while the VMM, or who starts it, holds the other.
///
/// # Errors
/// When there is no such pipe.
pub(crate) fn open(path: &Path) -> Result<pipe::Receiver, VmError> {
    let cannot = || VmError::host(format!("read the pipe {}", path.display()));
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path);
    pipe::Receiver::from_file(file.map_err(cannot())?).map_err(cannot())
}
