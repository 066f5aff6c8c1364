//! Why a command failed. Engines look for some of these texts, which are runc's.

use std::io;
use std::path::Path;

use hull_agent_api::failure::{self, Reason};
use hull_config::ConfigError;
use hull_sandbox::SandboxError;
use hull_sandbox::state::Status;
use hull_shim::client::{ClientError, PodError};
use hull_shim::engine::EngineError;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RuntimeError {
    /// No such container.
    #[error("container {0:?} does not exist")]
    NotFound(String),
    /// The id is in use.
    #[error("container with given ID already exists: {0}")]
    Exists(String),
    /// The container has ended, or was not started.
    #[error("container not running")]
    NotRunning,
    /// The container runs.
    #[error("cannot delete container {0} that is not stopped: {1}")]
    NotStopped(String, Status),
    /// The state does not allow it.
    #[error("cannot {action} a container in the {state} state")]
    State {
        /// What was asked.
        action: &'static str,
        /// The state it is in.
        state: Status,
    },
    /// The command line or a file makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// What cannot be given to a virtual machine, or not yet.
    #[error("not supported: {0}")]
    Unsupported(&'static str),
    /// A file, socket or process of the host, the bundle, or the pod's files.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The specification as a whole.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The operator's configuration, or annotations.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The pod process.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The program cannot be run; the reason is what engines tell apart.
    #[error("{}", cannot_run(.program, .error))]
    Program {
        /// Its name.
        program: String,
        /// What the guest said.
        error: PodError,
    },
    /// The pod process refused.
    #[error(transparent)]
    Pod(PodError),
}

/// In the words of runc, as engines take their exit codes from them.
fn cannot_run(program: &str, error: &PodError) -> String {
    let why = match error.reason() {
        Some(Reason::COMMAND_NOT_FOUND) if program.contains('/') => {
            return format!("exec {program}: no such file or directory: {error}");
        }
        Some(Reason::COMMAND_NOT_FOUND) => "executable file not found in $PATH",
        Some(Reason::COMMAND_NOT_EXECUTABLE) => "permission denied",
        Some(Reason::UNSPECIFIED) | None => return error.to_string(),
    };
    format!("exec: {program:?}: {why}: {error}")
}

impl RuntimeError {
    /// For `map_err` on host operations: `action` completes "cannot …".
    pub(crate) fn host<E: Into<io::Error>>(action: impl Into<String>) -> impl FnOnce(E) -> Self {
        let failed = SandboxError::host(action);
        move |source| failed(source.into()).into()
    }

    /// For `map_err` on what a file holds.
    pub(crate) fn malformed(path: &Path) -> impl FnOnce(serde_json::Error) -> Self {
        let path = path.to_owned();
        move |source| SandboxError::Malformed { path, source }.into()
    }

    /// For `map_err` on a call that runs a program.
    pub(crate) fn program(args: Option<&Vec<String>>) -> impl FnOnce(PodError) -> Self {
        let program = args.and_then(|args| args.first()).cloned();
        move |error| match error.reason().and_then(failure::exit_code) {
            Some(_) => Self::Program {
                program: program.unwrap_or_default(),
                error,
            },
            None => error.into(),
        }
    }
}

impl From<PodError> for RuntimeError {
    fn from(error: PodError) -> Self {
        match error.is_not_found() {
            true => Self::NotRunning,
            false => Self::Pod(error),
        }
    }
}
