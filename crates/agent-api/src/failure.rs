//! Why a call failed, where a host has to know more than the status code.

use protobuf::{EnumOrUnknown, Message};
use ttrpc::proto::{Any, Code, Status};

use crate::agent::ErrorDetail;
pub use crate::agent::error_detail::Reason;

const TYPE_URL: &str = "hull.agent.v1.ErrorDetail";

/// An error status with a reason.
#[must_use]
pub fn status(code: Code, message: String, reason: Reason) -> Status {
    let detail = ErrorDetail {
        reason: EnumOrUnknown::new(reason),
        ..ErrorDetail::default()
    };
    let mut status = ttrpc::get_status(code, message);
    // A message of one integer always encodes; without it the code still stands.
    if let Ok(value) = detail.write_to_bytes() {
        status.details.push(Any {
            type_url: TYPE_URL.to_owned(),
            value,
            ..Any::default()
        });
    }
    status
}

/// The reason that an error carries, if it carries one this host knows.
#[must_use]
pub fn reason(error: &ttrpc::Error) -> Option<Reason> {
    let ttrpc::Error::RpcStatus(status) = error else {
        return None;
    };
    let any = status.details.iter().find(|any| any.type_url == TYPE_URL)?;
    let detail = ErrorDetail::parse_from_bytes(&any.value).ok()?;
    match detail.reason.enum_value() {
        Ok(Reason::UNSPECIFIED) | Err(_) => None,
        Ok(reason) => Some(reason),
    }
}

/// The exit code with which a shell reports a program that it cannot run for this reason.
#[must_use]
pub fn exit_code(reason: Reason) -> Option<u8> {
    match reason {
        Reason::UNSPECIFIED => None,
        Reason::COMMAND_NOT_FOUND => Some(127),
        Reason::COMMAND_NOT_EXECUTABLE => Some(126),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_survives_the_status() {
        let status = status(
            Code::INTERNAL,
            "no such program".to_owned(),
            Reason::COMMAND_NOT_FOUND,
        );
        let error = ttrpc::Error::RpcStatus(status);
        assert_eq!(reason(&error), Some(Reason::COMMAND_NOT_FOUND));
    }

    #[test]
    fn a_status_without_a_detail_has_no_reason() {
        let error = ttrpc::Error::RpcStatus(ttrpc::get_status(Code::INTERNAL, "broken"));
        assert_eq!(reason(&error), None);
    }
}
