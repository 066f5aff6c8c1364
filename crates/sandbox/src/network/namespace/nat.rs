//! Connections within a namespace to its own addresses, turned to ports of ours by the kernel's address translation
//! (nftables, netlink interface in `linux/netfilter/nf_tables.h`). Unlike a program at the search for listeners, an
//! ordinary user can have that in a namespace of theirs; and Podman's forwarder of such a user's ports connects to the
//! container's address from in there.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket,
};

const NAME: &[u8] = b"hull\0";

/// Leads TCP connections that programs of this thread's network namespace make to its own addresses to `port` of
/// 127.0.0.1 or ::1, for as long as the answer lives. The rest of 127.0.0.0/8 is left alone.
///
/// # Errors
/// When the kernel cannot (before 5.12, or without nftables).
pub(super) fn redirect(port: u16) -> io::Result<OwnedFd> {
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkNetFilter,
    )?;
    let batch = batch(port);
    send(socket.as_raw_fd(), &batch.bytes, MsgFlags::empty())?;
    // The kernel has done it, and has said so.
    loop {
        let mut answer = [0; 4096];
        let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::MSG_DONTWAIT)?;
        for (number, code) in results(&answer[..length]) {
            if code != 0 {
                return Err(io::Error::from_raw_os_error(-code));
            }
            if number == batch.last {
                return Ok(socket);
            }
        }
    }
}

/// Numbers of messages with what became of them, among answers.
fn results(mut answers: &[u8]) -> Vec<(u32, i32)> {
    const ERROR: u16 = 2;
    let mut results = Vec::new();
    while let Some((header, rest)) = answers.split_at_checked(16) {
        let word =
            |at: usize| u32::from_ne_bytes(header[at..at + 4].try_into().expect("four bytes"));
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        if let (ERROR, Some(code)) = (kind, rest.first_chunk()) {
            results.push((word(8), i32::from_ne_bytes(*code)));
        }
        let length = usize::try_from(word(0))
            .unwrap_or(usize::MAX)
            .next_multiple_of(4);
        answers = answers.get(length.max(16)..).unwrap_or_default();
    }
    results
}

/// Messages that take effect together.
#[derive(Debug, Default)]
struct Batch {
    bytes: Vec<u8>,
    last: u32,
}

