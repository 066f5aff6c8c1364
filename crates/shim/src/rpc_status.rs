//! From our errors to the codes that containerd and other clients know.

use hull_sandbox::SandboxError;
use hull_sandbox::SeccompError;
use hull_sandbox::root_image::RootImageError;
use hull_vm::VmError;
use ttrpc::proto::{Code, Status};

use crate::client::report::chain;

/// The answer to a call that failed: the code, and the chain of causes as one line. A reason that
/// the guest gave travels on in the details.
pub(crate) fn rpc_error(error: &SandboxError) -> ttrpc::Error {
    let mut status: Status = ttrpc::get_status(code(error), chain(error));
    if let SandboxError::Agent {
        source: ttrpc::Error::RpcStatus(guest),
        ..
    } = error
    {
        status.details.clone_from(&guest.details);
    }
    ttrpc::Error::RpcStatus(status)
}

/// The answer to a call that makes no sense.
pub(crate) fn invalid(message: &str) -> ttrpc::Error {
    ttrpc::Error::RpcStatus(ttrpc::get_status(Code::INVALID_ARGUMENT, message))
}

fn code(error: &SandboxError) -> Code {
    match error {
        SandboxError::NotFound { .. } => Code::NOT_FOUND,
        SandboxError::AlreadyExists { .. } => Code::ALREADY_EXISTS,
        SandboxError::State(_) | SandboxError::Ended(_) | SandboxError::NotRunning(_) => {
            Code::FAILED_PRECONDITION
        }
        SandboxError::Invalid(_) | SandboxError::Malformed { .. } => Code::INVALID_ARGUMENT,
        SandboxError::Seccomp(SeccompError::Invalid { .. }) => Code::INVALID_ARGUMENT,
        SandboxError::Unsupported(_)
        | SandboxError::Vm(VmError::Unsupported { .. })
        | SandboxError::RootImage(RootImageError::Unsupported | RootImageError::FileSystem(_))
        | SandboxError::Seccomp(SeccompError::Unsupported(_)) => Code::UNIMPLEMENTED,
        SandboxError::Agent {
            source: ttrpc::Error::RpcStatus(status),
            ..
        } => status.code.enum_value().unwrap_or(Code::UNKNOWN),
        SandboxError::Host { .. }
        | SandboxError::NoGuest
        | SandboxError::Vm(_)
        | SandboxError::Network(_)
        | SandboxError::RootImage(_)
        | SandboxError::Hook(_)
        | SandboxError::Seccomp(SeccompError::Library { .. })
        | SandboxError::Guest(_)
        | SandboxError::Agent { .. }
        | SandboxError::Boot { .. } => Code::INTERNAL,
    }
}

#[cfg(test)]
mod tests {
    use hull_agent_api::failure;

    use super::*;

    #[test]
    fn codes_are_those_that_clients_know() {
        let not_found = SandboxError::NotFound {
            kind: "container",
            id: "x".to_owned(),
        };
        let ttrpc::Error::RpcStatus(status) = rpc_error(&not_found) else {
            panic!("a status was expected");
        };
        assert_eq!(status.code(), Code::NOT_FOUND);
        assert_eq!(status.message(), "no such container: x");
    }

    #[test]
    fn a_guest_status_keeps_its_reason_and_is_said_once() {
        let guest = failure::status(
            Code::INTERNAL,
            "no such file: /bin/nope".to_owned(),
            failure::Reason::COMMAND_NOT_FOUND,
        );
        let error = SandboxError::Agent {
            action: "create the container",
            source: ttrpc::Error::RpcStatus(guest),
        };
        let error = rpc_error(&error);
        assert_eq!(
            failure::reason(&error),
            Some(failure::Reason::COMMAND_NOT_FOUND)
        );
        let ttrpc::Error::RpcStatus(status) = error else {
            panic!("a status was expected");
        };
        assert_eq!(
            status.message(),
            "the guest cannot create the container: no such file: /bin/nope"
        );
    }
}
