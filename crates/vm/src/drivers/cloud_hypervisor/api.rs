//! Requests to Cloud Hypervisor: HTTP/1.1 over a Unix socket.

use std::path::{Path, PathBuf};

use crate::error::VmError;
use crate::http;

/// Where it listens.
pub(super) fn socket(run_dir: &Path) -> PathBuf {
    run_dir.join("api.sock")
}

/// The API of a running VMM.
#[derive(Debug)]
pub(super) struct Api {
    socket: PathBuf,
}

impl Api {
    pub(super) fn new(run_dir: &Path) -> Self {
        Self {
            socket: socket(run_dir),
        }
    }

    /// An action that needs no more than its name.
    pub(super) async fn put(&self, action: &'static str) -> Result<(), VmError> {
        let path = format!("/api/v1/{action}");
        let answer = http::put(&self.socket, &path, action).await?;
        match answer.status.is_success() {
            true => Ok(()),
            false => Err(VmError::Refused {
                command: action,
                answer: why(&answer),
            }),
        }
    }
}

/// The errors of a refusal, the outermost first: an array of strings.
fn why(answer: &http::Answer) -> String {
    match serde_json::from_slice::<Vec<String>>(&answer.body) {
        Ok(chain) => chain.join(": "),
        Err(_) => format!("{}: {}", answer.status, answer.text()),
    }
}

#[cfg(test)]
mod tests {
    use hyper::StatusCode;

    use super::*;

    #[test]
    fn a_refusal_is_told_in_its_own_words() {
        let answer = |body: &str| http::Answer {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            body: body.as_bytes().to_vec(),
        };
        assert_eq!(
            why(&answer(r#"["cannot pause","it is not running"]"#)),
            "cannot pause: it is not running"
        );
        assert_eq!(why(&answer("oops")), "500 Internal Server Error: oops");
    }
}
