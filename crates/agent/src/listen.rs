//! Listening for the host: on vsock in a guest, on Unix sockets where the agent runs without one.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hull_agent_api::ports;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrLike, UnixAddr, VsockAddr, accept4, bind,
    connect, getpeername, listen, socket,
};
use tokio::io::unix::AsyncFd;

use crate::sys::event::register;
use crate::sys::vsock;

/// How long the host may take to answer: longer than it waits for its guest. Linux's own two seconds are
/// over before a busy host has had its turn.
const HOST_DEADLINE: Duration = Duration::from_secs(600);

/// Where the host is.
#[derive(Debug, Clone)]
pub(crate) enum Transport {
    Vsock,
    /// Sockets in a directory: "rpc", "stdio", and "ready", which the other side made.
    Directory(PathBuf),
}

impl Transport {
    pub(crate) fn rpc(&self) -> io::Result<Listener> {
        self.listen(ports::RPC, "rpc")
    }

    pub(crate) fn stdio(&self) -> io::Result<Listener> {
        self.listen(ports::STDIO, "stdio")
    }

    fn listen(&self, port: u32, name: &str) -> io::Result<Listener> {
        match self {
            Self::Vsock => {
                let any = VsockAddr::new(libc::VMADDR_CID_ANY, port);
                Listener::bind(AddressFamily::Vsock, &any, is_host)
            }
            Self::Directory(path) => {
                let address = UnixAddr::new(&path.join(name))?;
                Listener::bind(AddressFamily::Unix, &address, |_| true)
            }
        }
    }

    /// Connects to the host, to say that the agent is ready.
    pub(crate) fn dial_host(&self) -> io::Result<OwnedFd> {
        match self {
            Self::Vsock => dial_vsock(ports::READY),
            Self::Directory(path) => {
                let address = UnixAddr::new::<Path>(&path.join("ready"))?;
                let fd = stream_socket(AddressFamily::Unix)?;
                connect(fd.as_raw_fd(), &address)?;
                Ok(fd)
            }
        }
    }
}

/// Connects to a port of the host's, however late it answers: it is the host that gives a guest up.
pub(crate) fn dial_vsock(port: u32) -> io::Result<OwnedFd> {
    let host = VsockAddr::new(libc::VMADDR_CID_HOST, port);
    let fd = stream_socket(AddressFamily::Vsock)?;
    vsock::wait_to_connect(&fd, HOST_DEADLINE)?;
    connect(fd.as_raw_fd(), &host)?;
    Ok(fd)
}

fn stream_socket(family: AddressFamily) -> io::Result<OwnedFd> {
    Ok(socket(
        family,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?)
}

/// Whether a connection comes from the host. A container that may make vsock sockets reaches the
/// agent's ports over the loopback CID and the guest's own, as may a virtual machine within the guest.
fn is_host(connection: &OwnedFd) -> bool {
    // A peer that is gone already has no address.
    getpeername::<VsockAddr>(connection.as_raw_fd())
        .is_ok_and(|peer| peer.cid() == libc::VMADDR_CID_HOST)
}

/// A listening stream socket.
#[derive(Debug)]
pub(crate) struct Listener {
    fd: AsyncFd<OwnedFd>,
    /// Whether the agent takes a connection; others are closed unread.
    trusts: fn(&OwnedFd) -> bool,
}

impl Listener {
    fn bind(
        family: AddressFamily,
        address: &dyn SockaddrLike,
        trusts: fn(&OwnedFd) -> bool,
    ) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(family, SockType::Stream, flags, None)?;
        bind(fd.as_raw_fd(), address)?;
        listen(&fd, Backlog::new(128)?)?;
        Ok(Self {
            fd: register(fd)?,
            trusts,
        })
    }

    /// The next connection that the agent takes, not blocking.
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
                    let connection = unsafe { OwnedFd::from_raw_fd(fd) };
                    if (self.trusts)(&connection) {
                        return Ok(connection);
                    }
                }
            }
        }
    }
}
