//! Requests to Cloud Hypervisor: HTTP/1.1 over a Unix socket.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::Method;
use serde_json::{Value, json};

use crate::error::VmError;
use crate::http;

/// Where all of its paths begin.
const BASE: &str = "/api/v1";

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
        self.put("vm.pause", None, http::PROMPTLY).await
    }

    /// Lets them run again.
    pub(super) async fn resume(&self) -> Result<(), VmError> {
        self.put("vm.resume", None, http::PROMPTLY).await
    }

    /// Writes a snapshot into a directory that is there and empty.
    pub(super) async fn snapshot(&self, dir: &str) -> Result<(), VmError> {
        let body = json!({"destination_url": format!("file://{dir}")});
        self.put("vm.snapshot", Some(&body), http::MEMORY).await
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
    use crate::http::fake::{self, Reply};
    use crate::schema::Schema;

    /// Has the request checked that `ask` makes.
    async fn check(ask: impl AsyncFnOnce(&Api) -> Result<(), VmError>) {
        let dir = tempfile::tempdir().unwrap();
        let api = Api::new(dir.path());
        let server = fake::serve(&api.socket, Reply::of(204, ""));
        ask(&api).await.unwrap();
        let request = server.await.unwrap();
        if let Some(schema) = Schema::of("cloud-hypervisor.yaml") {
            schema.check_request(BASE, &request);
        }
    }

    #[tokio::test]
    async fn requests_are_as_the_published_schema_says() {
        check(Api::pause).await;
        check(Api::resume).await;
        check(async |api| api.snapshot("/proc/self/fd/9/out").await).await;
    }

    #[tokio::test]
    async fn a_refusal_is_told_in_its_own_words() {
        for (body, told) in [
            (
                r#"["cannot pause","it is not running"]"#,
                "cannot pause: it is not running",
            ),
            ("oops", "500 Internal Server Error: oops"),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let api = Api::new(dir.path());
            let server = fake::serve(&api.socket, Reply::of(500, body));
            let error = api.pause().await.unwrap_err();
            server.await.unwrap();
            assert_eq!(
                error.to_string(),
                format!("the VMM refused `vm.pause`: {told}")
            );
        }
    }
}
