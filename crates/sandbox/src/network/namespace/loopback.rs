//! The loopback of the engine's namespace leads into the guest: containerd forwards a port by connecting
//! to `localhost` in the namespace, where nothing listens.
//!
//! A program that the kernel runs when it looks for a connection's listener (`BPF_PROG_TYPE_SK_LOOKUP`,
//! kernel documentation bpf/prog_sk_lookup) gives every TCP connection to 127.0.0.1 and ::1, whatever
//! its port, to a listener of ours. The port that was dialled is the accepted socket's own. All of it
//! vanishes with its descriptors. Other addresses of the loopback are the engine's: Docker's name server
//! has one.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use nix::sys::socket::{getsockopt, sockopt};
use tokio::net::TcpStream;

use super::bpf::{
    self, EXIT, Instruction, Program, address, bpf, call, copy, instruction, load_word,
    new_descriptor, set, unless_equal, words,
};
use super::nat;

/// Listeners that get every connection to the namespace's loopback.
#[derive(Debug)]
pub struct Loopback {
    /// Not blocking.
    pub(crate) listeners: Vec<TcpListener>,
    /// Keeps the program attached, or the translation.
    pub(crate) link: OwnedFd,
}

impl Loopback {
    /// Takes the loopback of this thread's network namespace over, by a program where that is allowed, and else by
    /// address translation, which takes connections to the namespace's other addresses, too.
    ///
    /// # Errors
    /// When the kernel can do neither.
    pub(super) fn take() -> io::Result<Self> {
        let first = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = first.local_addr()?.port();
        let mut listeners = vec![first];
        // A namespace without IPv6 has no such address.
        listeners.extend(TcpListener::bind((Ipv6Addr::LOCALHOST, port)));
        for listener in &listeners {
            listener.set_nonblocking(true)?;
        }
        let link = look_up(&listeners).or_else(|error| {
            tracing::debug!(%error, "no program can be had for the loopback");
            nat::redirect(port)
        })?;
        Ok(Self { listeners, link })
    }
}

/// The port that whoever made an accepted connection has dialled.
pub(crate) fn dialled_port(connection: &TcpStream) -> io::Result<u16> {
    if let Ok(translated) = getsockopt(connection, sockopt::OriginalDst) {
        return Ok(u16::from_be(translated.sin_port));
    }
    if let Ok(translated) = getsockopt(connection, sockopt::Ip6tOriginalDst) {
        return Ok(u16::from_be(translated.sin6_port));
    }
    Ok(connection.local_addr()?.port())
}

/// Attaches a program that finds these listeners, IPv4's and IPv6's.
fn look_up(listeners: &[TcpListener]) -> io::Result<OwnedFd> {
    let map = create_map()?;
    for (index, listener) in (0_u32..).zip(listeners) {
        put(&map, index, listener.as_raw_fd())?;
    }
    let program = bpf::load(
        SK_LOOKUP_PROGRAM,
        SK_LOOKUP_ATTACH,
        &program(map.as_raw_fd()),
    )?;
    let namespace = File::open("/proc/thread-self/ns/net")?;
    attach(&program, &namespace)
}

