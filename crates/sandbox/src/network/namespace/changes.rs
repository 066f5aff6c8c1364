//! Word from the kernel that something in a network namespace has changed (rtnetlink's multicast groups).

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, timeout_at};

/// A change comes with others: an interface is made, named, given addresses and routes, one after the other. It is
/// over when there was silence for so long.
const SILENCE: Duration = Duration::from_millis(50);
/// When there is none, so much is enough.
const ENOUGH: Duration = Duration::from_secs(1);

/// Tells of changes of the namespace in which it was made.
#[derive(Debug)]
pub(super) struct Changes {
    socket: OwnedFd,
}

/// The same, in the runtime that waits for them.
#[derive(Debug)]
pub(super) struct AwaitedChanges {
    socket: AsyncFd<OwnedFd>,
}

impl Changes {
    /// Those of this thread's namespace, from now on.
    pub(super) fn subscribe() -> io::Result<Self> {
        const GROUPS: libc::c_int = libc::RTMGRP_LINK
            | libc::RTMGRP_NEIGH
            | libc::RTMGRP_IPV4_IFADDR
            | libc::RTMGRP_IPV4_ROUTE
            | libc::RTMGRP_IPV6_IFADDR
            | libc::RTMGRP_IPV6_ROUTE;
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            SockProtocol::NetlinkRoute,
        )?;
        let groups = NetlinkAddr::new(0, GROUPS.cast_unsigned());
        bind(socket.as_raw_fd(), &groups)?;
        Ok(Self { socket })
    }

    /// Within the runtime that will wait.
    pub(super) fn awaited(self) -> io::Result<AwaitedChanges> {
        // SAFETY: the descriptor is open, and owned by what is registered for as long as that lives.
        let socket = unsafe { AsyncFd::register(self.socket) }?;
        Ok(AwaitedChanges { socket })
    }
}

impl AwaitedChanges {
    /// Completes when something has changed, and nothing more for a while.
    pub(super) async fn next(&self) -> io::Result<()> {
        self.any().await?;
        let enough = Instant::now() + ENOUGH;
        loop {
            let silent = (Instant::now() + SILENCE).min(enough);
            match timeout_at(silent, self.any()).await {
                Ok(more) => more?,
                Err(_) => return Ok(()),
            }
        }
    }

    async fn any(&self) -> io::Result<()> {
        loop {
            let mut ready = self.socket.readable().await?;
            // Otherwise another readiness is waited for.
            if let Ok(drained) = ready.try_io(|socket| drain(socket.get_ref())) {
                return drained;
            }
        }
    }
}

/// Takes all that is there, whatever it says: it is not enough to know how things are, and more may have been lost.
fn drain(socket: &OwnedFd) -> io::Result<()> {
    let mut buffer = vec![0; 32 << 10];
    let mut any = false;
    loop {
        match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
            // Without room, something was lost: that is word too.
            Ok(_) | Err(Errno::ENOBUFS) => any = true,
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) if any => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use nix::sched::{CloneFlags, unshare};

    use super::*;
    use crate::network::namespace::ip;

    #[tokio::test]
    async fn changes_of_every_kind_are_told() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("not run: it needs root");
            return;
        }
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let changes = Changes::subscribe().unwrap().awaited().unwrap();
        for change in [
            "link add one type veth peer name two",
            "link set one up",
            "link set two up mtu 1400",
            "address add 198.51.100.1/24 dev one",
            "route add 192.0.2.0/24 via 198.51.100.2",
            "neighbour add 198.51.100.2 lladdr 02:00:00:00:00:02 dev one",
            "address del 198.51.100.1/24 dev one",
            "link del one",
        ] {
            ip(change);
            let told = changes.any();
            let told = tokio::time::timeout(Duration::from_secs(60), told).await;
            told.expect(change).unwrap();
        }
    }
}
