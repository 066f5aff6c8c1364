//! Which frames pass between the guest and passt.

use std::collections::{HashSet, VecDeque};
use std::net::{Ipv4Addr, Ipv6Addr};

/// The addresses on the link. A family without addresses does not pass.
#[derive(Debug, Clone, Copy, Default)]
pub struct Link {
    /// The guest's address and its gateway's.
    pub v4: Option<(Ipv4Addr, Ipv4Addr)>,
    /// The same for IPv6. The gateway's is link-local.
    pub v6: Option<(Ipv6Addr, Ipv6Addr)>,
}

const ETHERNET: usize = 14;
const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
const ETHERTYPE_ARP: [u8; 2] = [0x08, 0x06];
const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

const TCP_SYN: u8 = 0x02;
const TCP_ACK: u8 = 0x10;

/// How many clients on the host's loopback can be answered over UDP at a time.
const MAX_PEERS: usize = 4096;

/// A pair of UDP ports: the guest's, and that of a client at the gateway's address.
type Ports = [u8; 4];

/// The rules, and what they remember.
#[derive(Debug)]
pub struct Filter {
    link: Link,
    /// The gateway's clients that have sent something over UDP.
    peers: HashSet<(Family, Ports)>,
    /// The same, oldest first.
    oldest: VecDeque<(Family, Ports)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Family {
    V4,
    V6,
}

impl Filter {
    /// Nothing is remembered yet.
    #[must_use]
    pub fn new(link: Link) -> Self {
        Self {
            link,
            peers: HashSet::new(),
            oldest: VecDeque::new(),
        }
    }

    /// Whether a frame from the guest may go to passt.
    #[must_use]
    pub fn passes(&self, frame: &[u8]) -> bool {
        let Some((ethertype, packet)) = split(frame) else {
            return false;
        };
        match ethertype {
            ETHERTYPE_ARP => self.link.v4.is_some(),
            ETHERTYPE_IPV4 => self.v4_passes(packet).unwrap_or(false),
            ETHERTYPE_IPV6 => self.v6_passes(packet).unwrap_or(false),
            _ => false,
        }
    }

    /// Learns from a frame of passt's which answers the guest may give.
    pub fn learn(&mut self, frame: &[u8]) {
        let Some((ethertype, packet)) = split(frame) else {
            return;
        };
        let ports = match ethertype {
            ETHERTYPE_IPV4 => self.v4_client(packet).map(|ports| (Family::V4, ports)),
            ETHERTYPE_IPV6 => self.v6_client(packet).map(|ports| (Family::V6, ports)),
            _ => None,
        };
        let Some(client) = ports else { return };
        if self.peers.insert(client) {
            self.oldest.push_back(client);
            if self.oldest.len() > MAX_PEERS
                && let Some(oldest) = self.oldest.pop_front()
            {
                self.peers.remove(&oldest);
            }
        }
    }

    fn v4_passes(&self, packet: &[u8]) -> Option<bool> {
        let (guest, gateway) = self.link.v4?;
        let packet = V4::parse(packet)?;
        if packet.source != guest || packet.is_fragment {
            return Some(false);
        }
        let to = packet.destination;
        if to == gateway {
            return Some(self.may_reach_gateway(Family::V4, packet.protocol, ICMP, packet.payload));
        }
        // "This host", in the words of RFC 1122, is how Linux understands 0.0.0.0, too.
        let is_host = to.is_loopback() || to.octets()[0] == 0;
        // passt would send these to the host's neighbours.
        let is_group = to.is_multicast() || to.is_broadcast();
        Some(!is_host && !is_group)
    }

