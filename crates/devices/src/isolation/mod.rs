//! The sandbox of a back end: namespaces, a root directory of its own, no capabilities that it does
//! not need, and a system call filter.
//!
//! Everything here must run while the process has a single thread: the kernel refuses a new user
//! namespace otherwise, and namespaces, capabilities and filters would cover one thread only.
//!
//! There is no PID namespace. It would need a second process that waits for the first, a cost for
//! every pod, while what it protects from is closed by other means: the filters let no process be
//! signalled or traced, and `/proc` is not there.

mod capabilities;
mod namespaces;
mod root;
pub mod seccomp;

use std::io;
use std::path::PathBuf;

pub use capabilities::keep_capabilities;
pub use namespaces::unshare_namespaces;
pub use root::{ProcHandles, enter_read_only, enter_tree};

/// Why the sandbox could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `unshare` failed.
    #[error("cannot create the namespaces of the sandbox")]
    Unshare(#[source] nix::Error),
    /// The user namespace's identity map could not be written.
    #[error("cannot write {path} for the sandbox's user namespace")]
    IdMap {
        /// The file below `/proc/self`.
        path: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// `setgroups` failed.
    #[error("cannot drop the supplementary groups")]
    Groups(#[source] nix::Error),
    /// A mount operation failed.
    #[error("cannot {operation} {path}")]
    Mount {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        source: nix::Error,
    },
    /// A capability set could not be changed.
    #[error("cannot drop capabilities")]
    Capabilities(#[source] capng::Error),
    /// The system call filter could not be compiled.
    #[error("cannot compile the system call filter")]
    CompileFilter(#[source] seccompiler::BackendError),
    /// The kernel refused the system call filter.
    #[error("cannot install the system call filter")]
    InstallFilter(#[source] seccompiler::Error),
    /// virtiofsd's own system call filter failed.
    #[error("cannot install the file server's system call filter")]
    FileServerFilter(#[source] virtiofsd::seccomp::Error),
}
