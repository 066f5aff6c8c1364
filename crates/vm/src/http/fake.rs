//! A VMM's API for tests: answers one request with what it was told.

use std::path::Path;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixListener;
use tokio::task::JoinHandle;

/// What it answers.
#[derive(Debug)]
pub(crate) struct Reply {
    /// Nothing: never.
    bytes: Option<Vec<u8>>,
}

impl Reply {
    pub(crate) fn of(status: u16, body: &str) -> Self {
        let length = body.len();
        let text = format!("HTTP/1.1 {status} \r\nContent-Length: {length}\r\n\r\n{body}");
        Self {
            bytes: Some(text.into_bytes()),
        }
    }

    pub(crate) fn never() -> Self {
        Self { bytes: None }
    }

    pub(crate) fn length(&self) -> usize {
        self.bytes.as_ref().map_or(0, Vec::len)
    }

    /// It ends after so many bytes.
    pub(crate) fn cut_to(mut self, length: usize) -> Self {
        if let Some(bytes) = &mut self.bytes {
            bytes.truncate(length);
        }
        self
    }
}

/// What it was asked.
#[derive(Debug)]
pub(crate) struct AskedFor {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) body: Option<Value>,
}

/// Listens on `socket` from now on.
pub(crate) fn serve(socket: &Path, reply: Reply) -> JoinHandle<AskedFor> {
    let listener = UnixListener::bind(socket).unwrap();
    tokio::spawn(async move {
        let mut line = String::new();
        // Who says nothing only wanted to know whether somebody listens.
        let mut stream = loop {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = BufReader::new(stream);
            if stream.read_line(&mut line).await.unwrap() > 0 {
                break stream;
            }
        };
        let mut words = line.split(' ').map(str::to_owned);
        let (method, path) = (words.next().unwrap(), words.next().unwrap());
        let mut length = 0;
        loop {
            let mut header = String::new();
            stream.read_line(&mut header).await.unwrap();
            let header = header.trim_end().to_lowercase();
            if header.is_empty() {
                break;
            }
            if let Some(value) = header.strip_prefix("content-length: ") {
                length = value.parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.unwrap();
        match reply.bytes {
            // Who has heard enough hangs up.
            Some(bytes) => drop(stream.write_all(&bytes).await),
            None => std::future::pending().await,
        }
        AskedFor {
            method,
            path,
            body: (length > 0).then(|| serde_json::from_slice(&body).unwrap()),
        }
    })
}
