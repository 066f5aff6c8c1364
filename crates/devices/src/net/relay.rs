//! Carries frames between the two ends of a link, whatever their kind.

use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, MutexGuard};
use std::thread::{Scope, ScopedJoinHandle};

use super::filter::{Filter, Link};
use super::queue::Queue;
use super::side::{LENGTH, MAX_FRAME, Next, Reader, Side, has_gone};

/// Why the relay ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Bytes that are no frame. There is no way to find the next one.
    #[error("{side} sent a frame of {length} bytes, and at most {MAX_FRAME} are allowed")]
    TooLong {
        /// Who sent it.
        side: &'static str,
        /// What it said.
        length: usize,
    },
    /// A socket failed.
    #[error("cannot {action} {side}")]
    Socket {
        /// "read from" or "write to".
        action: &'static str,
        /// Whom.
        side: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The thread for one of the directions could not be started.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
}

const GUEST: &str = "the guest's VMM";
const HOST: &str = "passt";

/// Carries frames until one of the two has gone, and then closes the other's end.
///
/// Each direction has its own thread: the host's side may stop reading until it is read from. A guest that does not
/// read loses frames.
///
/// # Errors
/// When a side breaks the framing or a socket fails.
pub fn run(link: Link, guest: Side, host: UnixStream) -> Result<(), Error> {
    let host = Side::Stream(host);
    let filter = Mutex::new(Filter::new(link));
    let queue = Queue::default();
    std::thread::scope(|scope| {
        let outward = thread(scope, "outward", || {
            let passes = |frame: &[u8]| locked(&filter).passes(frame);
            let result = carry((&guest, GUEST), &host, passes, |message| {
                or_ended(host.send(message), HOST)
            });
            hang_up(&guest, &host);
            result
        });
        let queued = match &guest {
            Side::Stream(guest) => thread(scope, "queued", || deliver(&queue, guest)).map(Some),
            Side::Packets(_) => Ok(None),
        };
        let learns = |frame: &[u8]| {
            locked(&filter).learn(frame);
            true
        };
        let send = |message: &[u8]| match &guest {
            Side::Stream(_) => {
                queue.put(message);
                Ok(true)
            }
            Side::Packets(_) => or_ended(guest.send(message), GUEST),
        };
        let inward = match outward.is_ok() && queued.is_ok() {
            true => carry((&host, HOST), &guest, learns, send),
            false => Ok(()),
        };
        queue.close();
        hang_up(&guest, &host);
        let outward = join(outward.map(Some));
        let queued = join(queued);
        inward.and(outward).and(queued)
    })
}

type Direction<'scope> = ScopedJoinHandle<'scope, Result<(), Error>>;

fn thread<'scope>(
    scope: &'scope Scope<'scope, '_>,
    name: &str,
    run: impl FnOnce() -> Result<(), Error> + Send + 'scope,
) -> Result<Direction<'scope>, Error> {
    let thread = std::thread::Builder::new().name(name.to_owned());
    thread.spawn_scoped(scope, run).map_err(Error::Thread)
}

fn join(direction: Result<Option<Direction<'_>>, Error>) -> Result<(), Error> {
    let ended = direction?.map(|thread| thread.join().expect("a direction does not panic"));
    ended.unwrap_or(Ok(()))
}

fn locked(filter: &Mutex<Filter>) -> MutexGuard<'_, Filter> {
    filter.lock().expect("a direction does not panic")
}

/// Ends both directions.
fn hang_up(guest: &Side, host: &Side) {
    for side in [guest, host] {
        side.hang_up();
    }
}

