//! A terminal on the host for one in the guest: its one end goes to the engine, the other is this process's.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use hull_shim::client::terminal::RawMode;
use nix::pty::{OpenptyResult, openpty};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout};

use crate::error::RuntimeError;

/// Makes a terminal, sends its master over `socket` and makes the other end this process's streams and
/// controlling terminal. It passes everything on as it is: the guest's is the one with line editing.
///
/// # Errors
/// When there can be no more terminals, or nobody listens.
pub(crate) fn hand_over(socket: &Path) -> Result<(), RuntimeError> {
    let OpenptyResult { master, slave } =
        openpty(None, None).map_err(RuntimeError::host("make a terminal"))?;
    take(&slave).map_err(RuntimeError::host("take the terminal"))?;
    // It ends with this process, so it is never put back.
    std::mem::forget(RawMode::enter().map_err(RuntimeError::host("set the terminal up"))?);
    send(&master, socket).map_err(RuntimeError::host(format!(
        "hand the terminal over to {}",
        socket.display()
    )))
}

fn take(slave: &OwnedFd) -> io::Result<()> {
    // SAFETY: the descriptor is open, and the call takes no pointer.
    if unsafe { libc::ioctl(slave.as_raw_fd(), libc::TIOCSCTTY, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    dup2_stdin(slave.as_fd())?;
    dup2_stdout(slave.as_fd())?;
    Ok(dup2_stderr(slave.as_fd())?)
}

/// One byte at least has to come with a descriptor; runc sends the terminal's name.
fn send(master: &OwnedFd, socket: &Path) -> io::Result<()> {
    let connection = UnixStream::connect(socket)?;
    let descriptors = [master.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&descriptors)];
    let name = [IoSlice::new(b"/dev/ptmx")];
    sendmsg::<()>(
        connection.as_raw_fd(),
        &name,
        &rights,
        MsgFlags::MSG_NOSIGNAL,
        None,
    )?;
    Ok(())
}
