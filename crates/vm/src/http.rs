//! Requests to a VMM's API: HTTP/1.1 over a Unix socket, one connection for each.

use std::io;
use std::path::Path;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde_json::Value;

use crate::deadline::in_time;
use crate::error::VmError;
use crate::socket;

/// Longest answer, bytes: a VMM may be in its guest's hands.
const MAX_ANSWER: usize = 1 << 20;
/// What a VMM answers.
#[derive(Debug)]
pub(crate) struct Answer {
    status: StatusCode,
    body: Vec<u8>,
}

impl Answer {
    /// The body for people.
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).trim().to_owned()
    }

    /// That `command` was done. Of a refusal, `why` finds the VMM's own words in the body, where they are.
    ///
    /// # Errors
    /// When it was refused.
    pub(crate) fn done(
        &self,
        command: &'static str,
        why: impl FnOnce(&[u8]) -> Option<String>,
    ) -> Result<(), VmError> {
        if self.status.is_success() {
            return Ok(());
        }
        let answer = why(&self.body).unwrap_or_else(|| format!("{}: {}", self.status, self.text()));
        Err(VmError::Refused { command, answer })
    }
}

/// Sends a request to the VMM that listens on `socket`, and waits for the answer no longer than `most`. `command` names
/// it in errors.
///
/// # Errors
/// When there is no connection or no whole answer.
pub(crate) async fn send(
    socket: &Path,
    method: Method,
    path: &str,
    body: Option<&Value>,
    command: &'static str,
    most: Duration,
) -> Result<Answer, VmError> {
    let disconnected = |source| VmError::Disconnected { command, source };
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "localhost");
    if body.is_some() {
        request = request.header(header::CONTENT_TYPE, "application/json");
    }
    let body = body.map(Value::to_string).unwrap_or_default();
    let request = request.body(Full::from(body));
    let request = request.map_err(|error| disconnected(io::Error::other(error)))?;
    let answer = async { exchange(socket, request).await.map_err(disconnected) };
    in_time(most, command, answer).await
}

async fn exchange(socket: &Path, request: Request<Full<Bytes>>) -> io::Result<Answer> {
    let stream = socket::connect(socket).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    let answered = async {
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER)
            .collect()
            .await?;
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(Answer {
            status,
            body: body.to_bytes().into(),
        })
    };
    // The connection moves on only while it is polled, and ends when the request does.
    tokio::pin!(answered);
    tokio::select! {
        answer = &mut answered => answer.map_err(io::Error::other),
        // What has arrived until then may be the whole answer.
        _ = connection => answered.await.map_err(io::Error::other),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::deadline::PROMPTLY;
    use crate::stand_in::api::{Reply, serve};

    async fn answer(reply: Reply) -> Result<Answer, VmError> {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("api.sock");
        let server = serve(&socket, |_| (), [reply]);
        let body = json!({"state": "Paused"});
        let answer = send(
            &socket,
            Method::PATCH,
            "/vm",
            Some(&body),
            "pause",
            PROMPTLY,
        )
        .await;
        let asked = server.await.unwrap();
        assert_eq!(asked[0].line(), "PATCH /vm");
        assert_eq!(asked[0].body, Some(body));
        answer
    }

    fn assert_disconnected(answer: Result<Answer, VmError>) {
        assert!(
            matches!(
                answer,
                Err(VmError::Disconnected {
                    command: "pause",
                    ..
                })
            ),
            "{answer:?}"
        );
    }

    #[tokio::test]
    async fn an_answer_comes_with_its_status_and_text() {
        let answer = answer(Reply::of(400, " no \n")).await.unwrap();
        assert_eq!(answer.status, 400);
        assert_eq!(answer.text(), "no");
    }

    #[tokio::test]
    async fn a_refusal_is_told_in_the_vmm_s_own_words_if_they_are_found() {
        let answer = answer(Reply::of(500, "oops")).await.unwrap();
        let told = |why: Option<&str>| {
            let done = answer.done("pause", |_| why.map(str::to_owned));
            done.unwrap_err().to_string()
        };
        let beginning = "the VMM refused `pause`: ";
        assert_eq!(told(Some("it runs")), format!("{beginning}it runs"));
        let all = format!("{beginning}500 Internal Server Error: oops");
        assert_eq!(told(None), all);
    }

    #[tokio::test]
    async fn a_vmm_that_dies_half_way_has_not_answered() {
        for cut in [0, 5, 30] {
            assert_disconnected(answer(Reply::of(200, "an answer").cut_to(cut)).await);
        }
        let whole = Reply::of(200, "an answer");
        let all_but_one = whole.length() - 1;
        assert_disconnected(answer(whole.cut_to(all_but_one)).await);
    }

    #[tokio::test]
    async fn a_vmm_that_is_gone_has_not_answered() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("api.sock");
        let put = || send(&socket, Method::PUT, "/vm", None, "pause", PROMPTLY);
        assert_disconnected(put().await);
        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        assert_disconnected(put().await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_vmm_that_does_not_answer_is_not_waited_for_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("api.sock");
        let server = serve(&socket, |_| (), [Reply::never()]);
        assert_disconnected(send(&socket, Method::PUT, "/vm", None, "pause", PROMPTLY).await);
        assert!(!server.is_finished());
    }

    #[tokio::test]
    async fn a_flood_is_no_answer() {
        let flood = "x".repeat(MAX_ANSWER + 1);
        assert_disconnected(answer(Reply::of(200, &flood)).await);
    }
}
