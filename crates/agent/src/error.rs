//! Why a call of the host failed, and what the host is told.

use std::io;

use hull_agent_api::failure;
use ttrpc::Code;

use crate::cgroup::CgroupError;
use crate::helper::{Failure, Reason, chain};

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AgentError {
    #[error("{field} has the invalid value {value:?}")]
    Invalid { field: &'static str, value: String },
    #[error("{field} is not valid JSON of its kind")]
    Json {
        field: &'static str,
        #[source]
        source: serde_json::Error,
    },
    #[error("there is no {kind} {id:?}")]
    NotFound { kind: &'static str, id: String },
    #[error("the {kind} {id:?} exists already")]
    Exists { kind: &'static str, id: String },
    #[error("container {id:?} is {state}: cannot {action}")]
    WrongState {
        id: String,
        state: &'static str,
        action: &'static str,
    },
    #[error("the sandbox is {state}: cannot {action}")]
    SandboxState {
        state: &'static str,
        action: &'static str,
    },
    #[error("nobody listens on port {port}")]
    NotListening {
        port: u16,
        #[source]
        source: io::Error,
    },
    #[error("this guest cannot {0}")]
    Unsupported(String),
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error(transparent)]
    Failure(#[from] Failure),
    #[error("cannot {action}")]
    Io {
        action: String,
        #[source]
        source: io::Error,
    },
}

impl AgentError {
    /// `action` completes "cannot …".
    pub(crate) fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::Io { action, source }
    }

    fn code(&self) -> Code {
        match self {
            Self::Invalid { .. } | Self::Json { .. } => Code::INVALID_ARGUMENT,
            Self::NotFound { .. } => Code::NOT_FOUND,
            Self::Exists { .. } => Code::ALREADY_EXISTS,
            Self::WrongState { .. } | Self::SandboxState { .. } | Self::NotListening { .. } => {
                Code::FAILED_PRECONDITION
            }
            Self::Unsupported(_) => Code::UNIMPLEMENTED,
            Self::Io { .. } => Code::INTERNAL,
            Self::Cgroup(error) => code_of(error.reason()),
            Self::Failure(failure) => code_of(failure.reason),
        }
    }

    fn reason(&self) -> Option<failure::Reason> {
        match self {
            Self::Failure(Failure { reason, .. }) => match reason {
                Reason::CommandNotFound => Some(failure::Reason::COMMAND_NOT_FOUND),
                Reason::CommandNotExecutable => Some(failure::Reason::COMMAND_NOT_EXECUTABLE),
                Reason::Invalid | Reason::Unsupported | Reason::Internal => None,
            },
            _ => None,
        }
    }
}

fn code_of(reason: Reason) -> Code {
    match reason {
        Reason::Invalid => Code::INVALID_ARGUMENT,
        Reason::Unsupported => Code::UNIMPLEMENTED,
        Reason::CommandNotFound | Reason::CommandNotExecutable | Reason::Internal => Code::INTERNAL,
    }
}

impl From<AgentError> for ttrpc::Error {
    fn from(error: AgentError) -> Self {
        let message = chain(&error);
        log::warn!("{message}");
        Self::RpcStatus(match error.reason() {
            Some(reason) => failure::status(error.code(), message, reason),
            None => ttrpc::get_status(error.code(), message),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_command_is_told_by_its_reason() {
        let error = AgentError::Failure(Failure {
            reason: Reason::CommandNotFound,
            message: "nothing: command not found".to_owned(),
        });
        let error = ttrpc::Error::from(error);
        assert_eq!(
            failure::reason(&error),
            Some(failure::Reason::COMMAND_NOT_FOUND)
        );
    }

    #[test]
    fn causes_are_part_of_the_message() {
        let error = AgentError::io("open /x")(io::ErrorKind::NotFound.into());
        let ttrpc::Error::RpcStatus(status) = ttrpc::Error::from(error) else {
            panic!("not a status");
        };
        assert_eq!(status.code(), Code::INTERNAL);
        assert!(status.message().contains("open /x") && status.message().contains("not found"));
    }
}
