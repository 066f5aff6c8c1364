//! This program's terminal.

use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Mutex;

use nix::sys::termios::{self, SetArg, Termios};

/// How the terminal was before it was made raw, for whoever has to put it back: the guard, or the
/// panic hook where no destructor runs.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// Whether both input and output are a terminal, as `-t` with `-i` needs.
pub fn is_terminal() -> bool {
    io::stdin().is_terminal()
}

/// Passes every key on as it is. The terminal is put back when this is dropped.
#[derive(Debug)]
pub struct RawMode(());

impl RawMode {
    /// Makes it raw.
    ///
    /// # Errors
    /// When the standard input is none.
    pub fn enter() -> io::Result<Self> {
        Self::of(termios::OutputFlags::empty())
    }

    /// Makes its input raw. What is written to it still gets the carriage returns that the guest's does not add.
    ///
    /// # Errors
    /// As [`RawMode::enter`].
    pub fn of_input() -> io::Result<Self> {
        Self::of(termios::OutputFlags::OPOST)
    }

    fn of(output: termios::OutputFlags) -> io::Result<Self> {
        let stdin = io::stdin();
        let before = termios::tcgetattr(&stdin)?;
        let mut raw = before.clone();
        termios::cfmakeraw(&mut raw);
        raw.output_flags |= output;
        *BEFORE.lock().expect("no holder of this lock panics") = Some(before);
        termios::tcsetattr(&stdin, SetArg::TCSANOW, &raw)?;
        Ok(Self(()))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

fn restore() {
    let before = match BEFORE.lock() {
        Ok(mut before) => before.take(),
        Err(poisoned) => poisoned.into_inner().take(),
    };
    if let Some(before) = before {
        // A terminal that is gone needs nothing.
        let _ = termios::tcsetattr(io::stdin(), SetArg::TCSANOW, &before);
    }
}

/// Puts the terminal back when this program panics.
pub fn restore_at_panic() {
    let previous = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        restore();
        previous(info);
    }));
}

/// Columns and rows of the terminal; nothing where there is none.
pub fn size() -> Option<(u16, u16)> {
    let of = |fd: BorrowedFd<'_>| {
        let mut size = libc::winsize {
            ws_row: 0,
            ws_col: 0,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        // SAFETY: the descriptor is open, and the buffer is a valid `winsize` that outlives the call.
        let result = unsafe {
            libc::ioctl(
                std::os::fd::AsRawFd::as_raw_fd(&fd),
                libc::TIOCGWINSZ,
                &raw mut size,
            )
        };
        (result == 0 && size.ws_col > 0).then_some((size.ws_col, size.ws_row))
    };
    of(io::stdout().as_fd()).or_else(|| of(io::stdin().as_fd()))
}
