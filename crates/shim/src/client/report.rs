//! How errors are told.

use std::error::Error;

/// An error and its causes on one line, each said once.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        // A transparent wrapper says what its source says; a status is its message.
        let said = match cause.downcast_ref::<ttrpc::Error>() {
            Some(ttrpc::Error::RpcStatus(status)) => status.message().to_owned(),
            _ => cause.to_string(),
        };
        if !text.ends_with(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot open the door")]
    struct Door(#[source] Lock);

    #[derive(Debug, thiserror::Error)]
    #[error(transparent)]
    struct Lock(#[from] std::io::Error);

    #[test]
    fn every_cause_is_said_once() {
        let error = Door(Lock(std::io::ErrorKind::PermissionDenied.into()));
        assert_eq!(chain(&error), "cannot open the door: permission denied");
    }
}
