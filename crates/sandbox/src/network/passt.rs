//! The process that carries the pod's traffic: `passt`, which dials and listens on the host for what
//! the guest sends as Ethernet frames over a Unix socket.
//!
//! The socket is one of a pair, so there is no path to find or to wait for. When the other end closes,
//! passt ends by itself: nothing is left when everything of ours was killed.
//!
//! The gateway's address leads to the host's loopback (passt's default). Without that, Debian 12's passt
//! cannot answer what a client on the host's loopback has sent to a published UDP port. The filter
//! keeps the guest from using it for anything else.

use std::ffi::OsString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::Path;

use hull_vm::process::{self, Process, ProcessRecord};
use nix::errno::Errno;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{SndBuf, SndBufForce};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::process::Command;

use super::{
    Dns, GATEWAY_MAC, GATEWAY_V4, GATEWAY_V6, GUEST_MAC, GUEST_V4, GUEST_V6, NetworkError,
    PREFIX_V4, RESOLVER_V4, end_of,
};
use crate::config::{Protocol, PublishedPort};

const PROGRAM: &str = "passt";
/// An Ethernet frame's largest length, bytes.
const MAX_FRAME: usize = 65535 + 14;
/// Bytes of the socket's buffer, with the kernel's own overhead.
const SEND_BUFFER: usize = 4 * 1024 * 1024;

/// The running process.
#[derive(Debug)]
pub(super) struct Passt {
    process: Process,
}

impl Passt {
    /// Starts passt and waits until it carries frames. Returns the VMM's end of the link as well.
    ///
    /// # Errors
    /// When it is missing, does not start, or ends with a complaint.
    pub(super) async fn start(
        publish: &[PublishedPort],
        ipv6_uplink: Option<&str>,
        dns: &Dns,
        run_dir: &Path,
    ) -> Result<(Self, OwnedFd), NetworkError> {
        let program = process::require_program(
            PROGRAM,
            "install the package passt, or use `--network none`",
        )?;
        let cannot = || NetworkError::host("make the link between the guest and passt");
        let (ours, its) = StdUnixStream::pair().map_err(cannot())?;
        enlarge(&its).map_err(cannot())?;
        ours.set_nonblocking(true).map_err(cannot())?;
        let ours = UnixStream::from_std(ours).map_err(cannot())?;

        let mut command = Command::new(program);
        command
            .arg("--fd")
            .arg(its.as_raw_fd().to_string())
            .args(arguments(publish, ipv6_uplink, dns));
        let log = run_dir.join("passt.log");
        let passt = Self {
            process: Process::spawn(command, vec![its.into()], &log)?,
        };
        match passt.ready(ours).await {
            Ok(link) => Ok((passt, link)),
            Err(_) => {
                // It has closed its end. The reason is what it said, not how that looks from here.
                let cause = passt.wait().await;
                Err(NetworkError::Passt(cause))
            }
        }
    }

    /// Asks for the gateway's hardware address as a guest would. The answer comes once everything is
    /// set up, and passt has learnt the guest's hardware address from the question: it can connect
    /// to a guest that has not sent anything yet.
    async fn ready(&self, mut link: UnixStream) -> std::io::Result<OwnedFd> {
        link.write_all(&with_length(&arp_question())).await?;
        let mut frame = vec![0; MAX_FRAME];
        loop {
            let length = link.read_u32().await?;
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            let frame = frame
                .get_mut(..length)
                .ok_or(std::io::ErrorKind::InvalidData)?;
            link.read_exact(frame).await?;
            if is_arp_answer(frame) {
                break;
            }
        }
        let link = link.into_std()?;
        link.set_nonblocking(false)?;
        Ok(link.into())
    }

    /// Takes over a process that another one had started.
    ///
    /// # Errors
    /// When it has ended.
    pub(super) fn attach(record: ProcessRecord) -> Result<Self, NetworkError> {
        Ok(Self {
            process: Process::attach(record, PROGRAM)?,
        })
    }

    pub(super) fn record(&self) -> ProcessRecord {
        self.process.record()
    }

    /// Completes when the process has ended, with the cause.
    pub(super) async fn wait(&self) -> String {
        end_of(&self.process).await
    }

    pub(super) async fn kill(&self) {
        self.process.kill().await;
    }
}

/// Gives passt room for what it sends. Debian 12's passt loses its place in the stream, and the pod its network, when
/// it finds the socket full at the wrong moment, and whoever reads may have to wait for a processor.
fn enlarge(socket: &StdUnixStream) -> std::io::Result<()> {
    match setsockopt(socket, SndBufForce, &SEND_BUFFER) {
        // Without the privilege the kernel gives what `net.core.wmem_max` allows.
        Err(Errno::EPERM) => setsockopt(socket, SndBuf, &SEND_BUFFER)?,
        result => result?,
    }
    Ok(())
}