    fn v6_passes(&self, packet: &[u8]) -> Option<bool> {
        let (guest, gateway) = self.link.v6?;
        let packet = V6::parse(packet)?;
        let to = packet.destination;
        // Not the unspecified address either, from which Linux asks whether its own is taken and tells
        // of its groups: Debian 12's passt takes it for the guest's, and what it sends there is lost.
        if packet.source != guest && !packet.source.is_unicast_link_local() {
            return Some(false);
        }
        // Neighbour discovery. Its packets name groups.
        if packet.protocol == ICMPV6 && (to.is_multicast() || to.is_unicast_link_local()) {
            return Some(true);
        }
        if to == gateway {
            return Some(self.may_reach_gateway(
                Family::V6,
                packet.protocol,
                ICMPV6,
                packet.payload,
            ));
        }
        // Unspecified, loopback, and IPv4 addresses in either of their IPv6 forms.
        let is_host_or_v4 = to.to_ipv4().is_some();
        // Link-local ones are the host's neighbours on its own network, not the guest's.
        Some(!is_host_or_v4 && !to.is_multicast() && !to.is_unicast_link_local())
    }

    /// The gateway's address leads to the host's loopback: answers may go there, but nothing that
    /// begins something.
    fn may_reach_gateway(&self, family: Family, protocol: u8, echo: u8, payload: &[u8]) -> bool {
        match protocol {
            TCP => payload
                .get(13)
                .is_some_and(|flags| flags & TCP_SYN == 0 || flags & TCP_ACK != 0),
            UDP => ports(payload).is_some_and(|ports| self.peers.contains(&(family, ports))),
            protocol => protocol == echo,
        }
    }

    fn v4_client(&self, packet: &[u8]) -> Option<Ports> {
        let (_, gateway) = self.link.v4?;
        let packet = V4::parse(packet)?;
        let is_client = packet.source == gateway && packet.protocol == UDP && !packet.is_fragment;
        is_client.then(|| answering_ports(packet.payload))?
    }

    fn v6_client(&self, packet: &[u8]) -> Option<Ports> {
        let (_, gateway) = self.link.v6?;
        let packet = V6::parse(packet)?;
        let is_client = packet.source == gateway && packet.protocol == UDP;
        is_client.then(|| answering_ports(packet.payload))?
    }
}

fn split(frame: &[u8]) -> Option<([u8; 2], &[u8])> {
    let (header, packet) = frame.split_at_checked(ETHERNET)?;
    Some((header[12..14].try_into().ok()?, packet))
}

/// Source and destination port of a packet.
fn ports(payload: &[u8]) -> Option<Ports> {
    payload.first_chunk().copied()
}

/// The ports of an answer to this packet.
fn answering_ports(payload: &[u8]) -> Option<Ports> {
    let [a, b, c, d] = ports(payload)?;
    Some([c, d, a, b])
}

struct V4<'a> {
    source: Ipv4Addr,
    destination: Ipv4Addr,
    protocol: u8,
    is_fragment: bool,
    payload: &'a [u8],
}

impl<'a> V4<'a> {
    fn parse(packet: &'a [u8]) -> Option<Self> {
        let header: &[u8; 20] = packet.first_chunk()?;
        let length = usize::from(header[0] & 0x0f) * 4;
        if header[0] >> 4 != 4 || length < header.len() {
            return None;
        }
        // Bit 13 is "more fragments", the bits below it are the offset.
        let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff;
        Some(Self {
            source: Ipv4Addr::from(*header[12..].first_chunk::<4>()?),
            destination: Ipv4Addr::from(*header[16..].first_chunk::<4>()?),
            protocol: header[9],
            is_fragment: fragment != 0,
            payload: packet.get(length..)?,
        })
    }
}

struct V6<'a> {
    source: Ipv6Addr,
    destination: Ipv6Addr,
    /// Of the next header. An extension header is no protocol that passes to the gateway.
    protocol: u8,
    payload: &'a [u8],
}

