//! Why a registry did not give what it was asked for.

use std::io;
use std::path::PathBuf;

use oci_client::errors::{OciDistributionError, OciErrorCode};

/// Why a registry did not give what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// It does not have it.
    #[error("{0} does not have it")]
    NotFound(String),
    /// Credentials are missing, wrong or not enough.
    #[error("{0} denies access")]
    Unauthorized(String),
    /// It cannot be reached, or the connection broke.
    #[error("cannot talk to {host}")]
    Unreachable {
        /// Whom.
        host: String,
        /// Why not.
        source: reqwest::Error,
    },
    /// A connection broke in the middle of a blob, several times without getting further.
    #[error("{host} ended the connection after {received} of {expected} bytes")]
    Interrupted {
        /// Who.
        host: String,
        /// Bytes that arrived.
        received: u64,
        /// Bytes that there are.
        expected: u64,
        /// What the connection said, if anything.
        source: Option<io::Error>,
    },
    /// It answered with an HTTP status that is no success.
    #[error("{host} answers with HTTP status {code}")]
    Status {
        /// Who.
        host: String,
        /// The status.
        code: u16,
    },
    /// It answered with something that makes no sense.
    #[error("{host} does not answer as a registry")]
    Protocol {
        /// Who.
        host: String,
        /// What was wrong.
        source: OciDistributionError,
    },
    /// The HTTP client cannot be set up, such as without any trusted certificates.
    #[error("cannot set up a connection to {0}")]
    Setup(String, #[source] reqwest::Error),
    /// The file with a certificate.
    #[error("cannot read the certificate file {0}")]
    CaFile(PathBuf, #[source] io::Error),
}

impl RegistryError {
    /// Judges an HTTP status; none is a success.
    pub(super) fn of_status(host: &str, code: u16) -> Option<Self> {
        let host = host.to_owned();
        match code {
            200..=299 => None,
            401 | 403 => Some(Self::Unauthorized(host)),
            404 => Some(Self::NotFound(host)),
            code => Some(Self::Status { host, code }),
        }
    }

    pub(super) fn unreachable(host: &str) -> impl FnOnce(reqwest::Error) -> Self {
        let host = host.to_owned();
        move |source| Self::Unreachable { host, source }
    }

    /// Maps what oci-client says.
    pub(super) fn client(host: &str) -> impl FnOnce(OciDistributionError) -> Self {
        let host = host.to_owned();
        move |error| match error {
            OciDistributionError::AuthenticationFailure(_)
            | OciDistributionError::UnauthorizedError { .. } => Self::Unauthorized(host),
            OciDistributionError::RequestError(source) => Self::Unreachable { host, source },
            OciDistributionError::ServerError { code, .. } => {
                Self::of_status(&host, code).unwrap_or(Self::Status { host, code })
            }
            OciDistributionError::RegistryError { envelope, url } => {
                let has = |codes: &[OciErrorCode]| {
                    envelope
                        .errors
                        .iter()
                        .any(|error| codes.contains(&error.code))
                };
                if has(&[OciErrorCode::Unauthorized, OciErrorCode::Denied]) {
                    Self::Unauthorized(host)
                } else if has(&[
                    OciErrorCode::BlobUnknown,
                    OciErrorCode::ManifestBlobUnknown,
                    OciErrorCode::ManifestUnknown,
                    OciErrorCode::NameUnknown,
                    OciErrorCode::NotFound,
                ]) {
                    Self::NotFound(host)
                } else {
                    let source = OciDistributionError::RegistryError { envelope, url };
                    Self::Protocol { host, source }
                }
            }
            source => Self::Protocol { host, source },
        }
    }
}
