//! A service manager that has started the command and waits to hear from the container (`NOTIFY_SOCKET`,
//! `sd_notify(3)`). As runc does, `create` gives the container a socket, and `start` waits until its program is ready
//! and tells the manager that, and the process by which it knows the container.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram as StdDatagram};
use std::path::{Path, PathBuf};

use hull_agent_api::notify::MAX_DATAGRAM;
use hull_sandbox::spec::NOTIFY_SOCKET;
use hull_vm::process::{Process, ProcessRecord};
use tokio::net::UnixDatagram;

use crate::error::RuntimeError;
use crate::store::Store;

/// Where the service manager listens, if one has started this command.
fn manager() -> Option<io::Result<SocketAddr>> {
    let address = std::env::var_os("NOTIFY_SOCKET").filter(|address| !address.is_empty())?;
    Some(match address.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&address),
    })
}

/// Makes the directory of a new container's socket, if somebody waits to hear from it.
pub(super) fn prepare(store: &Store, id: &str) -> Result<Option<PathBuf>, RuntimeError> {
    match manager() {
        Some(_) => store.make_notify_dir(id).map(Some),
        None => Ok(None),
    }
}

/// Waits for word from a container.
#[derive(Debug)]
pub(super) struct Listener {
    socket: UnixDatagram,
    manager: SocketAddr,
    /// What stands for the container.
    monitor: ProcessRecord,
}

impl Listener {
    /// For a container that is about to start, if it has a socket and somebody waits.
    pub(super) fn bind(store: &Store, id: &str) -> Result<Option<Self>, RuntimeError> {
        let (Some(manager), Some(dir)) = (manager(), store.notify_dir(id)) else {
            return Ok(None);
        };
        let manager = manager.map_err(RuntimeError::host("read NOTIFY_SOCKET"))?;
        let path = dir.join(NOTIFY_SOCKET);
        let socket =
            listen(&path).map_err(RuntimeError::host(format!("listen at {}", path.display())))?;
        Ok(Some(Self {
            socket,
            manager,
            monitor: store.find(id)?.monitor,
        }))
    }

    /// Completes when the container is ready and its manager knows, or when it has ended.
    async fn wait(self) -> Result<(), RuntimeError> {
        let Ok(process) = Process::attach(self.monitor, "the monitor") else {
            return Ok(());
        };
        let mut message = [0; MAX_DATAGRAM];
        let ready = loop {
            let length = tokio::select! {
                received = self.socket.recv(&mut message) => received,
                _ = process.wait() => return Ok(()),
            };
            let length = length.map_err(RuntimeError::host("wait for word from the container"))?;
            if let Some(ready) = ready(&message[..length]) {
                break ready.to_owned();
            }
        };
        let told = StdDatagram::unbound().and_then(|socket| {
            socket.send_to_addr(ready.as_bytes(), &self.manager)?;
            let process = format!("MAINPID={}\n", self.monitor.pid);
            socket.send_to_addr(process.as_bytes(), &self.manager)
        });
        told.map(drop)
            .map_err(RuntimeError::host("tell the service manager"))
    }
}

/// Waits for what `listener` hears, if there is one.
pub(super) async fn wait(listener: Option<Listener>) -> Result<(), RuntimeError> {
    match listener {
        Some(listener) => listener.wait().await,
        None => Ok(()),
    }
}

fn listen(path: &Path) -> io::Result<UnixDatagram> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    UnixDatagram::bind(path)
}

/// The line that says so.
fn ready(message: &[u8]) -> Option<&str> {
    let mut lines = std::str::from_utf8(message).ok()?.lines();
    lines.find(|line| line.starts_with("READY="))
}

#[cfg(test)]
mod tests {
    use super::ready;

    #[test]
    fn readiness_is_one_line_of_several() {
        assert_eq!(ready(b"STATUS=up\nREADY=1\n"), Some("READY=1"));
        assert_eq!(ready(b"STATUS=READY=1"), None);
    }
}
