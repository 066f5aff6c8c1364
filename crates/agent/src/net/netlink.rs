//! Just enough of rtnetlink(7).

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send,
    socket,
};

use super::address::Prefix;

const REQUEST: u16 = 1;
const ACKNOWLEDGE: u16 = 4;
const DUMP: u16 = 0x300;
pub(super) const REPLACE: u16 = 0x100;
pub(super) const CREATE: u16 = 0x400;
pub(super) const APPEND: u16 = 0x800;

const ERROR: u16 = 2;
const DONE: u16 = 3;

const NEW_LINK: u16 = 16;
const GET_LINK: u16 = 18;
const NEW_ADDRESS: u16 = 20;
const REMOVE_ADDRESS: u16 = 21;
const GET_ADDRESS: u16 = 22;

/// Sizes of the headers before the attributes.
const MESSAGE_HEADER: usize = 16;
const LINK_HEADER: usize = 16;
const ADDRESS_HEADER: usize = 8;

/// Attributes of a link.
pub(super) const HARDWARE: u16 = 1;
pub(super) const NAME: u16 = 3;
pub(super) const MTU: u16 = 4;
const PERMANENT_HARDWARE: u16 = 54;

/// Attributes of an address.
const ADDRESS: u16 = 1;
const LOCAL: u16 = 2;
const BROADCAST: u16 = 4;
const FLAGS: u16 = 8;
/// Usable at once: nobody else on the link can have it.
const NO_DUPLICATE_DETECTION: u32 = 2;
/// `IFA_F_NOPREFIXROUTE`
const NO_PREFIX_ROUTE: u32 = 0x200;

/// Attributes of routes and neighbours.
pub(super) struct Attributes;

impl Attributes {
    pub(super) const ROUTE_DESTINATION: u16 = 1;
    pub(super) const ROUTE_INTERFACE: u16 = 4;
    pub(super) const ROUTE_GATEWAY: u16 = 5;
    pub(super) const ROUTE_PRIORITY: u16 = 6;
    pub(super) const ROUTE_SOURCE: u16 = 7;
    pub(super) const ROUTE_METRICS: u16 = 8;
    pub(super) const METRIC_MTU: u16 = 2;
    pub(super) const NEIGHBOR_ADDRESS: u16 = 1;
    pub(super) const NEIGHBOR_HARDWARE: u16 = 2;
}

/// A message being written.
#[derive(Debug)]
pub(super) struct Request {
    bytes: Vec<u8>,
}

impl Request {
    pub(super) fn new(kind: u16, flags: u16) -> Self {
        // The length is filled in when it is known.
        let mut request = Self { bytes: vec![0; 4] };
        request.bytes(&kind.to_ne_bytes());
        request.bytes(&(flags | REQUEST | ACKNOWLEDGE).to_ne_bytes());
        request.bytes(&[0; 8]);
        request
    }

    /// Attributes that go into another attribute.
    pub(super) fn attributes() -> Self {
        Self { bytes: Vec::new() }
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub(super) fn attribute(&mut self, kind: u16, value: &[u8]) {
        // Values here are addresses, names and numbers: far below 64 KiB.
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.bytes(&length.to_ne_bytes());
        self.bytes(&kind.to_ne_bytes());
        self.bytes(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        self.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes
    }
}

/// An interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) hardware_address: Vec<u8>,
    /// The hardware address that its device was made with; the present one of a device that is none of hardware.
    pub(super) device: Vec<u8>,
    pub(super) mtu: u32,
    pub(super) up: bool,
    pub(super) no_arp: bool,
}

/// What an interface is to be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Up {
    pub(super) no_arp: bool,
}

/// As [`Up`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Down;

/// Flags of an interface, and which of them are meant.
pub(super) trait LinkState {
    fn flags(self) -> (u32, u32);
}

const FLAG_UP: u32 = 1;
const FLAG_NO_ARP: u32 = 0x80;

impl LinkState for Up {
    fn flags(self) -> (u32, u32) {
        let no_arp = if self.no_arp { FLAG_NO_ARP } else { 0 };
        (FLAG_UP | no_arp, FLAG_UP | FLAG_NO_ARP)
    }
}

