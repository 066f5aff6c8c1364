//! How a monitor is started and told what to watch.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use command_fds::CommandFdExt;
use hull_sandbox::stdio::StdioConfig;
use hull_vm::process::ProcessRecord;
use nix::sched::{CloneFlags, unshare};

use super::control::Control;
use super::{Begin, DESCRIPTOR, Order, Ready, Watching};
use crate::error::RuntimeError;

/// A monitor that waits to be told what to watch. It ends when this is dropped before.
#[derive(Debug)]
pub(crate) struct Monitor {
    /// Its process.
    pub(crate) record: ProcessRecord,
    /// Where the streams of its process shall lead.
    pub(crate) stdio: StdioConfig,
    control: Control,
    child: Child,
}

/// Starts a monitor with this process's streams, and waits until it has prepared them.
///
/// # Errors
/// When it cannot be started, or cannot have what it shall.
pub(crate) fn begin(begin: &Begin) -> Result<Monitor, RuntimeError> {
    let cannot = || RuntimeError::host("start the monitor");
    let (ours, theirs) = UnixStream::pair().map_err(cannot())?;
    let mut command = Command::new(std::env::current_exe().map_err(cannot())?);
    if let Some((name, arguments)) = begin.args.split_first() {
        command.arg0(name).args(arguments);
    }
    command
        .env(DESCRIPTOR, theirs.as_raw_fd().to_string())
        .preserved_fds(vec![theirs.into()]);
    let child = spawn(command).map_err(cannot())?;
    let pid = i32::try_from(child.id()).expect("process ids are positive `int`s");
    let record = ProcessRecord::of(pid).map_err(cannot())?;
    let mut control = Control::new(ours);
    match control.ask(begin).map_err(cannot())? {
        Ready::Streams(stdio) => Ok(Monitor {
            record,
            stdio,
            control,
            child,
        }),
        Ready::Failed(why) => Err(RuntimeError::Invalid(why)),
    }
}

/// Starts a monitor. The command, with the descriptors that are the child's, is gone then.
///
/// An ordinary user's has a process namespace of its own, which engines enter as the container's when they copy files:
/// they may not enter the host's.
fn spawn(mut command: Command) -> io::Result<Child> {
    if !is_ordinary_user()? {
        return command.spawn();
    }
    // A thread that has left can start no other thread, so it is one for this alone.
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWPID)?;
        command.spawn()
    });
    thread.join().expect("it does not panic")
}

/// Whether this process is in another user namespace than the host's.
fn is_ordinary_user() -> io::Result<bool> {
    /// `PROC_USER_INIT_INO` of the kernel.
    const OF_HOST: u64 = 0xEFFF_FFFD;
    Ok(std::fs::metadata("/proc/self/ns/user")?.ino() != OF_HOST)
}

impl Monitor {
    /// Tells it what to watch. From now on it lives until that has ended.
    ///
    /// # Errors
    /// When it cannot.
    pub(crate) fn release(mut self, order: &Order) -> Result<Child, RuntimeError> {
        let watching = self.control.ask(order);
        match watching.map_err(RuntimeError::host("tell the monitor what to watch"))? {
            Watching::Yes => Ok(self.child),
            Watching::Failed(why) => Err(RuntimeError::Invalid(why)),
        }
    }
}
