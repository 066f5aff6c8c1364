//! What the agent and its helpers say to each other.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Filter, HookState, SetupError};
use crate::spec::{Hook, IdMapping, Personality, Process, Spec};

/// A task. The descriptors that come with it are, in this order: the start socket (for `Create`) or
/// a pidfd of the container's init (for `Exec`), then, without a terminal, standard input, output
/// and error.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Make a container whose init waits on the start socket.
    Create(Box<CreateRequest>),
    /// Start a further process in a container.
    Exec(Box<ExecRequest>),
    /// Make a PID namespace that lasts as long as the process made.
    PidNamespace,
    /// Run a hook in the guest. Makes no process that stays.
    Hook {
        kind: String,
        index: usize,
        hook: Hook,
        state: Box<HookState>,
    },
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CreateRequest {
    pub(crate) id: String,
    pub(crate) spec: Spec,
    /// The container's cgroup directory, made by the agent.
    pub(crate) cgroup: PathBuf,
    /// A process whose PID namespace the container joins.
    pub(crate) pid_namespace_of: Option<i32>,
    pub(crate) filter: Option<Filter>,
    pub(crate) terminal: NewTerminal,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ExecRequest {
    pub(crate) id: String,
    pub(crate) process: Process,
    pub(crate) cgroup: PathBuf,
    /// Of its user namespace; none when it has none of its own.
    pub(crate) uid_mappings: Vec<IdMapping>,
    pub(crate) cgroup_namespace: bool,
    /// The container's.
    pub(crate) personality: Option<Personality>,
    pub(crate) filter: Option<Filter>,
    pub(crate) terminal: NewTerminal,
}

/// How a process's terminal is made, where it has one.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct NewTerminal {
    pub(crate) size: TerminalSize,
    /// Newlines stay as they are.
    pub(crate) bare_newlines: bool,
}

/// In characters; zero leaves the kernel's default.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct TerminalSize {
    pub(crate) columns: u16,
    pub(crate) rows: u16,
}

/// A helper's answer; the controlling side of a terminal comes with `Made`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Response {
    Made {
        /// 0 when nothing that stays was to be made.
        pid: i32,
    },
    Failed(Failure),
}

/// Why a task failed, in a form that survives the way between processes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failure {
    pub(crate) reason: Reason,
    /// The chain of causes.
    pub(crate) message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Reason {
    CommandNotFound,
    CommandNotExecutable,
    /// The request makes no sense.
    Invalid,
    /// This guest cannot.
    Unsupported,
    Internal,
}

impl From<SetupError> for Failure {
    fn from(error: SetupError) -> Self {
        Self {
            reason: error.reason(),
            message: chain(&error),
        }
    }
}

/// An error's text with its sources'.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// From the container's init to the helper.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum FromInit {
    /// The root is mounted: time for the hooks outside the container. Answered with [`Proceed`].
    RootMounted,
    /// Everything is set up; the terminal's controlling side comes along.
    Ready,
    Failed(Failure),
}

/// From the helper to the container's init.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Proceed {
    /// Init's pid in the guest's root PID namespace.
    pub(crate) pid: i32,
}

/// From the container's init to the agent, over the start socket, when it cannot run the program.
/// The socket just closes when it can.
pub(crate) type StartFailure = Failure;