/// Everything but the descriptor.
fn arguments(publish: &[PublishedPort], ipv6_uplink: Option<&str>, dns: &Dns) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = Vec::new();
    let mut option = |name: &str, value: String| {
        arguments.extend([name.into(), value.into()]);
    };
    // Fixed addresses, so that a pod's network outlives a change of the host's, and works on a host
    // that has none. With them the template interface gives nothing but its link-local address.
    match ipv6_uplink {
        Some(interface) => {
            option("--interface", interface.to_owned());
            option("--address", GUEST_V6.to_string());
            option("--gateway", GATEWAY_V6.to_string());
        }
        None => option("--interface", "lo".to_owned()),
    }
    option("--address", GUEST_V4.to_string());
    option("--netmask", PREFIX_V4.to_string());
    option("--gateway", GATEWAY_V4.to_string());
    option("--mac-addr", GATEWAY_MAC.to_string());
    // With this, what the host's first server sends comes from the address given here, also when
    // the guest has asked that server itself and waits for an answer from there.
    if dns.servers.contains(&RESOLVER_V4.into()) {
        option("--dns-forward", RESOLVER_V4.to_string());
    }
    for port in publish {
        let name = match port.protocol {
            Protocol::Tcp => "--tcp-ports",
            Protocol::Udp => "--udp-ports",
        };
        option(name, port_forward(port));
    }
    let flags = [
        "--foreground",
        "--quiet",
        // The agent is told everything.
        "--no-dhcp",
        "--no-dhcpv6",
        "--no-ra",
    ];
    arguments.extend(flags.map(OsString::from));
    if ipv6_uplink.is_none() {
        arguments.push("--ipv4-only".into());
    }
    arguments
}

/// `[ADDRESS/]HOST:CONTAINER`
fn port_forward(port: &PublishedPort) -> String {
    let ports = format!("{}:{}", port.host, port.container);
    match port.address {
        // passt's own word for all addresses of both families is no address.
        None => ports,
        Some(address) => format!("{address}/{ports}"),
    }
}

/// A frame as it goes over the link: the length, big endian, comes first.
fn with_length(frame: &[u8]) -> Vec<u8> {
    let length = u32::try_from(frame.len()).expect("our frames are short");
    [length.to_be_bytes().as_slice(), frame].concat()
}

const ETHERTYPE_ARP: [u8; 2] = [0x08, 0x06];
/// Ethernet and IPv4, with addresses of 6 and 4 bytes (RFC 826).
const ARP_KINDS: [u8; 6] = [0, 1, 0x08, 0x00, 6, 4];
const ARP_REQUEST: [u8; 2] = [0, 1];
const ARP_REPLY: [u8; 2] = [0, 2];

/// "Who has the gateway's address? Tell the guest."
fn arp_question() -> Vec<u8> {
    [
        &[0xff; 6][..],
        &GUEST_MAC.0,
        &ETHERTYPE_ARP,
        &ARP_KINDS,
        &ARP_REQUEST,
        &GUEST_MAC.0,
        &GUEST_V4.octets(),
        &[0; 6],
        &GATEWAY_V4.octets(),
    ]
    .concat()
}

fn is_arp_answer(frame: &[u8]) -> bool {
    frame.get(12..14) == Some(&ETHERTYPE_ARP) && frame.get(20..22) == Some(&ARP_REPLY)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn port(address: Option<&str>, host: u16, protocol: Protocol) -> PublishedPort {
        PublishedPort {
            address: address.map(|address| address.parse().unwrap()),
            host,
            container: 80,
            protocol,
        }
    }

    fn text(publish: &[PublishedPort], ipv6_uplink: Option<&str>) -> String {
        let arguments = arguments(publish, ipv6_uplink, &Dns::default());
        let words: Vec<_> = arguments
            .iter()
            .map(|word| word.to_string_lossy())
            .collect();
        words.join(" ")
    }

    #[test]
    fn ports_are_published_on_the_address_that_was_asked_for() {
        let line = text(
            &[
                port(None, 8080, Protocol::Tcp),
                port(Some("127.0.0.1"), 53, Protocol::Udp),
                port(Some("::1"), 8081, Protocol::Tcp),
            ],
            Some("eth0"),
        );
        assert!(line.contains("--tcp-ports 8080:80 "));
        assert!(line.contains("--udp-ports 127.0.0.1/53:80 "));
        assert!(line.contains("--tcp-ports ::1/8081:80 "));
    }

    #[test]
    fn a_host_without_ipv6_needs_no_interface_but_loopback() {
        let line = text(&[], None);
        assert!(line.contains("--interface lo "));
        assert!(line.ends_with("--ipv4-only"));
        let line = text(&[], Some("eth0"));
        assert!(line.contains("--interface eth0 "));
        assert!(!line.contains("--ipv4-only"));
    }

    #[test]
    fn names_are_forwarded_only_where_the_pod_asks_for_it() {
        let forwards = |server: Ipv4Addr| {
            let dns = Dns {
                servers: vec![server.into()],
                ..Dns::default()
            };
            arguments(&[], None, &dns).contains(&OsString::from("--dns-forward"))
        };
        assert!(forwards(RESOLVER_V4));
        assert!(!forwards(Ipv4Addr::new(192, 0, 2, 53)));
    }

    #[test]
    fn only_an_answer_is_an_answer() {
        let mut frame = arp_question();
        assert_eq!(frame.len(), 42);
        assert!(!is_arp_answer(&frame));
        frame[21] = 2;
        assert!(is_arp_answer(&frame));
        assert!(!is_arp_answer(&frame[..21]));
    }
}
