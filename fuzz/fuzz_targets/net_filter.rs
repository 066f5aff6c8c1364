//! Frames between the guest and passt: whatever was learnt from passt's side, the guest reaches
//! nothing of the host that it was not answered from.
#![no_main]

use std::net::{Ipv4Addr, Ipv6Addr};

use arbitrary::Arbitrary;
use hull_devices::net::filter::{Filter, Link};
use libfuzzer_sys::fuzz_target;

const GUEST_V4: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
const GUEST_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);
const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// An address that the rules know, or any.
#[derive(Debug, Arbitrary)]
enum Address {
    Guest,
    Gateway,
    Any([u8; 16]),
}

#[derive(Debug, Arbitrary)]
enum Frame {
    V4 {
        source: Address,
        destination: Address,
        /// Version and length, then what is before the addresses.
        head: [u8; 12],
        proper: bool,
        rest: Vec<u8>,
    },
    V6 {
        source: Address,
        destination: Address,
        next: u8,
        rest: Vec<u8>,
    },
    Bytes(Vec<u8>),
}

impl Address {
    fn v4(&self) -> [u8; 4] {
        match self {
            Self::Guest => GUEST_V4.octets(),
            Self::Gateway => GATEWAY_V4.octets(),
            Self::Any(bytes) => [bytes[0], bytes[1], bytes[2], bytes[3]],
        }
    }

    fn v6(&self) -> [u8; 16] {
        match self {
            Self::Guest => GUEST_V6.octets(),
            Self::Gateway => GATEWAY_V6.octets(),
            Self::Any(bytes) => *bytes,
        }
    }
}

impl Frame {
    fn bytes(&self) -> Vec<u8> {
        let ethernet = |ethertype: [u8; 2]| [&[0; 12][..], &ethertype].concat();
        match self {
            Self::V4 {
                source,
                destination,
                head,
                proper,
                rest,
            } => {
                let mut head = *head;
                if *proper {
                    head[0] = 0x45;
                    head[6..8].fill(0);
                }
                let packet = [&head[..], &source.v4(), &destination.v4(), rest].concat();
                [ethernet([0x08, 0x00]), packet].concat()
            }
            Self::V6 {
                source,
                destination,
                next,
                rest,
            } => {
                let head = [0x60, 0, 0, 0, 0, 0, *next, 64];
                let packet = [&head[..], &source.v6(), &destination.v6(), rest].concat();
                [ethernet([0x86, 0xdd]), packet].concat()
            }
            Self::Bytes(bytes) => bytes.clone(),
        }
    }
}

/// A segment that opens a connection.
fn opens(segment: &[u8]) -> bool {
    segment.get(13).is_none_or(|flags| flags & 0x12 == 0x02)
}

fuzz_target!(|frames: Vec<(bool, Frame)>| {
    let mut filter = Filter::new(Link {
        v4: Some((GUEST_V4, GATEWAY_V4)),
        v6: Some((GUEST_V6, GATEWAY_V6)),
    });
    let mut anything_learnt = false;
    for (from_guest, frame) in &frames {
        let bytes = frame.bytes();
        if !from_guest {
            filter.learn(&bytes);
            anything_learnt = true;
            continue;
        }
        if !filter.passes(&bytes) {
            continue;
        }
        let (ethertype, packet) = (&bytes[12..14], &bytes[14..]);
        match ethertype {
            [0x08, 0x00] => {
                let source: [u8; 4] = packet[12..16].try_into().unwrap();
                let to: [u8; 4] = packet[16..20].try_into().unwrap();
                let to = Ipv4Addr::from(to);
                assert_eq!(Ipv4Addr::from(source), GUEST_V4);
                assert!(!to.is_loopback() && !to.is_multicast() && !to.is_unspecified());
                if to == GATEWAY_V4 {
                    let segment = &packet[usize::from(packet[0] & 15) * 4..];
                    assert!(matches!(packet[9], 1 | 6 | 17));
                    assert!(packet[9] != 6 || !opens(segment));
                    assert!(packet[9] != 17 || anything_learnt);
                }
            }
            [0x86, 0xdd] => {
                let to: [u8; 16] = packet[24..40].try_into().unwrap();
                let to = Ipv6Addr::from(to);
                assert!(!to.is_loopback() && !to.is_unspecified() && to.to_ipv4().is_none());
                if to == GATEWAY_V6 {
                    assert!(matches!(packet[6], 58 | 6 | 17));
                    assert!(packet[6] != 6 || !opens(&packet[40..]));
                    assert!(packet[6] != 17 || anything_learnt);
                }
            }
            other => assert_eq!(other, [0x08, 0x06]),
        }
    }
});
