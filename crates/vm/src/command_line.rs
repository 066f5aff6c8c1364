//! A VMM's command line, and the descriptors that it names.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use crate::process;

/// Arguments, and what the VMM inherits.
#[derive(Debug, Default)]
pub(crate) struct CommandLine {
    pub(crate) arguments: Vec<String>,
    pub(crate) inherited: Vec<OwnedFd>,
}

impl CommandLine {
    /// Lets the VMM have the descriptor, under this number.
    pub(crate) fn hand_over(&mut self, fd: OwnedFd) -> RawFd {
        let number = fd.as_raw_fd();
        self.inherited.push(fd);
        number
    }

    /// The same for a file that the VMM opens by a path: this one.
    pub(crate) fn path_of(&mut self, file: OwnedFd) -> String {
        let path = process::path_of(&file);
        self.inherited.push(file);
        path
    }

    pub(crate) fn option(&mut self, name: &str, value: String) {
        self.arguments.extend([name.to_owned(), value]);
    }
}
