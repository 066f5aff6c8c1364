//! Requests to Firecracker: HTTP/1.1 over a Unix socket.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use hyper::Method;
use serde::Deserialize;
use serde_json::json;

use crate::confine::Identity;
use crate::error::VmError;
use crate::http;
use crate::process;

/// The directory in which it makes its socket.
fn dir(run_dir: &Path) -> PathBuf {
    run_dir.join("api")
}

/// Where it listens in that directory.
pub(super) fn socket(dir: impl AsRef<Path>) -> PathBuf {
    dir.as_ref().join("api.sock")
}

/// Makes the directory, for the VMM alone.
pub(super) fn make_dir(run_dir: &Path, identity: Identity) -> Result<OwnedFd, VmError> {
    use std::os::unix::fs::DirBuilderExt;
    let dir = dir(run_dir);
    let made = std::fs::DirBuilder::new().mode(0o700).create(&dir);
    made.map_err(VmError::host(format!("create {}", dir.display())))?;
    identity.give(&dir)?;
    process::open_place(&dir)
}

/// A state that a running machine is to be in.
#[derive(Debug, Clone, Copy)]
pub(super) enum State {
    Paused,
    Resumed,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            Self::Paused => "Paused",
            Self::Resumed => "Resumed",
        }
    }
}

/// The API of a running VMM.
#[derive(Debug)]
pub(super) struct Api {
    socket: PathBuf,
}

impl Api {
    pub(super) fn new(run_dir: &Path) -> Self {
        Self {
            socket: socket(dir(run_dir)),
        }
    }

    /// Brings the machine into a state.
    pub(super) async fn set_state(&self, state: State) -> Result<(), VmError> {
        let command = state.name();
        let body = json!({"state": command});
        let sent = http::send(&self.socket, Method::PATCH, "/vm", Some(&body), command);
        let answer = sent.await?;
        answer.done(command, why)
    }
}

/// What it says about a refusal.
fn why(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Fault {
        fault_message: String,
    }
    let fault: Fault = serde_json::from_slice(body).ok()?;
    Some(fault.fault_message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::fake::{self, Reply};
    use crate::schema::Schema;

    const FAULT: &str = r#"{"fault_message": "The microVM is not running."}"#;

    #[tokio::test]
    async fn requests_are_as_the_published_schema_says() {
        for state in [State::Paused, State::Resumed] {
            let dir = tempfile::tempdir().unwrap();
            let api = Api::new(dir.path());
            std::fs::create_dir(super::dir(dir.path())).unwrap();
            let server = fake::serve(&api.socket, Reply::of(204, ""));
            api.set_state(state).await.unwrap();
            let request = server.await.unwrap();
            if let Some(schema) = Schema::of("firecracker.yaml") {
                schema.check_request("", &request);
            }
        }
    }

    #[tokio::test]
    async fn a_refusal_is_told_in_its_own_words() {
        let dir = tempfile::tempdir().unwrap();
        let api = Api::new(dir.path());
        std::fs::create_dir(super::dir(dir.path())).unwrap();
        let server = fake::serve(&api.socket, Reply::of(400, FAULT));
        let error = api.set_state(State::Paused).await.unwrap_err();
        server.await.unwrap();
        assert_eq!(
            error.to_string(),
            "the VMM refused `Paused`: The microVM is not running."
        );
    }
}
