//! Why a command failed, and with which exit code that is told.

use hull_image::ImageError;

use crate::bundle::BundleError;
use crate::container::StoreError;
use crate::files::CopyError;
use crate::images::FetchError;
use crate::launch::LaunchError;
use crate::stdio::AttachError;
use hull_shim::client::PodError;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The operator's configuration.
    #[error(transparent)]
    Config(#[from] hull_config::ConfigError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error(transparent)]
    Launch(#[from] LaunchError),
    #[error(transparent)]
    Pod(#[from] PodError),
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// Files could not be copied.
    #[error(transparent)]
    Copy(CopyError),
    /// A system call of this program's own.
    #[error("cannot {0}")]
    System(&'static str, #[source] std::io::Error),
    /// `-t` without a terminal.
    #[error("the input is not a terminal: leave out -t or -i")]
    NoTerminal,
    /// Options that do not go together, or that make no sense here.
    #[error("{0}")]
    Usage(String),
    /// Nothing can be done with a container in this state.
    #[error("container {name} is {state}, not {needed}")]
    WrongState {
        name: String,
        state: &'static str,
        needed: &'static str,
    },
    /// A signal ended the command before it did anything.
    #[error("interrupted by signal {0}")]
    Interrupted(u32),
}

impl CommandError {
    /// What was asked makes no sense here.
    pub(crate) fn usage(text: &str) -> Self {
        Self::Usage(text.to_owned())
    }

    /// The exit code that says it best; nothing for hull's own failures.
    pub(crate) fn exit_code(&self) -> Option<u8> {
        match self {
            Self::Launch(error) => error.exit_code(),
            Self::Pod(error) => error.exit_code(),
            Self::Interrupted(signal) => u8::try_from(128 + signal).ok(),
            Self::Bundle(_)
            | Self::Config(_)
            | Self::Store(_)
            | Self::Image(_)
            | Self::Fetch(_)
            | Self::Attach(_)
            | Self::Copy(_)
            | Self::System(..)
            | Self::NoTerminal
            | Self::Usage(_)
            | Self::WrongState { .. } => None,
        }
    }
}
