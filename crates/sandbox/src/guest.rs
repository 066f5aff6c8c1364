//! The host's side of the contract with the guest's agent.
//!
//! The guest is not trusted: what it sends is bounded in length, and a call that it does not answer
//! ends with a deadline.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hull_agent_api::agent_ttrpc::AgentClient;
use hull_agent_api::hello::{self, Hello, HelloError};
use hull_agent_api::{ports, stdio};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use ttrpc::context::Context;

use crate::error::SandboxError;
use crate::process::random_token;

/// Longest time that the guest has for an answer, but for calls that wait for a process.
const CALL_DEADLINE: Duration = Duration::from_secs(60);

/// Longest answer to `CONNECT`, bytes.
const MAX_CONNECT_ANSWER: usize = 32;

/// Why the guest could not be reached.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// A socket operation failed.
    #[error("cannot {action}")]
    Socket {
        /// What was tried.
        action: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The vsock back end refused: nobody listens in the guest.
    #[error("the guest does not listen on vsock port {port}")]
    NotListening {
        /// The port.
        port: u32,
    },
    /// The ready line was refused.
    #[error("the guest is not ours")]
    Hello(#[from] HelloError),
    /// The guest refused a stdio stream.
    #[error("the guest refused a stdio stream")]
    Stdio,
    /// A token of ours is malformed.
    #[error(transparent)]
    Token(#[from] stdio::HandshakeError),
}

impl GuestError {
    fn socket(action: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let action = action.into();
        move |source| Self::Socket { action, source }
    }
}

/// Where the guest says that it is ready. Bound before the guest boots.
#[derive(Debug)]
pub struct ReadyListener {
    listener: UnixListener,
}

/// Where connections of the guest behind the hybrid socket `vsock` to a port of the host's arrive.
pub(crate) fn host_port(vsock: &Path, port: u32) -> PathBuf {
    let mut path = vsock.as_os_str().to_owned();
    path.push(format!("_{port}"));
    path.into()
}

impl ReadyListener {
    /// Listens beside the hybrid vsock socket.
    ///
    /// # Errors
    /// When the socket cannot be bound.
    pub fn bind(vsock: &Path) -> Result<Self, SandboxError> {
        let path = host_port(vsock, ports::READY);
        let listener = std::os::unix::net::UnixListener::from(hull_vm::process::listen(&path)?);
        let cannot = || SandboxError::host(format!("listen on {}", path.display()));
        listener.set_nonblocking(true).map_err(cannot())?;
        Ok(Self {
            listener: UnixListener::from_std(listener).map_err(cannot())?,
        })
    }

    /// Waits for the guest's hello.
    ///
    /// # Errors
    /// When it is not a hello of this version.
    pub async fn ready(&self) -> Result<Hello, GuestError> {
        let failed = || GuestError::socket("wait for the guest to be ready");
        let (mut stream, _) = self.listener.accept().await.map_err(failed())?;
        let line = read_line(&mut stream, hello::MAX_LINE)
            .await
            .map_err(failed())?;
        Ok(Hello::parse(&line)?)
    }
}

/// The guest, seen from the host.
#[derive(Clone)]
pub struct Guest {
    vsock: PathBuf,
    agent: AgentClient,
}

impl std::fmt::Debug for Guest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guest")
            .field("vsock", &self.vsock)
            .finish_non_exhaustive()
    }
}

impl Guest {
    /// Connects to a guest that is ready.
    ///
    /// # Errors
    /// When the guest cannot be reached.
    pub async fn connect(vsock: &Path) -> Result<Self, GuestError> {
        let stream = dial(vsock, ports::RPC).await?;
        let client =
            ttrpc::asynchronous::Client::new(ttrpc::asynchronous::transport::Socket::new(stream));
        Ok(Self {
            vsock: vsock.to_owned(),
            agent: AgentClient::new(client),
        })
    }

    /// The agent's calls.
    #[must_use]
    pub fn agent(&self) -> &AgentClient {
        &self.agent
    }

