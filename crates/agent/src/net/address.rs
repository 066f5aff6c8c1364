//! Addresses with the lengths of their networks.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address and how many of its bits are the network's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Prefix {
    pub(super) address: IpAddr,
    pub(super) length: u8,
}

/// AF_INET or AF_INET6, as netlink has them.
pub(super) fn family(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 2,
        IpAddr::V6(_) => 10,
    }
}

pub(super) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

impl Prefix {
    /// CIDR notation; an address by itself is a network of its own.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address.parse().ok()?, Some(length.parse().ok()?)),
            None => (text.parse().ok()?, None),
        };
        let most = match address {
            IpAddr::V4(_) => 32,
            IpAddr::V6(_) => 128,
        };
        let length = length.unwrap_or(most);
        (length <= most).then_some(Self { address, length })
    }

    /// Everything, which is where a default route leads.
    pub(super) fn default_of(v6: bool) -> Self {
        let address = if v6 {
            IpAddr::V6(Ipv6Addr::UNSPECIFIED)
        } else {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED)
        };
        Self { address, length: 0 }
    }

    /// From netlink; no bytes are the unspecified address.
    pub(super) fn from_octets(family: u8, octets: Option<&[u8]>, length: u8) -> Option<Self> {
        let address = match (family, octets) {
            (2, None) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            (10, None) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            (2, Some(octets)) => IpAddr::from(<[u8; 4]>::try_from(octets).ok()?),
            (10, Some(octets)) => IpAddr::from(<[u8; 16]>::try_from(octets).ok()?),
            _ => return None,
        };
        Some(Self { address, length })
    }

    pub(super) fn family(&self) -> u8 {
        family(self.address)
    }

    pub(super) fn octets(&self) -> Vec<u8> {
        octets(self.address)
    }

    /// The network alone, without the host's part.
    pub(super) fn network(&self) -> Self {
        let address = match self.address {
            IpAddr::V4(address) => {
                let host = u32::MAX.checked_shr(self.length.into()).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(address.to_bits() & !host))
            }
            IpAddr::V6(address) => {
                let host = u128::MAX.checked_shr(self.length.into()).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !host))
            }
        };
        Self {
            address,
            length: self.length,
        }
    }

    /// The address that means all hosts of an IPv4 network; two hosts need none.
    pub(super) fn broadcast(&self) -> Option<Ipv4Addr> {
        match self.address {
            IpAddr::V4(address) if self.length < 31 => {
                let host = u32::MAX >> self.length;
                Some(Ipv4Addr::from_bits(address.to_bits() | host))
            }
            _ => None,
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cidr_notation_is_read_and_checked() {
        let prefix = Prefix::parse("10.1.2.3/16").unwrap();
        assert_eq!(prefix.network().to_string(), "10.1.0.0/16");
        assert_eq!(prefix.broadcast(), Some(Ipv4Addr::new(10, 1, 255, 255)));
        assert_eq!(Prefix::parse("fd00::5").unwrap().length, 128);
        for text in [
            "",
            "10.0.0.1/33",
            "x/8",
            "fd00::/129",
            "10.0.0.1/",
            "10.0.0.1/-1",
        ] {
            assert_eq!(Prefix::parse(text), None, "{text}");
        }
    }

    #[test]
    fn the_ends_of_the_scale_hold() {
        assert_eq!(
            Prefix::parse("10.1.2.3/0").unwrap().network(),
            Prefix::default_of(false)
        );
        let host = Prefix::parse("10.1.2.3/32").unwrap();
        assert_eq!(host.network(), host);
        assert_eq!(host.broadcast(), None);
        assert_eq!(
            Prefix::parse("fd00::1/0").unwrap().network(),
            Prefix::default_of(true)
        );
    }
}
