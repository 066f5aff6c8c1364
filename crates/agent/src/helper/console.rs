//! A process's terminal.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::sys::termios::{OutputFlags, SetArg, tcgetattr, tcsetattr};

use super::error::{Context, SetupError};
use super::protocol::{NewTerminal, TerminalSize};
use crate::sys::mount::{attach, clone_tree_at};
use crate::sys::{check, check_fd};

/// Makes a terminal in the container's devpts and this process its owner: controlling terminal,
/// standard streams, ownership. Returns the other side.
pub(super) fn open(new: NewTerminal, uid: u32, mount: bool) -> Result<OwnedFd, SetupError> {
    let ptmx = Path::new("/dev/pts/ptmx");
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let main: OwnedFd = nix::fcntl::open(ptmx, flags, Mode::empty()).at("open", ptmx)?;
    let unlock: libc::c_int = 0;
    // SAFETY: TIOCSPTLCK reads an int, which lives through the call.
    check(unsafe { libc::ioctl(main.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlock) }.into())
        .when("unlock the terminal")?;
    // SAFETY: TIOCGPTPEER takes open flags by value.
    let peer =
        check_fd(unsafe { libc::ioctl(main.as_raw_fd(), libc::TIOCGPTPEER, flags.bits()) }.into())
            .when("open the terminal")?;
    let size = new.size;
    if size.columns != 0 && size.rows != 0 {
        resize(&main, size).when("set the terminal's size")?;
    }
    if new.bare_newlines {
        leave_newlines(&peer).when("set the terminal up")?;
    }
    nix::unistd::fchown(&peer, Some(uid.into()), None).when("give the terminal to its user")?;
    if mount {
        mount_console(&peer)?;
    }
    // SAFETY: TIOCSCTTY takes an int by value.
    check(unsafe { libc::ioctl(peer.as_raw_fd(), libc::TIOCSCTTY, 0) }.into())
        .when("take the controlling terminal")?;
    super::process::set_standard_streams([peer.as_fd(), peer.as_fd(), peer.as_fd()])?;
    Ok(main)
}

fn leave_newlines(terminal: &OwnedFd) -> nix::Result<()> {
    let mut settings = tcgetattr(terminal)?;
    settings.output_flags.remove(OutputFlags::ONLCR);
    tcsetattr(terminal, SetArg::TCSANOW, &settings)
}

fn mount_console(peer: &OwnedFd) -> Result<(), SetupError> {
    let path = Path::new("/dev/console");
    let flags = OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    nix::fcntl::open(path, flags, Mode::from_bits_truncate(0o666)).at("make", path)?;
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let target = nix::fcntl::open(path, flags, Mode::empty()).at("open", path)?;
    let tree = clone_tree_at(peer.as_fd()).at("bind the terminal to", path)?;
    attach(tree.as_fd(), target.as_fd()).at("bind the terminal to", path)
}

/// Tells a terminal its size, and whoever runs on it by SIGWINCH.
pub(crate) fn resize(terminal: &OwnedFd, size: TerminalSize) -> io::Result<()> {
    let size = libc::winsize {
        ws_row: size.rows,
        ws_col: size.columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: TIOCSWINSZ reads a winsize, which lives through the call.
    check(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) }.into())?;
    Ok(())
}

/// The null device, for a stream that nobody reads or writes.
pub(crate) fn null() -> io::Result<OwnedFd> {
    let file = File::options().read(true).write(true).open("/dev/null")?;
    Ok(file.into())
}
