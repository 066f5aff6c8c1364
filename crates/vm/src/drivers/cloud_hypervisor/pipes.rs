//! How the console and the events of the VMM reach us: named pipes in the machine's directory.
//!
//! The VMM holds an end of each for reading and writing, so that it is never without a reader: a pod process that takes
//! the machine over opens them by their names and finds what was said meanwhile.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::sys::stat::Mode;
use tokio::net::unix::pipe;

use crate::confine::Identity;
use crate::error::VmError;

/// The ends that the VMM is handed.
#[derive(Debug)]
pub(super) struct Pipes {
    pub(super) console: OwnedFd,
    pub(super) events: OwnedFd,
}

/// The ends that we read.
#[derive(Debug)]
pub(super) struct Readers {
    pub(super) console: pipe::Receiver,
    pub(super) events: pipe::Receiver,
}

fn console(run_dir: &Path) -> PathBuf {
    run_dir.join("console.fifo")
}

fn events(run_dir: &Path) -> PathBuf {
    run_dir.join("events.fifo")
}

impl Pipes {
    /// Makes both.
    pub(super) fn make(run_dir: &Path, identity: Identity) -> Result<Self, VmError> {
        Ok(Self {
            console: make(&console(run_dir), identity)?,
            events: make(&events(run_dir), identity)?,
        })
    }
}

fn make(path: &Path, identity: Identity) -> Result<OwnedFd, VmError> {
    let cannot = || VmError::host(format!("make the pipe {}", path.display()));
    nix::unistd::mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR)
        .map_err(|errno| cannot()(errno.into()))?;
    identity.give(path)?;
    let held = File::options().read(true).write(true).open(path);
    Ok(held.map_err(cannot())?.into())
}

impl Readers {
    /// Opens both while the VMM, or who starts it, holds the other ends.
    pub(super) fn open(run_dir: &Path) -> Result<Self, VmError> {
        Ok(Self {
            console: open(&console(run_dir))?,
            events: open(&events(run_dir))?,
        })
    }
}

fn open(path: &Path) -> Result<pipe::Receiver, VmError> {
    let cannot = || VmError::host(format!("read the pipe {}", path.display()));
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path);
    pipe::Receiver::from_file(file.map_err(cannot())?).map_err(cannot())
}