impl LinkState for Down {
    fn flags(self) -> (u32, u32) {
        (0, FLAG_UP)
    }
}

/// A socket to the kernel's network configuration.
#[derive(Debug)]
pub(super) struct Netlink {
    fd: OwnedFd,
}

impl Netlink {
    pub(super) fn open() -> io::Result<Self> {
        let fd = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkRoute,
        )?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        Ok(Self { fd })
    }

    /// Has the kernel do something.
    pub(super) fn call(&mut self, request: Request) -> io::Result<()> {
        self.exchange(request, |_, _| {})
    }

    /// Sends a request and passes on what comes before its end.
    fn exchange(&mut self, request: Request, mut each: impl FnMut(u16, &[u8])) -> io::Result<()> {
        let bytes = request.finish();
        send(self.fd.as_raw_fd(), &bytes, MsgFlags::empty())?;
        // The kernel answers before send returns; more than fits comes in further messages.
        let mut buffer = vec![0; 32 << 10];
        loop {
            let count = recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            for (kind, body) in messages(&buffer[..count]) {
                match kind {
                    DONE => return Ok(()),
                    ERROR => return answer(body),
                    kind => each(kind, body),
                }
            }
        }
    }

    pub(super) fn links(&mut self) -> io::Result<Vec<Link>> {
        let mut request = Request::new(GET_LINK, DUMP);
        request.bytes(&[0; LINK_HEADER]);
        let mut links = Vec::new();
        self.exchange(request, |kind, body| {
            if kind == NEW_LINK {
                links.extend(parse_link(body));
            }
        })?;
        Ok(links)
    }

    /// Changes attributes and state.
    pub(super) fn set_link(
        &mut self,
        index: u32,
        state: impl LinkState,
        attributes: &[(u16, Vec<u8>)],
    ) -> io::Result<()> {
        let (flags, mask) = state.flags();
        let mut request = Request::new(NEW_LINK, 0);
        request.bytes(&[0; 4]);
        request.bytes(&index.to_ne_bytes());
        request.bytes(&flags.to_ne_bytes());
        request.bytes(&mask.to_ne_bytes());
        for (kind, value) in attributes {
            request.attribute(*kind, value);
        }
        self.call(request)
    }

    pub(super) fn addresses(&mut self, index: u32) -> io::Result<Vec<Prefix>> {
        let mut request = Request::new(GET_ADDRESS, DUMP);
        request.bytes(&[0; ADDRESS_HEADER]);
        let mut addresses = Vec::new();
        self.exchange(request, |kind, body| {
            if kind == NEW_ADDRESS
                && let Some((owner, prefix)) = parse_address(body)
                && owner == index
            {
                addresses.push(prefix);
            }
        })?;
        Ok(addresses)
    }

    pub(super) fn add_address(
        &mut self,
        index: u32,
        prefix: &Prefix,
        no_prefix_route: bool,
    ) -> io::Result<()> {
        let mut request = address_request(NEW_ADDRESS, CREATE | REPLACE, index, prefix);
        if let Some(broadcast) = prefix.broadcast() {
            request.attribute(BROADCAST, &broadcast.octets());
        }
        let mut flags = NO_DUPLICATE_DETECTION;
        if no_prefix_route {
            flags |= NO_PREFIX_ROUTE;
        }
        request.attribute(FLAGS, &flags.to_ne_bytes());
        self.call(request)
    }

    pub(super) fn remove_address(&mut self, index: u32, prefix: &Prefix) -> io::Result<()> {
        self.call(address_request(REMOVE_ADDRESS, 0, index, prefix))
    }
}

fn address_request(kind: u16, flags: u16, index: u32, prefix: &Prefix) -> Request {
    let mut request = Request::new(kind, flags);
    request.bytes(&[prefix.family(), prefix.length, 0, 0]);
    request.bytes(&index.to_ne_bytes());
    request.attribute(LOCAL, &prefix.octets());
    request.attribute(ADDRESS, &prefix.octets());
    request
}

