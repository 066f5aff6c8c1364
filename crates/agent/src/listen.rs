//! Listening for the host: on vsock in a guest, on Unix sockets where the agent runs without one.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use hull_agent_api::ports;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrLike, UnixAddr, VsockAddr, accept4, bind,
    connect, listen, socket,
};
use tokio::io::unix::AsyncFd;

use crate::sys::event::register;

/// Where the host is.
#[derive(Debug, Clone)]
pub(crate) enum Transport {
    Vsock,
    /// Sockets in a directory: "rpc", "stdio", and "ready", which the other side made.
    Directory(PathBuf),
}

impl Transport {
    /// As the RPC server takes it.
    pub(crate) fn rpc_address(&self) -> String {
        match self {
            Self::Vsock => format!("vsock://-1:{}", ports::RPC),
            Self::Directory(path) => format!("unix://{}", path.join("rpc").display()),
        }
    }

    pub(crate) fn stdio(&self) -> io::Result<Listener> {
        match self {
            Self::Vsock => {
                let any = VsockAddr::new(libc::VMADDR_CID_ANY, ports::STDIO);
                Listener::bind(AddressFamily::Vsock, &any)
            }
            Self::Directory(path) => {
                let address = UnixAddr::new(&path.join("stdio"))?;
                Listener::bind(AddressFamily::Unix, &address)
            }
        }
    }

    /// Connects to the host, to say that the agent is ready.
    pub(crate) fn dial_host(&self) -> io::Result<OwnedFd> {
        match self {
            Self::Vsock => {
                let host = VsockAddr::new(libc::VMADDR_CID_HOST, ports::READY);
                dial(AddressFamily::Vsock, &host)
            }
            Self::Directory(path) => dial(
                AddressFamily::Unix,
                &UnixAddr::new::<Path>(&path.join("ready"))?,
            ),
        }
    }
}

fn dial(family: AddressFamily, address: &dyn SockaddrLike) -> io::Result<OwnedFd> {
    let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    connect(fd.as_raw_fd(), address)?;
    Ok(fd)
}

/// A listening stream socket.
#[derive(Debug)]
pub(crate) struct Listener {
    fd: AsyncFd<OwnedFd>,
}

impl Listener {
    fn bind(family: AddressFamily, address: &dyn SockaddrLike) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(family, SockType::Stream, flags, None)?;
        bind(fd.as_raw_fd(), address)?;
        listen(&fd, Backlog::new(128)?)?;
        Ok(Self { fd: register(fd)? })
    }

    /// The next connection, not blocking.
    pub(crate) async fn accept(&self) -> io::Result<OwnedFd> {
        loop {
            let mut guard = self.fd.readable().await?;
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            match accept4(self.fd.as_raw_fd(), flags) {
                Err(Errno::EAGAIN) => guard.clear_ready(),
                Err(Errno::EINTR | Errno::ECONNABORTED) => {}
                Err(errno) => return Err(errno.into()),
                Ok(fd) => {
                    use std::os::fd::FromRawFd;
                    // SAFETY: accept4 just made this descriptor for us.
                    return Ok(unsafe { OwnedFd::from_raw_fd(fd) });
                }
            }
        }
    }
}
