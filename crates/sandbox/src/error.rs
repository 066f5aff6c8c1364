//! Why an operation on a pod failed.

use std::io;
use std::path::PathBuf;

use hull_seccomp::SeccompError;
use hull_vm::VmError;

use crate::guest::GuestError;
use crate::hooks::HookError;
use crate::network::NetworkError;
use crate::root_image::RootImageError;
use crate::state::InvalidTransition;

/// Why an operation on a pod failed.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// A file, socket or process operation of the host failed.
    #[error("cannot {action}")]
    Host {
        /// What was tried, and on what.
        action: String,
        /// Why it failed.
        source: io::Error,
    },
    /// A file of ours does not hold what it should.
    #[error("{} is malformed", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where.
        source: serde_json::Error,
    },
    /// No guest kernel was found.
    #[error(
        "no guest found: build it with `make guest`, install Hull with `make install`, or set HULL_GUEST"
    )]
    NoGuest,
    /// The virtual machine could not be started or changed.
    #[error(transparent)]
    Vm(#[from] VmError),
    /// The network could not be prepared.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The container's seccomp rules cannot be honoured.
    #[error(transparent)]
    Seccomp(#[from] SeccompError),
    /// There is no image of the container's root.
    #[error(transparent)]
    RootImage(#[from] RootImageError),
    /// A hook on the host failed.
    #[error(transparent)]
    Hook(#[from] HookError),
    /// The guest could not be reached.
    #[error(transparent)]
    Guest(#[from] GuestError),
    /// The guest refused a call.
    #[error("the guest cannot {action}")]
    Agent {
        /// What was asked.
        action: &'static str,
        /// The guest's answer.
        source: ttrpc::Error,
    },
    /// The guest did not come up.
    #[error("the guest did not come up: {cause}{}", console_block(console))]
    Boot {
        /// How it ended.
        cause: String,
        /// Last lines of its console.
        console: Vec<String>,
    },
    /// The virtual machine has ended.
    #[error("the virtual machine has ended: {0}")]
    Ended(String),
    /// There is no such container or process.
    #[error("no such {kind}: {id}")]
    NotFound {
        /// "container" or "process".
        kind: &'static str,
        /// What was asked for.
        id: String,
    },
    /// The id is in use.
    #[error("{kind} {id} exists already")]
    AlreadyExists {
        /// "container" or "process".
        kind: &'static str,
        /// The id.
        id: String,
    },
    /// The container's init has ended.
    #[error("the container {0} is not running")]
    NotRunning(String),
    /// The state does not allow it.
    #[error(transparent)]
    State(#[from] InvalidTransition),
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(&'static str),
    /// This cannot be done (yet).
    #[error("not supported: {0}")]
    Unsupported(&'static str),
}

/// Console lines as a block below a message.
fn console_block(lines: &[String]) -> String {
    lines.iter().map(|line| format!("\n  | {line}")).collect()
}

impl SandboxError {
    /// For `map_err` on host operations: `action` completes "cannot …".
    pub fn host(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::Host { action, source }
    }

    /// Whether the guest has not answered, for whatever reason.
    pub(crate) fn is_silence(&self) -> bool {
        match self {
            Self::Guest(_) => true,
            Self::Agent { source, .. } => !matches!(source, ttrpc::Error::RpcStatus(_)),
            _ => false,
        }
    }
}