/// Kinds and bodies of the messages in a datagram.
fn messages(mut bytes: &[u8]) -> Vec<(u16, &[u8])> {
    let mut messages = Vec::new();
    while let (Some(length), Some(kind)) = (u32_at(bytes, 0), u16_at(bytes, 4)) {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let Some(body) = bytes.get(MESSAGE_HEADER..length) else {
            break;
        };
        messages.push((kind, body));
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
    }
    messages
}

/// An error message with number 0 is the acknowledgement.
fn answer(body: &[u8]) -> io::Result<()> {
    match u32_at(body, 0).map(u32::cast_signed) {
        Some(0) => Ok(()),
        Some(number) => Err(io::Error::from_raw_os_error(number.wrapping_neg())),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// The value of an attribute.
fn attribute(mut bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    /// Flags in the attribute's type.
    const KIND: u16 = 0x3fff;

    while let (Some(length), Some(kind)) = (u16_at(bytes, 0), u16_at(bytes, 2)) {
        let length = usize::from(length);
        let value = bytes.get(4..length)?;
        if kind & KIND == wanted {
            return Some(value);
        }
        bytes = bytes.get(length.next_multiple_of(4)..)?;
    }
    None
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..at + 2)?;
    Some(u16::from_ne_bytes(bytes.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at + 4)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

fn parse_link(body: &[u8]) -> Option<Link> {
    let attributes = body.get(LINK_HEADER..)?;
    let name = attribute(attributes, NAME)?;
    let name = name.strip_suffix(&[0]).unwrap_or(name);
    let flags = u32_at(body, 8)?;
    let hardware_address = attribute(attributes, HARDWARE).unwrap_or(&[]);
    let device = attribute(attributes, PERMANENT_HARDWARE).unwrap_or(hardware_address);
    Some(Link {
        index: u32_at(body, 4)?,
        name: String::from_utf8_lossy(name).into_owned(),
        hardware_address: hardware_address.to_vec(),
        device: device.to_vec(),
        mtu: attribute(attributes, MTU).and_then(|mtu| u32_at(mtu, 0))?,
        up: flags & FLAG_UP != 0,
        no_arp: flags & FLAG_NO_ARP != 0,
    })
}

/// The interface and the address.
fn parse_address(body: &[u8]) -> Option<(u32, Prefix)> {
    let attributes = body.get(ADDRESS_HEADER..)?;
    // The address of the other end comes first on point-to-point links.
    let octets = attribute(attributes, LOCAL).or_else(|| attribute(attributes, ADDRESS));
    let prefix = Prefix::from_octets(*body.first()?, octets, *body.get(1)?)?;
    Some((u32_at(body, 4)?, prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_says_its_length_and_pads_attributes() {
        let mut request = Request::new(NEW_LINK, 0);
        request.attribute(NAME, b"ab\0");
        let bytes = request.finish();
        assert_eq!(bytes.len(), MESSAGE_HEADER + 8);
        assert_eq!(u32_at(&bytes, 0), Some(24));
        assert_eq!(
            attribute(&bytes[MESSAGE_HEADER..], NAME),
            Some(&b"ab\0"[..])
        );
    }

    #[test]
    fn messages_are_taken_apart() {
        let mut bytes = Request::new(NEW_LINK, 0).finish();
        bytes.extend(Request::new(DONE, 0).finish());
        let kinds: Vec<_> = messages(&bytes).iter().map(|(kind, _)| *kind).collect();
        assert_eq!(kinds, [NEW_LINK, DONE]);
        // Cut off in the middle.
        assert_eq!(messages(&bytes[..bytes.len() - 1]).len(), 1);
    }

    #[test]
    fn broken_lengths_end_the_list() {
        assert!(messages(&[0; 32]).is_empty());
        assert_eq!(attribute(&[0; 8], 0), None);
        assert_eq!(attribute(&[3, 0, 1, 0, 9, 9], 1), None);
    }

    #[test]
    fn the_loopback_interface_is_listed() {
        let links = Netlink::open().unwrap().links().unwrap();
        let lo = links.iter().find(|link| link.name == "lo").unwrap();
        assert_eq!(lo.index, 1);
    }
}
