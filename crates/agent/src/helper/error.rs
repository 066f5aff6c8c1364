//! Why a container or a process could not be made.

use std::io;
use std::path::{Path, PathBuf};

use super::protocol::{Failure, Reason};
use crate::cgroup::CgroupError;

/// What went wrong while setting up a container or a process.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SetupError {
    #[error("cannot {action}")]
    Call {
        action: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("cannot {action} {}", path.display())]
    Path {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot mount {} ({kind}) on {}", source_name, destination.display())]
    Mount {
        kind: String,
        source_name: String,
        destination: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error("{field} has the invalid value {value:?}")]
    Invalid { field: &'static str, value: String },
    #[error("this guest cannot honour {0}")]
    Unsupported(String),
    #[error("{command}: command not found")]
    CommandNotFound { command: String },
    #[error("{command}: cannot be run")]
    CommandNotExecutable {
        command: String,
        #[source]
        source: io::Error,
    },
    /// In runc's words, which some look for.
    #[error("error running {kind} hook #{index}: {}", path.display())]
    Hook {
        kind: String,
        index: usize,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the container's first process ended while it was being set up")]
    InitEnded,
    #[error(transparent)]
    Relayed(Failure),
}

impl SetupError {
    pub(crate) fn reason(&self) -> Reason {
        match self {
            Self::CommandNotFound { .. } => Reason::CommandNotFound,
            Self::CommandNotExecutable { .. } => Reason::CommandNotExecutable,
            Self::Invalid { .. } => Reason::Invalid,
            Self::Unsupported(_) => Reason::Unsupported,
            Self::Relayed(failure) => failure.reason,
            Self::Cgroup(error) => error.reason(),
            Self::Call { .. }
            | Self::Path { .. }
            | Self::Mount { .. }
            | Self::Hook { .. }
            | Self::InitEnded => Reason::Internal,
        }
    }
}

/// Says what was tried when a system call fails.
pub(crate) trait Context<T> {
    /// `action` completes "cannot …".
    fn when(self, action: &'static str) -> Result<T, SetupError>;
    /// `action` completes "cannot … PATH".
    fn at(self, action: &'static str, path: &Path) -> Result<T, SetupError>;
}

impl<T, E: Into<io::Error>> Context<T> for Result<T, E> {
    fn when(self, action: &'static str) -> Result<T, SetupError> {
        self.map_err(|source| SetupError::Call {
            action,
            source: source.into(),
        })
    }

    fn at(self, action: &'static str, path: &Path) -> Result<T, SetupError> {
        self.map_err(|source| SetupError::Path {
            action,
            path: path.to_owned(),
            source: source.into(),
        })
    }
}
