//! Streams that the host has opened and that wait for their process.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hull_agent_api::stdio::{ACCEPTED, MAX_LINE, parse};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, send};
use tokio::io::unix::AsyncFd;

use crate::listen::Listener;
use crate::sys::event::register;

/// A connection to the host that carries one stream.
pub(crate) type Connection = AsyncFd<OwnedFd>;

/// Connections by token.
#[derive(Debug, Default)]
pub(crate) struct Parked {
    streams: Mutex<HashMap<String, Connection>>,
}

/// Why a connection is not a stream.
#[derive(Debug, thiserror::Error)]
enum AcceptError {
    #[error("cannot read the handshake of a stdio stream")]
    Read(#[source] io::Error),
    #[error(transparent)]
    Handshake(#[from] hull_agent_api::stdio::HandshakeError),
    #[error("two stdio streams have the same token")]
    Duplicate,
    #[error("cannot answer a stdio stream")]
    Answer(#[source] io::Error),
}

impl Parked {
    fn streams(&self) -> MutexGuard<'_, HashMap<String, Connection>> {
        // Nothing panics while it is held.
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the stream of a token, which the host opened before it named it.
    pub(crate) fn claim(&self, token: &str) -> Option<Connection> {
        self.streams().remove(token)
    }

    /// Accepts streams for as long as the agent runs.
    pub(crate) async fn serve(self: Arc<Self>, listener: Listener) {
        loop {
            match listener.accept().await {
                Ok(fd) => {
                    let parked = Arc::clone(&self);
                    tokio::spawn(async move {
                        if let Err(error) = parked.park(fd).await {
                            log::warn!("{}", crate::helper::chain(&error));
                        }
                    });
                }
                Err(error) => {
                    log::error!("cannot accept a stdio stream: {error}");
                    // Out of descriptors or memory, as a rule: others have to go first.
                    tokio::task::yield_now().await;
                }
            }
        }
    }

    async fn park(&self, fd: OwnedFd) -> Result<(), AcceptError> {
        let connection = register(fd).map_err(AcceptError::Read)?;
        let line = read_line(&connection).await.map_err(AcceptError::Read)?;
        let token = parse(&line)?;
        {
            let streams = self.streams();
            if streams.contains_key(token) {
                return Err(AcceptError::Duplicate);
            }
        }
        let fd = connection.as_raw_fd();
        // The answer comes first on the connection, and so fits. The token may be claimed as soon
        // as it is out: nothing is awaited before the connection is there.
        let sent = send(fd, ACCEPTED, MsgFlags::MSG_NOSIGNAL);
        match sent {
            Ok(count) if count == ACCEPTED.len() => {}
            Ok(_) => return Err(AcceptError::Answer(io::ErrorKind::WriteZero.into())),
            Err(errno) => return Err(AcceptError::Answer(errno.into())),
        }
        self.streams().insert(token.to_owned(), connection);
        Ok(())
    }
}

/// The handshake, without its newline. The host sends nothing after it until it is answered.
async fn read_line(connection: &Connection) -> io::Result<Vec<u8>> {
    let mut line = Vec::with_capacity(MAX_LINE);
    loop {
        let mut guard = connection.readable().await?;
        let mut buffer = [0; MAX_LINE];
        let space = &mut buffer[..MAX_LINE - line.len()];
        match recv(connection.as_raw_fd(), space, MsgFlags::empty()) {
            Err(Errno::EAGAIN) => guard.clear_ready(),
            Err(errno) => return Err(errno.into()),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                line.extend_from_slice(&space[..count]);
                if line.last() == Some(&b'\n') {
                    line.pop();
                    return Ok(line);
                }
                if line.len() == MAX_LINE {
                    return Err(io::ErrorKind::InvalidData.into());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn pair() -> (OwnedFd, tokio::net::UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.set_nonblocking(true).unwrap();
        (
            ours.into(),
            tokio::net::UnixStream::from_std(theirs).unwrap(),
        )
    }

    #[tokio::test]
    async fn a_stream_is_answered_and_claimed_once() {
        let parked = Parked::default();
        let (ours, mut theirs) = pair();
        theirs.write_all(b"hull-stdio ab12\n").await.unwrap();
        parked.park(ours).await.unwrap();
        let mut answer = [0; 3];
        theirs.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, ACCEPTED);
        assert!(parked.claim("ab12").is_some());
        assert!(parked.claim("ab12").is_none());
    }

    #[tokio::test]
    async fn a_handshake_in_pieces_is_put_together() {
        let parked = Parked::default();
        let (ours, mut theirs) = pair();
        let (result, ()) = tokio::join!(parked.park(ours), async {
            for piece in [&b"hull-"[..], b"stdio ", b"ff\n"] {
                theirs.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
        });
        result.unwrap();
        assert!(parked.claim("ff").is_some());
    }

    #[tokio::test]
    async fn bad_handshakes_are_refused() {
        let parked = Parked::default();
        for text in [&b"GET / HTTP/1.1\r\n"[..], b"hull-stdio XY\n", &[b'a'; 200]] {
            let (ours, mut theirs) = pair();
            theirs.write_all(text).await.unwrap();
            assert!(parked.park(ours).await.is_err());
        }
    }

    #[tokio::test]
    async fn a_second_stream_of_one_token_is_refused() {
        let parked = Parked::default();
        let mut ends = Vec::new();
        for accepted in [true, false] {
            let (ours, mut theirs) = pair();
            theirs.write_all(b"hull-stdio aa\n").await.unwrap();
            assert_eq!(parked.park(ours).await.is_ok(), accepted);
            ends.push(theirs);
        }
    }
}