impl Batch {
    fn add(&mut self, kind: u16, flags: u16, family: u8, resource: u16, attributes: &[u8]) {
        const REQUEST: u16 = 1;
        self.last += 1;
        let length = u32::try_from(20 + attributes.len()).expect("a short message");
        self.bytes.extend(length.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend((REQUEST | flags).to_ne_bytes());
        self.bytes.extend(self.last.to_ne_bytes());
        self.bytes.extend([0; 4]);
        self.bytes.extend([family, 0]);
        self.bytes.extend(resource.to_be_bytes());
        self.bytes.extend(attributes);
    }

    /// Something new among the tables.
    fn create(&mut self, what: u16, attributes: &[u8]) {
        const ACK: u16 = 4;
        const CREATE: u16 = 0x400;
        /// A rule after those that are there.
        const APPEND: u16 = 0x800;
        const INET: u8 = 1;
        self.add(
            NFTABLES << 8 | what,
            ACK | CREATE | APPEND,
            INET,
            0,
            attributes,
        );
    }
}

const NFTABLES: u16 = 10;

fn batch(port: u16) -> Batch {
    const BEGIN: u16 = 0x10;
    const END: u16 = 0x11;
    const NEW_TABLE: u16 = 0;
    const NEW_CHAIN: u16 = 3;
    const NEW_RULE: u16 = 6;
    /// The table goes with the socket that has made it.
    const OWNED: u32 = 2;
    const LOCAL_OUTPUT: u32 = 3;
    const DESTINATION_NAT: i32 = -100;
    let hook = [
        number(1, LOCAL_OUTPUT),
        number(2, DESTINATION_NAT.cast_unsigned()),
    ];
    let chain = [
        attribute(1, NAME),
        attribute(3, NAME),
        nested(4, &hook.concat()),
        attribute(7, b"nat\0"),
    ];
    let rule = |expressions: &[Vec<u8>]| {
        [
            attribute(1, NAME),
            attribute(2, NAME),
            nested(4, &expressions.concat()),
        ]
        .concat()
    };
    let mut batch = Batch::default();
    batch.add(BEGIN, 0, 0, NFTABLES, &[]);
    batch.create(NEW_TABLE, &[attribute(1, NAME), number(2, OWNED)].concat());
    batch.create(NEW_CHAIN, &chain.concat());
    batch.create(NEW_RULE, &rule(&leave_other_loopback()));
    batch.create(NEW_RULE, &rule(&redirect_own(port)));
    let last = batch.last;
    batch.add(END, 0, 0, NFTABLES, &[]);
    Batch { last, ..batch }
}

/// The registers of a verdict, and the one that holds what is compared.
const VERDICT: u32 = 0;
const VALUE: u32 = 1;

/// What goes to 127.0.0.0/8, but not to 127.0.0.1.
fn leave_other_loopback() -> [Vec<u8>; 7] {
    const PROTOCOL_FAMILY: u32 = 15;
    const IPV4: u8 = 2;
    const ACCEPT: u32 = 1;
    let accept = nested(2, &nested(2, &number(1, ACCEPT)));
    [
        meta(PROTOCOL_FAMILY),
        compare(true, &[IPV4]),
        network_header(16, 1),
        compare(true, &[127]),
        network_header(17, 3),
        compare(false, &[0, 0, 1]),
        expression(b"immediate\0", &[number(1, VERDICT), accept].concat()),
    ]
}

/// What goes by TCP to an address of the namespace's own.
fn redirect_own(port: u16) -> [Vec<u8>; 6] {
    const TRANSPORT: u32 = 16;
    const TCP: u8 = 6;
    const ADDRESS_TYPE: u32 = 3;
    const OF_DESTINATION: u32 = 2;
    const LOCAL: u32 = 2;
    let kind = [
        number(1, VALUE),
        number(2, ADDRESS_TYPE),
        number(3, OF_DESTINATION),
    ];
    let port = nested(2, &attribute(1, &port.to_be_bytes()));
    [
        meta(TRANSPORT),
        compare(true, &[TCP]),
        expression(b"fib\0", &kind.concat()),
        compare(true, &LOCAL.to_ne_bytes()),
        expression(b"immediate\0", &[number(1, VALUE), port].concat()),
        expression(b"redir\0", &number(1, VALUE)),
    ]
}

fn meta(key: u32) -> Vec<u8> {
    expression(b"meta\0", &[number(1, VALUE), number(2, key)].concat())
}

fn network_header(offset: u32, length: u32) -> Vec<u8> {
    const NETWORK: u32 = 1;
    let from = [
        number(1, VALUE),
        number(2, NETWORK),
        number(3, offset),
        number(4, length),
    ];
    expression(b"payload\0", &from.concat())
}

fn compare(equal: bool, value: &[u8]) -> Vec<u8> {
    let with = [
        number(1, VALUE),
        number(2, u32::from(!equal)),
        nested(3, &attribute(1, value)),
    ];
    expression(b"cmp\0", &with.concat())
}

fn expression(name: &[u8], data: &[u8]) -> Vec<u8> {
    nested(1, &[attribute(1, name), nested(2, data)].concat())
}

fn nested(kind: u16, attributes: &[u8]) -> Vec<u8> {
    const NESTED: u16 = 0x8000;
    attribute(NESTED | kind, attributes)
}

fn number(kind: u16, value: u32) -> Vec<u8> {
    attribute(kind, &value.to_be_bytes())
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).expect("a short attribute");
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;

    use nix::sched::{CloneFlags, unshare};
    use nix::sys::socket::{getsockopt, sockopt};

    use super::super::ip;
    use super::*;

    #[test]
    fn own_addresses_lead_to_us() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("not run: it needs root");
            return;
        }
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        ip("link set lo up");
        ip("link add own type veth peer name other");
        ip("address add 192.0.2.1/24 dev own");
        ip("link set own up");
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let redirection = redirect(listener.local_addr().unwrap().port()).unwrap();
        for address in ["127.0.0.1:8080", "192.0.2.1:8080"] {
            let client = TcpStream::connect(address).unwrap();
            let (accepted, from) = listener.accept().unwrap();
            assert_eq!(from, client.local_addr().unwrap());
            let dialled = getsockopt(&accepted.as_fd(), sockopt::OriginalDst).unwrap();
            assert_eq!(u16::from_be(dialled.sin_port), 8080);
        }
        assert!(TcpStream::connect("127.0.0.11:8080").is_err());
        drop(redirection);
        assert!(TcpStream::connect("192.0.2.1:8080").is_err());
    }
}
