//! Requests to Cloud Hypervisor: HTTP/1.1 over a Unix socket.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::Method;
use serde_json::{Value, json};

use crate::deadline;
use crate::error::VmError;
use crate::http;

/// Where all of its paths begin.
pub(super) const BASE: &str = "/api/v1";

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

    /// Stops the virtual CPUs.
    pub(super) async fn pause(&self) -> Result<(), VmError> {
        self.put("vm.pause", None, deadline::PROMPTLY).await
    }

    /// Lets them run again.
    pub(super) async fn resume(&self) -> Result<(), VmError> {
        self.put("vm.resume", None, deadline::PROMPTLY).await
    }

    /// Writes a snapshot into a directory that is there and empty.
    pub(super) async fn snapshot(&self, dir: &str) -> Result<(), VmError> {
        let body = json!({"destination_url": format!("file://{dir}")});
        self.put("vm.snapshot", Some(&body), deadline::MEMORY).await
    }

    async fn put(
        &self,
        action: &'static str,
        body: Option<&Value>,
        most: Duration,
    ) -> Result<(), VmError> {
        let path = format!("{BASE}/{action}");
        let answer = http::send(&self.socket, Method::PUT, &path, body, action, most).await?;
        answer.done(action, why)
    }
}

/// The errors of a refusal, the outermost first: an array of strings.
fn why(body: &[u8]) -> Option<String> {
    let chain: Vec<String> = serde_json::from_slice(body).ok()?;
    Some(chain.join(": "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_errors_of_a_refusal_are_told_from_the_outermost_on() {
        let chain = br#"["cannot pause","it is not running"]"#;
        assert_eq!(why(chain).unwrap(), "cannot pause: it is not running");
        assert_eq!(why(b"oops"), None);
    }
}
