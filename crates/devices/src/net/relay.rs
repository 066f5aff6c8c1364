//! Carries frames between two stream sockets. Each frame comes after its length: four bytes, big
//! endian.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, MutexGuard};

use super::filter::{Filter, Link};

/// Bytes before a frame.
const LENGTH: usize = 4;
/// The longest frame, bytes: 64 KiB of packet and an Ethernet header with a VLAN tag.
const MAX_FRAME: usize = 65535 + 18;
/// Bytes that one read takes at most.
const BUFFER: usize = 256 * 1024;

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

/// Carries frames until one of the two closes its end, and then closes the other's.
///
/// Each direction has its own thread: either side may stop reading until it is read from.
///
/// # Errors
/// When a side breaks the framing or a socket fails.
pub fn run(link: Link, guest: UnixStream, host: UnixStream) -> Result<(), Error> {
    let filter = Mutex::new(Filter::new(link));
    std::thread::scope(|scope| {
        let outward = std::thread::Builder::new()
            .name("outward".to_owned())
            .spawn_scoped(scope, || {
                let passes = |frame: &[u8]| locked(&filter).passes(frame);
                let result = carry((&guest, GUEST), (&host, HOST), passes);
                hang_up(&guest, &host);
                result
            });
        let learns = |frame: &[u8]| {
            locked(&filter).learn(frame);
            true
        };
        let inward = match &outward {
            Ok(_) => carry((&host, HOST), (&guest, GUEST), learns),
            Err(_) => Ok(()),
        };
        hang_up(&guest, &host);
        let outward = outward.map_err(Error::Thread)?;
        let outward = outward.join().expect("a direction does not panic");
        inward.and(outward)
    })
}

fn locked(filter: &Mutex<Filter>) -> MutexGuard<'_, Filter> {
    filter.lock().expect("a direction does not panic")
}

/// Ends both directions.
fn hang_up(guest: &UnixStream, host: &UnixStream) {
    for side in [guest, host] {
        // Fails only if that side is gone already.
        let _ = side.shutdown(Shutdown::Both);
    }
}

/// Carries the frames that `passes` lets through, until `from` has closed or `to` has gone.
fn carry(
    (mut from, sender): (&UnixStream, &'static str),
    (mut to, receiver): (&UnixStream, &'static str),
    mut passes: impl FnMut(&[u8]) -> bool,
) -> Result<(), Error> {
    let mut buffer = vec![0; BUFFER];
    let mut filled = 0;
    loop {
        let read = match from.read(&mut buffer[filled..]) {
            Ok(0) => return Ok(()),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return ended("read from", sender, error),
        };
        filled += read;
        let mut start = 0;
        while let Some(message) = first_message(&buffer[start..filled], sender)? {
            // One write for each: some versions of passt lose their place when a read ends within a
            // frame's length, and a write's bytes stay together.
            if passes(&message[LENGTH..])
                && let Err(error) = to.write_all(message)
            {
                return ended("write to", receiver, error);
            }
            start += message.len();
        }
        buffer.copy_within(start..filled, 0);
        filled -= start;
    }
}

/// That a side has gone is how every pod ends.
fn ended(action: &'static str, side: &'static str, source: io::Error) -> Result<(), Error> {
    match source.kind() {
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Ok(()),
        _ => Err(Error::Socket {
            action,
            side,
            source,
        }),
    }
}

/// The first frame with its length before it, if it is there as a whole.
fn first_message<'a>(bytes: &'a [u8], side: &'static str) -> Result<Option<&'a [u8]>, Error> {
    let Some(length) = bytes.first_chunk::<LENGTH>() else {
        return Ok(None);
    };
    let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
    if length > MAX_FRAME {
        return Err(Error::TooLong { side, length });
    }
    Ok(bytes.get(..LENGTH + length))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use std::thread::{JoinHandle, spawn};

    const ADDRESSES: Link = Link {
        v4: Some((Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(10, 0, 0, 1))),
        v6: None,
    };

    fn start() -> (UnixStream, UnixStream, JoinHandle<Result<(), Error>>) {
        let (guest, guest_side) = UnixStream::pair().unwrap();
        let (host, host_side) = UnixStream::pair().unwrap();
        let relay = spawn(move || run(ADDRESSES, guest_side, host_side));
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
}