/// Carries the frames that `passes` lets through, until one of the two has gone. `send` tells whether the receiver
/// is still there.
fn carry(
    (from, sender): (&Side, &'static str),
    to: &Side,
    mut passes: impl FnMut(&[u8]) -> bool,
    mut send: impl FnMut(&[u8]) -> Result<bool, Error>,
) -> Result<(), Error> {
    let mut reader = Reader::new(from, to);
    loop {
        let message = match reader.next() {
            Ok(Next::Message(message)) => message,
            Ok(Next::TooLong(length)) => {
                let side = sender;
                return Err(Error::TooLong { side, length });
            }
            Ok(Next::End) => return Ok(()),
            Err(error) => return ended("read from", sender, error),
        };
        if passes(&message[LENGTH..]) && !send(message)? {
            return Ok(());
        }
    }
}

/// Writes what is queued until the guest has gone, or the queue is closed.
fn deliver(queue: &Queue, mut guest: &UnixStream) -> Result<(), Error> {
    let mut batch = Vec::new();
    while queue.take(&mut batch) {
        if !or_ended(guest.write_all(&batch), GUEST)? {
            break;
        }
    }
    Ok(())
}

/// Whether the receiver is still there.
fn or_ended(sent: io::Result<()>, receiver: &'static str) -> Result<bool, Error> {
    match sent {
        Ok(()) => Ok(true),
        Err(error) => ended("write to", receiver, error).map(|()| false),
    }
}

fn ended(action: &'static str, side: &'static str, source: io::Error) -> Result<(), Error> {
    match has_gone(&source) {
        true => Ok(()),
        false => Err(Error::Socket {
            action,
            side,
            source,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::Ipv4Addr;
    use std::os::fd::{AsRawFd, OwnedFd};
    use std::os::unix::net::UnixDatagram;
    use std::thread::{JoinHandle, spawn};

    use nix::net::if_::if_nametoindex;
    use nix::sched::{CloneFlags, unshare};
    use nix::sys::socket::{
        AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket,
    };

    const BUFFER: usize = 256 * 1024;

    const ADDRESSES: Link = Link {
        v4: Some((Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(10, 0, 0, 1))),
        v6: None,
    };

    fn start() -> (UnixStream, UnixStream, JoinHandle<Result<(), Error>>) {
        let (guest, guest_side) = UnixStream::pair().unwrap();
        let (host, host_side) = UnixStream::pair().unwrap();
        let relay = spawn(move || run(ADDRESSES, Side::Stream(guest_side), host_side));
        (guest, host, relay)
    }

    fn arp(length: usize) -> Vec<u8> {
        let mut message = u32::try_from(length).unwrap().to_be_bytes().to_vec();
        message.resize(LENGTH + length, 7);
        message[LENGTH + 12..LENGTH + 14].copy_from_slice(&[8, 6]);
        message
    }

    fn read(from: &mut UnixStream, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        from.read_exact(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn frames_pass_whole_and_in_order_however_they_arrive() {
        let (mut guest, mut host, _relay) = start();
        let messages = [arp(60), arp(65535), arp(14)].concat();
        let copy = messages.clone();
        let sender = spawn(move || {
            let (first, rest) = copy.split_at(2);
            guest.write_all(first).unwrap();
            for piece in rest.chunks(1000) {
                guest.write_all(piece).unwrap();
            }
            guest
        });
        assert_eq!(read(&mut host, messages.len()), messages);
        let mut guest = sender.join().unwrap();
        host.write_all(&messages).unwrap();
        assert_eq!(read(&mut guest, messages.len()), messages);
    }

    #[test]
    fn what_is_not_allowed_is_left_out() {
        let (mut guest, mut host, _relay) = start();
        let mut bad = arp(60);
        bad[LENGTH + 12] = 0x81;
        guest.write_all(&[bad, arp(42)].concat()).unwrap();
        assert_eq!(read(&mut host, LENGTH + 42), arp(42));
    }

    #[test]
    fn one_sides_end_is_the_others_and_the_relays() {
        let (guest, mut host, relay) = start();
        drop(guest);
        assert_eq!(host.read(&mut [0]).unwrap(), 0);
        relay.join().unwrap().unwrap();

        let (mut guest, host, relay) = start();
        drop(host);
        assert_eq!(guest.read(&mut [0]).unwrap(), 0);
        relay.join().unwrap().unwrap();
    }

    #[test]
    fn an_impossible_length_ends_the_relay() {
        let (mut guest, mut host, relay) = start();
        guest.write_all(&[0xff; 4]).unwrap();
        let error = relay.join().unwrap().unwrap_err();
        assert!(error.to_string().contains("4294967295"), "{error}");
        assert_eq!(host.read(&mut [0]).unwrap(), 0);
    }

    /// The guest's end of a relay of packets: a datagram socket in place of a packet socket, which is for root only.
    fn start_packets() -> (UnixDatagram, UnixStream, JoinHandle<Result<(), Error>>) {
        let (guest, guest_side) = UnixDatagram::pair().unwrap();
        let (host, host_side) = UnixStream::pair().unwrap();
        let guest_side = Side::Packets(guest_side.into());
        let relay = spawn(move || run(ADDRESSES, guest_side, host_side));
        (guest, host, relay)
    }

    #[test]
    fn packets_pass_one_by_one_and_what_is_not_allowed_is_left_out() {
        let (guest, mut host, relay) = start_packets();
        let mut bad = arp(60);
        bad[LENGTH + 12] = 0x81;
        let short = vec![7; LENGTH + 13];
        for message in [arp(60), bad, arp(MAX_FRAME + 1), short, arp(MAX_FRAME)] {
            guest.send(&message[LENGTH..]).unwrap();
        }
        let outward = [arp(60), arp(MAX_FRAME)].concat();
        assert_eq!(read(&mut host, outward.len()), outward);
        host.write_all(&[arp(60), arp(MAX_FRAME)].concat()).unwrap();
        for length in [60, MAX_FRAME] {
            let mut frame = vec![0; BUFFER];
            let received = guest.recv(&mut frame).unwrap();
            assert_eq!(frame[..received], arp(length)[LENGTH..]);
        }
        drop(host);
        relay.join().unwrap().unwrap();
    }

    #[test]
    fn a_guest_that_reads_no_packets_loses_them_and_nothing_else() {
        let (guest, mut host, relay) = start_packets();
        for _ in 0..100 {
            host.write_all(&arp(MAX_FRAME)).unwrap();
        }
        guest.send(&arp(42)[LENGTH..]).unwrap();
        assert_eq!(read(&mut host, LENGTH + 42), arp(42));
        drop(host);
        relay.join().unwrap().unwrap();
    }

    #[test]
    fn a_guest_that_reads_no_stream_keeps_nobody_waiting() {
        let (mut guest, mut host, relay) = start();
        for _ in 0..1000 {
            host.write_all(&arp(MAX_FRAME)).unwrap();
        }
        guest.write_all(&arp(42)).unwrap();
        assert_eq!(read(&mut host, LENGTH + 42), arp(42));
        // What it gets when it reads again are whole frames: at least those that were in the queue when it was full.
        for _ in 0..60 {
            assert_eq!(read(&mut guest, LENGTH + MAX_FRAME), arp(MAX_FRAME));
        }
        drop(host);
        relay.join().unwrap().unwrap();
    }

    fn ip(arguments: &str) {
        let mut ip = std::process::Command::new("ip");
        let status = ip.args(arguments.split(' ')).status().expect("ip runs");
        assert!(status.success(), "ip {arguments}");
    }

    /// A packet socket that is bound to an interface of this thread's namespace.
    fn packet_socket(interface: &str) -> OwnedFd {
        let every_protocol = SockProtocol::EthAll;
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Packet, SockType::Raw, flags, every_protocol).unwrap();
        // SAFETY: sockaddr_ll is plain bytes, for which zero is valid.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = u16::try_from(libc::AF_PACKET).unwrap();
        address.sll_protocol = u16::try_from(libc::ETH_P_ALL).unwrap().to_be();
        address.sll_ifindex = if_nametoindex(interface).unwrap().cast_signed();
        let length = libc::socklen_t::try_from(size_of_val(&address)).unwrap();
        let bound =
            // SAFETY: the address is as long as it is said to be, and outlives the call.
            unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
        assert_eq!(bound, 0);
        socket
    }

    #[test]
    fn an_interface_that_vanishes_is_the_guests_end() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("not run: it needs root");
            return;
        }
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        ip("link add one type veth peer name two");
        ip("link set one up");
        ip("link set two up");
        let guest = packet_socket("two");
        let (mut host, host_side) = UnixStream::pair().unwrap();
        let guest_side = Side::Packets(packet_socket("one"));
        let relay = spawn(move || run(ADDRESSES, guest_side, host_side));
        let flags = MsgFlags::empty();
        send(guest.as_raw_fd(), &arp(60)[LENGTH..], flags).unwrap();
        assert_eq!(read(&mut host, LENGTH + 60), arp(60));
        // Neither the one that is too long for the interface ends the relay, nor the one that is too short.
        let short = vec![0, 0, 0, 3, 7, 7, 7];
        let messages = [arp(2000), short, arp(61)].concat();
        host.write_all(&messages).unwrap();
        let mut frame = [0; 2048];
        loop {
            // The kernel says something at these interfaces, too.
            let length = recv(guest.as_raw_fd(), &mut frame, flags).unwrap();
            assert_ne!(length, 2000);
            if frame[..length] == arp(61)[LENGTH..] {
                break;
            }
        }
        ip("link delete one");
        assert_eq!(host.read(&mut [0]).unwrap(), 0);
        relay.join().unwrap().unwrap();
    }
}
