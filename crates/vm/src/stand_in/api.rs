//! A VMM's API: a server that has each request checked, answers it with what it was told, and goes on to the next.

use std::fmt;
use std::io;
use std::path::Path;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;

type Act = Box<dyn FnOnce(&AskedFor) + Send>;

/// What becomes of a request.
pub(crate) struct Reply {
    /// Nothing: never.
    bytes: Option<Vec<u8>>,
    before: Act,
    /// What happens once it has hung up, for good.
    death: Option<Box<dyn FnOnce() + Send>>,
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.bytes.as_deref().map(String::from_utf8_lossy);
        f.debug_tuple("Reply").field(&text).finish()
    }
}

impl Reply {
    fn new(bytes: Option<Vec<u8>>) -> Self {
        Self {
            bytes,
            before: Box::new(|_| ()),
            death: None,
        }
    }

    /// As it goes over the socket.
    pub(crate) fn bytes(text: &str) -> Self {
        Self::new(Some(text.into()))
    }

    pub(crate) fn of(status: u16, body: &str) -> Self {
        let length = body.len();
        Self::bytes(&format!(
            "HTTP/1.1 {status} \r\nContent-Length: {length}\r\n\r\n{body}"
        ))
    }

    pub(crate) fn never() -> Self {
        Self::new(None)
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

    /// It does this first.
    pub(crate) fn after(mut self, act: impl FnOnce(&AskedFor) + Send + 'static) -> Self {
        self.before = Box::new(act);
        self
    }

    /// Then nobody listens any more, and this happens.
    pub(crate) fn then(mut self, death: impl FnOnce() + Send + 'static) -> Self {
        self.death = Some(Box::new(death));
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

impl AskedFor {
    /// Method and path.
    pub(crate) fn line(&self) -> String {
        format!("{} {}", self.method, self.path)
    }
}

/// Listens on `socket` from now on, answers these requests, each on a connection of its own, and says what they were.
/// `check` panics at one that should not be.
pub(crate) fn serve(
    socket: &Path,
    check: impl Fn(&AskedFor) + Send + 'static,
    replies: impl IntoIterator<Item = Reply>,
) -> JoinHandle<Vec<AskedFor>> {
    let listener = UnixListener::bind(socket).unwrap();
    let replies: Vec<_> = replies.into_iter().collect();
    tokio::spawn(async move {
        let mut asked = Vec::new();
        for reply in replies {
            let (request, mut stream) = next(&listener).await;
            check(&request);
            (reply.before)(&request);
            match reply.bytes {
                // Who has heard enough hangs up.
                Some(bytes) => drop(stream.write_all(&bytes).await),
                None => std::future::pending().await,
            }
            asked.push(request);
            if let Some(death) = reply.death {
                // In this order, as when a process ends.
                drop((stream, listener));
                death();
                break;
            }
        }
        asked
    })
}

/// The next request, and where its answer goes.
async fn next(listener: &UnixListener) -> (AskedFor, UnixStream) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = BufReader::new(stream);
        // Who says nothing only wanted to know whether somebody listens.
        if let Some(request) = read(&mut stream).await.unwrap() {
            return (request, stream.into_inner());
        }
    }
}

async fn read(stream: &mut BufReader<UnixStream>) -> io::Result<Option<AskedFor>> {
    let mut line = String::new();
    if stream.read_line(&mut line).await? == 0 {
        return Ok(None);
    }
    let mut words = line.split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap(), words.next().unwrap());
    let mut length = 0;
    loop {
        let mut header = String::new();
        stream.read_line(&mut header).await?;
        let header = header.trim_end().to_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.strip_prefix("content-length: ") {
            length = value.parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok(Some(AskedFor {
        method,
        path,
        body: (length > 0).then(|| serde_json::from_slice(&body).unwrap()),
    }))
}
