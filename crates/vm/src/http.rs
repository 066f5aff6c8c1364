//! Requests to a VMM's API: HTTP/1.1 over a Unix socket, one connection for each.

use std::io;
use std::path::Path;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use crate::error::VmError;

/// Longest answer, bytes: a VMM may be in its guest's hands.
const MAX_ANSWER: usize = 1 << 20;
/// A VMM that has not answered for so long never will.
const DEADLINE: Duration = Duration::from_secs(60);

/// What a VMM answers.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// The body for people.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).trim().to_owned()
    }
}

/// Sends PUT for `path` without a body to the VMM that listens on `socket`. `command` names it in errors.
///
/// # Errors
/// When there is no connection or no whole answer.
pub(crate) async fn put(
    socket: &Path,
    path: &str,
    command: &'static str,
) -> Result<Answer, VmError> {
    let answer = tokio::time::timeout(DEADLINE, exchange(socket, path));
    let answer = answer.await.unwrap_or_else(|_| {
        let late = format!("no answer in {} s", DEADLINE.as_secs());
        Err(io::Error::new(io::ErrorKind::TimedOut, late))
    });
    answer.map_err(|source| VmError::Disconnected { command, source })
}

async fn exchange(socket: &Path, path: &str) -> io::Result<Answer> {
    let stream = UnixStream::connect(socket).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    let request = Request::put(path)
        .header(header::HOST, "localhost")
        .body(Empty::<Bytes>::new())
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
    tokio::select! {
        answer = answered => answer.map_err(io::Error::other),
        Err(error) = connection => Err(io::Error::other(error)),
    }
}
