//! A person at a terminal: types, reads, changes the window's size.

use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};

use nix::pty::{Winsize, openpty};

/// A command whose standard streams are a terminal of its own.
#[derive(Debug)]
pub struct Terminal {
    child: Child,
    master: std::fs::File,
    seen: String,
}

fn size(columns: u16, rows: u16) -> Winsize {
    Winsize {
        ws_col: columns,
        ws_row: rows,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

impl Terminal {
    /// Starts `command` in a window of 80 by 24 characters.
    ///
    /// # Panics
    /// When there is no terminal to be had, or the command does not start.
    #[must_use]
    pub fn start(mut command: Command) -> Self {
        let pty = openpty(Some(&size(80, 24)), None).expect("a terminal");
        let stream = |fd: &OwnedFd| fd.try_clone().expect("a descriptor");
        command
            .stdin(stream(&pty.slave))
            .stdout(stream(&pty.slave))
            .stderr(stream(&pty.slave));
        // SAFETY: only async-signal-safe calls between fork and exec.
        unsafe {
            command.pre_exec(|| {
                nix::unistd::setsid()?;
                // Standard input is the terminal already; 0: do not steal it.
                if libc::ioctl(0, libc::TIOCSCTTY, 0) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
        }
        let child = command.spawn().expect("the command starts");
        // Our copies of the other end would keep the terminal open.
        drop(command);
        drop(pty.slave);
        Self {
            child,
            master: pty.master.into(),
            seen: String::new(),
        }
    }

    /// Types.
    ///
    /// # Panics
    /// When the terminal is closed.
    pub fn type_in(&mut self, text: &str) {
        self.master
            .write_all(text.as_bytes())
            .expect("the terminal is open");
    }

    /// Reads until `text` has appeared, and forgets everything up to its end.
    ///
    /// # Panics
    /// When the terminal closes before.
    pub fn expect(&mut self, text: &str) {
        loop {
            if let Some(at) = self.seen.find(text) {
                self.seen.drain(..at + text.len());
                return;
            }
            let more = self.read();
            assert!(
                !more.is_empty(),
                "{text:?} did not come, but {:?}",
                self.seen
            );
            self.seen.push_str(&more);
        }
    }

    /// Changes the window's size.
    ///
    /// # Panics
    /// When the terminal refuses.
    pub fn resize(&self, columns: u16, rows: u16) {
        let size = size(columns, rows);
        // SAFETY: an open terminal, and a structure that outlives the call.
        let result =
            unsafe { libc::ioctl(self.master.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    }

    /// Reads to the end and waits for the command.
    ///
    /// # Panics
    /// When the command cannot be waited for.
    pub fn end(mut self) -> (ExitStatus, String) {
        loop {
            let more = self.read();
            if more.is_empty() {
                break;
            }
            self.seen.push_str(&more);
        }
        (self.child.wait().expect("an end"), self.seen)
    }

    fn read(&mut self) -> String {
        let mut buffer = [0; 4096];
        // A terminal without users fails with EIO, which is its way to say end of file.
        let count = self.master.read(&mut buffer).unwrap_or(0);
        String::from_utf8_lossy(&buffer[..count]).into_owned()
    }
}
