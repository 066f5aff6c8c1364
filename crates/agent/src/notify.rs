//! Sockets by which programs say that they are ready (`sd_notify(3)`), for a service manager on the host.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use hull_agent_api::agent::NotifySocket;
use hull_agent_api::notify::{MAX_DATAGRAM, frame};
use tokio::io::AsyncWriteExt;
use tokio::net::{UnixDatagram, UnixStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::error::AgentError;
use crate::stdio::Parked;

/// The sockets of all containers, by their ids.
#[derive(Debug, Default)]
pub(crate) struct Notifications {
    sockets: Mutex<HashMap<String, Socket>>,
}

/// A socket, in a directory of its own. Both go when this is dropped.
#[derive(Debug)]
struct Socket {
    dir: PathBuf,
    connections: mpsc::UnboundedSender<UnixStream>,
    relay: JoinHandle<()>,
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.relay.abort();
        if let Err(error) = fs::remove_dir_all(&self.dir) {
            log::warn!("cannot remove {}: {error}", self.dir.display());
        }
    }
}

impl Notifications {
    fn sockets(&self) -> MutexGuard<'_, HashMap<String, Socket>> {
        // Nothing panics while it is held.
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the socket of a container that is about to be made.
    pub(crate) fn make(
        &self,
        container_id: &str,
        request: &NotifySocket,
        parked: &Parked,
    ) -> Result<(), AgentError> {
        let host = connection(&request.token, parked)?;
        let socket = Socket::make(Path::new(&request.path), host)?;
        self.sockets().insert(container_id.to_owned(), socket);
        Ok(())
    }

    /// Gives a socket another connection.
    pub(crate) fn attach(
        &self,
        container_id: &str,
        token: &str,
        parked: &Parked,
    ) -> Result<(), AgentError> {
        let host = connection(token, parked)?;
        let sockets = self.sockets();
        let socket = sockets
            .get(container_id)
            .ok_or_else(|| AgentError::NotFound {
                kind: "notification socket",
                id: container_id.to_owned(),
            })?;
        // The relay lives as long as its socket.
        let _sent = socket.connections.send(host);
        Ok(())
    }

    /// Removes the socket of a container, if it has one.
    pub(crate) fn remove(&self, container_id: &str) {
        self.sockets().remove(container_id);
    }
}

fn connection(token: &str, parked: &Parked) -> Result<UnixStream, AgentError> {
    let host = parked.claim(token).ok_or_else(|| AgentError::Invalid {
        field: "token",
        value: token.to_owned(),
    })?;
    // What is done with a connected stream socket is the same for every family.
    let host = StdUnixStream::from(host.into_inner());
    UnixStream::from_std(host).map_err(AgentError::io("watch a connection"))
}

impl Socket {
    fn make(path: &Path, host: UnixStream) -> Result<Self, AgentError> {
        let invalid = || AgentError::Invalid {
            field: "path",
            value: path.display().to_string(),
        };
        let dir = path.parent().ok_or_else(invalid)?.to_owned();
        let made = fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&dir);
        made.map_err(AgentError::io(format!("make {}", dir.display())))?;
        let bound = UnixDatagram::bind(path).and_then(|socket| {
            // The container's user is any.
            fs::set_permissions(path, fs::Permissions::from_mode(0o777))?;
            Ok(socket)
        });
        let socket = bound.map_err(AgentError::io(format!("bind {}", path.display())))?;
        let (connections, given) = mpsc::unbounded_channel();
        let relay = tokio::spawn(async move {
            if let Err(error) = relay(&socket, host, given).await {
                log::warn!("notifications are not passed on any more: {error}");
            }
        });
        Ok(Self {
            dir,
            connections,
            relay,
        })
    }
}

/// Passes datagrams on, one at a time: the next ones wait in the socket, and so do their senders once it is full.
async fn relay(
    socket: &UnixDatagram,
    mut host: UnixStream,
    mut others: mpsc::UnboundedReceiver<UnixStream>,
) -> io::Result<()> {
    let mut buffer = vec![0; MAX_DATAGRAM + 1];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let Some(frame) = frame(&buffer[..length]) else {
            log::warn!("a notification is too long, and lost");
            continue;
        };
        while let Ok(other) = others.try_recv() {
            host = other;
        }
        while host.write_all(&frame).await.is_err() {
            // The host's side was started again, and will give another.
            match others.recv().await {
                Some(other) => host = other,
                None => return Ok(()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn datagrams_are_passed_on_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify/notify.sock");
        let (ours, theirs) = UnixStream::pair().unwrap();
        let socket = Socket::make(&path, ours).unwrap();
        let program = UnixDatagram::unbound().unwrap();
        program.connect(&path).unwrap();
        program.send(&[b'x'; MAX_DATAGRAM + 1]).await.unwrap();
        program.send(b"READY=1").await.unwrap();
        let mut host = theirs;
        let mut told = [0; 9];
        host.read_exact(&mut told).await.unwrap();
        assert_eq!(&told, b"\0\x07READY=1");
        // Another connection takes the place of one that is gone.
        drop(host);
        let (ours, mut host) = UnixStream::pair().unwrap();
        socket.connections.send(ours).unwrap();
        program.send(b"STATUS=a").await.unwrap();
        let mut told = [0; 10];
        host.read_exact(&mut told).await.unwrap();
        assert_eq!(&told, b"\0\x08STATUS=a");
        drop(socket);
        assert!(!path.exists());
    }
}