    /// Opens a stdio stream by a new token, for a call that names it.
    ///
    /// # Errors
    /// As [`Guest::open_stdio`].
    pub(crate) async fn open_stream(&self) -> Result<(String, UnixStream), SandboxError> {
        let token = random_token()?;
        let stream = self.open_stdio(&token).await?;
        Ok((token, stream))
    }

    /// Opens a stdio stream that `CreateContainer` or `ExecProcess` may then name by `token`.
    ///
    /// # Errors
    /// When the guest cannot be reached or refuses.
    pub async fn open_stdio(&self, token: &str) -> Result<UnixStream, GuestError> {
        let mut stream = dial(&self.vsock, ports::STDIO).await?;
        let failed = || GuestError::socket("open a stdio stream of the guest");
        let handshake = stdio::handshake(token)?;
        stream
            .write_all(handshake.as_bytes())
            .await
            .map_err(failed())?;
        let answer = read_line(&mut stream, stdio::ACCEPTED.len())
            .await
            .map_err(failed())?;
        if answer != stdio::ACCEPTED {
            return Err(GuestError::Stdio);
        }
        Ok(stream)
    }
}

/// The context of a call that the guest answers at once.
#[must_use]
pub fn promptly() -> Context {
    ttrpc::context::with_duration(CALL_DEADLINE)
}

/// The context of a call that the guest answers when something happens.
#[must_use]
pub fn whenever() -> Context {
    ttrpc::context::with_timeout(0)
}

/// Connects to a vsock port of the guest through the hybrid socket (Firecracker's docs/vsock.md).
async fn dial(vsock: &Path, port: u32) -> Result<UnixStream, GuestError> {
    let failed = || GuestError::socket(format!("connect to vsock port {port} of the guest"));
    let mut stream = hull_vm::socket::connect(vsock).await.map_err(failed())?;
    // One write: some VMMs take a partial line for a broken one.
    let request = format!("CONNECT {port}\n");
    stream
        .write_all(request.as_bytes())
        .await
        .map_err(failed())?;
    match read_line(&mut stream, MAX_CONNECT_ANSWER).await {
        Ok(answer) if answer.starts_with(b"OK ") => Ok(stream),
        Ok(_) => Err(GuestError::NotListening { port }),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            Err(GuestError::NotListening { port })
        }
        Err(error) => Err(failed()(error)),
    }
}

/// Reads up to and with a newline, byte by byte: what follows belongs to the stream.
async fn read_line(stream: &mut UnixStream, most: usize) -> std::io::Result<Vec<u8>> {
    let mut line = Vec::with_capacity(most);
    while line.len() < most {
        let byte = stream.read_u8().await?;
        line.push(byte);
        if byte == b'\n' {
            return Ok(line);
        }
    }
    Err(std::io::Error::new(
        std::io::ErrorKind::InvalidData,
        "the line is too long",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A hybrid socket whose other side does `serve`.
    async fn guest_that<F>(
        serve: impl FnOnce(UnixStream) -> F + Send + 'static,
    ) -> (tempfile::TempDir, PathBuf)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vsock.sock");
        let listener = UnixListener::bind(&path).unwrap();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            serve(stream).await;
        });
        (dir, path)
    }

    #[tokio::test]
    async fn bytes_after_the_answer_belong_to_the_stream() {
        let (_dir, path) = guest_that(|mut stream| async move {
            assert_eq!(read_line(&mut stream, 64).await.unwrap(), b"CONNECT 7\n");
            stream.write_all(b"OK 1073741824\nhello").await.unwrap();
        })
        .await;
        let mut stream = dial(&path, 7).await.unwrap();
        let mut rest = String::new();
        stream.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "hello");
    }

    #[tokio::test]
    async fn a_closed_port_and_a_flood_are_errors() {
        let (_dir, path) = guest_that(|stream| async { drop(stream) }).await;
        assert!(dial(&path, 7).await.is_err());
        let (_dir, path) = guest_that(|mut stream| async move {
            // The host may hang up in the middle of this.
            let _ = stream.write_all(&[b'O'; 4096]).await;
            let _ = stream.read_u8().await;
        })
        .await;
        assert!(matches!(
            dial(&path, 7).await,
            Err(GuestError::Socket { .. })
        ));
    }
}