impl<'a> V6<'a> {
    fn parse(packet: &'a [u8]) -> Option<Self> {
        let (header, payload) = packet.split_first_chunk::<40>()?;
        if header[0] >> 4 != 6 {
            return None;
        }
        Some(Self {
            source: Ipv6Addr::from(*header[8..].first_chunk::<16>()?),
            destination: Ipv6Addr::from(*header[24..].first_chunk::<16>()?),
            protocol: header[6],
            payload,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
    const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

    fn guest6() -> Ipv6Addr {
        "fd00::2".parse().unwrap()
    }

    fn gateway6() -> Ipv6Addr {
        "fe80::1".parse().unwrap()
    }

    fn filter() -> Filter {
        Filter::new(Link {
            v4: Some((GUEST, GATEWAY)),
            v6: Some((guest6(), gateway6())),
        })
    }

    fn v4(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend(ETHERTYPE_IPV4);
        let mut header = [0; 20];
        header[0] = 0x45;
        header[9] = protocol;
        header[12..16].copy_from_slice(&source.octets());
        header[16..].copy_from_slice(&destination.octets());
        frame.extend(header);
        frame.extend(payload);
        frame
    }

    fn v6(source: Ipv6Addr, destination: &str, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend(ETHERTYPE_IPV6);
        let mut header = [0; 40];
        header[0] = 0x60;
        header[6] = protocol;
        header[8..24].copy_from_slice(&source.octets());
        let destination: Ipv6Addr = destination.parse().unwrap();
        header[24..].copy_from_slice(&destination.octets());
        frame.extend(header);
        frame.extend(payload);
        frame
    }

    fn tcp(flags: u8) -> [u8; 20] {
        let mut header = [0; 20];
        header[13] = flags;
        header
    }

    fn udp(source: u16, destination: u16) -> [u8; 8] {
        let [a, b] = source.to_be_bytes();
        let [c, d] = destination.to_be_bytes();
        [a, b, c, d, 0, 8, 0, 0]
    }

    #[test]
    fn the_outside_is_reached_and_the_hosts_loopback_is_not() {
        let filter = filter();
        let syn = tcp(TCP_SYN);
        assert!(filter.passes(&v4(GUEST, OUTSIDE, TCP, &syn)));
        assert!(filter.passes(&v6(guest6(), "2001:db8::1", TCP, &syn)));
        for host in ["127.0.0.1", "127.8.9.10", "0.0.0.0", "0.1.2.3"] {
            let frame = v4(GUEST, host.parse().unwrap(), TCP, &syn);
            assert!(!filter.passes(&frame), "{host}");
        }
        for host in [
            "::1",
            "::",
            "::ffff:127.0.0.1",
            "::127.0.0.1",
            "::ffff:10.9.9.9",
        ] {
            assert!(!filter.passes(&v6(guest6(), host, TCP, &syn)), "{host}");
        }
    }

    #[test]
    fn the_hosts_neighbours_are_not_reached_as_ones_own() {
        let filter = filter();
        for group in ["224.0.0.251", "255.255.255.255"] {
            let frame = v4(GUEST, group.parse().unwrap(), UDP, &udp(5353, 5353));
            assert!(!filter.passes(&frame), "{group}");
        }
        for group in ["ff02::fb", "fe80::2"] {
            let frame = v6(guest6(), group, UDP, &udp(5353, 5353));
            assert!(!filter.passes(&frame), "{group}");
        }
        assert!(filter.passes(&v6(guest6(), "ff02::1:ff00:1", ICMPV6, &[135])));
        assert!(filter.passes(&v6(guest6(), "fe80::1", ICMPV6, &[136])));
    }

    #[test]
    fn a_false_source_does_not_pass() {
        let filter = filter();
        assert!(!filter.passes(&v4(OUTSIDE, OUTSIDE, TCP, &tcp(TCP_SYN))));
        let source = "2001:db8::9".parse().unwrap();
        assert!(!filter.passes(&v6(source, "2001:db8::1", TCP, &tcp(TCP_SYN))));
        for source in [source, Ipv6Addr::UNSPECIFIED] {
            assert!(!filter.passes(&v6(source, "ff02::1:ff00:2", ICMPV6, &[135])));
        }
    }

    #[test]
    fn the_gateway_gets_answers_only() {
        let filter = filter();
        assert!(!filter.passes(&v4(GUEST, GATEWAY, TCP, &tcp(TCP_SYN))));
        assert!(!filter.passes(&v6(guest6(), "fe80::1", TCP, &tcp(TCP_SYN))));
        // With an extension header before the TCP header.
        assert!(!filter.passes(&v6(guest6(), "fe80::1", 0, &tcp(TCP_SYN))));
        assert!(filter.passes(&v4(GUEST, GATEWAY, TCP, &tcp(TCP_SYN | TCP_ACK))));
        assert!(filter.passes(&v4(GUEST, GATEWAY, TCP, &tcp(TCP_ACK))));
        assert!(filter.passes(&v4(GUEST, GATEWAY, ICMP, &[8])));
    }

    #[test]
    fn a_client_at_the_gateway_is_answered_over_udp_once_it_has_asked() {
        let mut filter = filter();
        let answer = v4(GUEST, GATEWAY, UDP, &udp(53, 40000));
        assert!(!filter.passes(&answer));
        filter.learn(&v4(GATEWAY, GUEST, UDP, &udp(40000, 53)));
        assert!(filter.passes(&answer));
        assert!(!filter.passes(&v4(GUEST, GATEWAY, UDP, &udp(53, 40001))));
        assert!(!filter.passes(&v4(GUEST, GATEWAY, UDP, &udp(54, 40000))));
        assert!(!filter.passes(&v6(guest6(), "fe80::1", UDP, &udp(53, 40000))));
        filter.learn(&v6(gateway6(), "fd00::2", UDP, &udp(40000, 53)));
        assert!(filter.passes(&v6(guest6(), "fe80::1", UDP, &udp(53, 40000))));
    }

    #[test]
    fn the_oldest_client_is_forgotten_when_there_are_too_many() {
        let mut filter = filter();
        let last = 10_000 + u16::try_from(MAX_PEERS).unwrap();
        for client in 10_000..=last {
            filter.learn(&v4(GATEWAY, GUEST, UDP, &udp(client, 53)));
        }
        assert!(!filter.passes(&v4(GUEST, GATEWAY, UDP, &udp(53, 10_000))));
        assert!(filter.passes(&v4(GUEST, GATEWAY, UDP, &udp(53, 10_001))));
        assert!(filter.passes(&v4(GUEST, GATEWAY, UDP, &udp(53, last))));
        assert_eq!(filter.peers.len(), MAX_PEERS);
    }

    #[test]
    fn fragments_and_malformed_frames_do_not_pass() {
        let filter = filter();
        let good = v4(GUEST, OUTSIDE, TCP, &tcp(TCP_SYN));
        for length in 0..ETHERNET + 20 {
            assert!(!filter.passes(&good[..length]), "{length}");
        }
        for (at, value) in [
            (ETHERNET, 0x55),
            (ETHERNET, 0x44),
            (ETHERNET + 6, 0x20),
            (ETHERNET + 7, 1),
        ] {
            let mut bad = good.clone();
            bad[at] = value;
            assert!(!filter.passes(&bad), "{at} {value}");
        }
        let mut unknown = good;
        unknown[12] = 0x81;
        assert!(!filter.passes(&unknown));
    }

    #[test]
    fn a_family_without_addresses_does_not_pass() {
        let filter = Filter::new(Link {
            v4: Some((GUEST, GATEWAY)),
            v6: None,
        });
        assert!(!filter.passes(&v6(guest6(), "2001:db8::1", TCP, &tcp(TCP_SYN))));
        assert!(!filter.passes(&v6(guest6(), "ff02::1:ff00:1", ICMPV6, &[135])));
    }
}