/// Gives connections to a loopback address to the listener of their family in `map`.
fn program(map: RawFd) -> Vec<Instruction> {
    /// Offsets in `struct bpf_sk_lookup`.
    const FAMILY: i16 = 8;
    const PROTOCOL: i16 = 12;
    const LOCAL_V4: i16 = 40;
    const LOCAL_V6: i16 = 44;
    const LOOK_UP: i32 = 1;
    const RELEASE: i32 = 86;
    const ASSIGN: i32 = 124;
    const MAP_BY_DESCRIPTOR: u8 = 1;
    let one_in_network_order = i32::from_ne_bytes(1_i32.to_be_bytes());
    // r6: the context; r7: the listener; the map's key is in r2, then on the stack.
    let mut program = Program::default();
    program.then([copy(6, 1), load_word(2, 6, PROTOCOL)]);
    program.only_if(2, libc::IPPROTO_TCP);
    program.then([
        load_word(2, 6, FAMILY),
        // To where the family is compared with the other.
        unless_equal(2, libc::AF_INET, 4),
        load_word(2, 6, LOCAL_V4),
    ]);
    program.only_if(2, i32::from_ne_bytes([127, 0, 0, 1]));
    // Key 0, and over the nine instructions for IPv6 and the one that sets its key.
    program.then([set(2, 0), instruction(0x05, 0, 0, 10, 0)]);
    program.only_if(2, libc::AF_INET6);
    for (word, value) in [(0, 0), (4, 0), (8, 0), (12, one_in_network_order)] {
        program.then([load_word(2, 6, LOCAL_V6 + word)]);
        program.only_if(2, value);
    }
    program.then([
        set(2, 1),
        // *(u32 *)(r10 - 4) = r2; r2 = r10 - 4; r1 = map (two instructions)
        instruction(0x63, 10, 2, -4, 0),
        copy(2, 10),
        instruction(0x07, 2, 0, 0, -4),
        instruction(0x18, 1, MAP_BY_DESCRIPTOR, 0, map),
        instruction(0, 0, 0, 0, 0),
        call(LOOK_UP),
        // A namespace without IPv6 has no listener for it: the kernel says so by a null pointer.
        instruction(0x55, 0, 0, 2, 0),
        set(0, 1),
        EXIT,
        copy(7, 0),
        copy(1, 6),
        copy(2, 7),
        set(3, 0),
        call(ASSIGN),
        copy(1, 7),
        call(RELEASE),
    ]);
    const PASS: i32 = 1;
    program.or_else(PASS)
}

fn create_map() -> io::Result<OwnedFd> {
    const MAP_CREATE: libc::c_int = 0;
    const SOCKMAP: u32 = 15;
    let (key_bytes, value_bytes, entries) = (4, 4, 2);
    new_descriptor(
        MAP_CREATE,
        &words(&[SOCKMAP, key_bytes, value_bytes, entries, 0]),
    )
}

fn put(map: &OwnedFd, index: u32, socket: RawFd) -> io::Result<()> {
    const MAP_UPDATE_ELEM: libc::c_int = 2;
    let mut attributes = words(&[map.as_raw_fd().cast_unsigned(), 0]);
    attributes.extend(address(&index));
    attributes.extend(address(&socket));
    attributes.extend(0_u64.to_ne_bytes());
    bpf(MAP_UPDATE_ELEM, &attributes).map(drop)
}

const SK_LOOKUP_PROGRAM: u32 = 30;
const SK_LOOKUP_ATTACH: u32 = 36;

fn attach(program: &OwnedFd, namespace: &File) -> io::Result<OwnedFd> {
    const LINK_CREATE: libc::c_int = 28;
    let descriptors = [program.as_raw_fd(), namespace.as_raw_fd()];
    let [program, namespace] = descriptors.map(i32::cast_unsigned);
    new_descriptor(
        LINK_CREATE,
        &words(&[program, namespace, SK_LOOKUP_ATTACH, 0]),
    )
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::TcpStream;

    use nix::sched::{CloneFlags, unshare};

    use super::super::ip;
    use super::*;

    #[test]
    fn every_port_of_localhost_leads_to_us() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("not run: it needs root");
            return;
        }
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        ip("link set lo up");
        let loopback = Loopback::take().unwrap();
        for (listener, address) in loopback.listeners.iter().zip(["127.0.0.1", "::1"]) {
            let mut client = TcpStream::connect((address, 8080)).unwrap();
            // The client may be connected before its listener sees that.
            listener.set_nonblocking(false).unwrap();
            let (accepted, _) = listener.accept().unwrap();
            assert_eq!(accepted.local_addr().unwrap().port(), 8080);
            drop(accepted);
            assert_eq!(client.read(&mut [0]).unwrap(), 0);
        }
        let other = TcpListener::bind("127.0.0.11:0").unwrap();
        let address = other.local_addr().unwrap();
        TcpStream::connect(address).unwrap();
        let (accepted, _) = other.accept().unwrap();
        assert_eq!(accepted.local_addr().unwrap(), address);
        drop(loopback);
        assert!(TcpStream::connect(("127.0.0.1", 8080)).is_err());
    }
}
