//! What a container's program tells a service manager of the host (`sd_notify(3)`).
//!
//! The guest is not trusted: the service manager hears of the service's state, and of no process, descriptor or right.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

use hull_agent_api::notify::MAX_DATAGRAM;
use tokio::io::AsyncReadExt;
use tokio::net::{UnixDatagram, UnixStream};

use crate::mount::origin;
use crate::spec::NotifySocket;

/// What is passed on. Times are the guest's, so there are none among them.
const KNOWN: [&str; 10] = [
    "READY",
    "RELOADING",
    "STOPPING",
    "STATUS",
    "ERRNO",
    "BUSERROR",
    "EXIT_STATUS",
    "WATCHDOG",
    "WATCHDOG_USEC",
    "EXTEND_TIMEOUT_USEC",
];

/// Passes on what comes over `guest`, until it is closed. `pid` stands for the container on the host.
pub(crate) async fn pass_on(
    mut guest: UnixStream,
    socket: NotifySocket,
    pid: u32,
) -> io::Result<()> {
    // Its path may be too long for an address.
    let dir = origin::there(|| Ok(OwnedFd::from(std::fs::File::open(&socket.dir)?)))?;
    let path = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd())).join(&socket.name);
    let sender = UnixDatagram::unbound()?;
    loop {
        let length = match guest.read_u16().await {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            length => usize::from(length?),
        };
        if length > MAX_DATAGRAM {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut datagram = vec![0; length];
        guest.read_exact(&mut datagram).await?;
        let Some(message) = for_host(&datagram, pid) else {
            continue;
        };
        // Whoever listened may have heard enough.
        if let Err(error) = sender.send_to(message.as_bytes(), &path).await {
            tracing::debug!(%error, "nobody takes a notification of the container");
        }
    }
}

/// A datagram as the host gets it, if there is anything in it for the host.
fn for_host(datagram: &[u8], pid: u32) -> Option<String> {
    let text = std::str::from_utf8(datagram).ok()?;
    let assignments = text.lines().filter_map(|line| {
        let (name, value) = line.split_once('=')?;
        if name == "MAINPID" {
            return Some(format!("MAINPID={pid}"));
        }
        let is_plain = !value.contains(char::is_control);
        (KNOWN.contains(&name) && is_plain).then(|| line.to_owned())
    });
    let assignments: Vec<String> = assignments.collect();
    (!assignments.is_empty()).then(|| assignments.join("\n"))
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[test]
    fn the_host_hears_of_the_services_state_only() {
        let told = b"MAINPID=1\nREADY=1\nSTATUS=Up, 2 of 2\nFDSTORE=1\nNOTIFYACCESS=all\nMONOTONIC_USEC=5\n";
        let expected = "MAINPID=77\nREADY=1\nSTATUS=Up, 2 of 2";
        assert_eq!(for_host(told, 77).as_deref(), Some(expected));
        for nothing in [&b"FDSTORE=1"[..], b"", b"READY", b"\xff", b"STATUS=\x1b[2J"] {
            assert_eq!(for_host(nothing, 77), None, "{nothing:?}");
        }
    }

    #[tokio::test]
    async fn notifications_reach_a_socket_at_a_long_path() {
        let dir = tempfile::tempdir().unwrap();
        let long = dir.path().join("x".repeat(200));
        std::fs::create_dir(&long).unwrap();
        // One cannot be bound there directly either.
        let short = dir.path().join("s");
        std::os::unix::fs::symlink(&long, &short).unwrap();
        let manager = UnixDatagram::bind(short.join("sock")).unwrap();
        let socket = NotifySocket {
            dir: long,
            name: "sock".to_owned(),
            guest: PathBuf::new(),
        };
        let (mut guest, ours) = UnixStream::pair().unwrap();
        let passing = tokio::spawn(pass_on(ours, socket, 77));
        guest
            .write_all(b"\0\x08BARRIER=\0\x07READY=1")
            .await
            .unwrap();
        let mut told = [0; 64];
        let length = manager.recv(&mut told).await.unwrap();
        assert_eq!(&told[..length], b"READY=1");
        guest.write_all(&u16::MAX.to_be_bytes()).await.unwrap();
        assert!(passing.await.unwrap().is_err());
    }
}
