//! Routes and neighbours, and the messages that make and remove them.

use std::net::IpAddr;

use super::address::{self, Prefix};
use super::netlink::{self, Attributes, Request};

/// As in linux/rtnetlink.h and linux/neighbour.h.
const PROTOCOL_BOOT: u8 = 3;
pub(super) const SCOPE_LINK: u8 = 253;
const TABLE_MAIN: u8 = 254;
pub(super) const STATE_PERMANENT: u16 = 0x80;

/// A route of the main table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) destination: Prefix,
    pub(super) gateway: Option<IpAddr>,
    pub(super) interface: Option<u32>,
    pub(super) source: Option<IpAddr>,
    pub(super) scope: u8,
    pub(super) on_link: bool,
    /// 0: the kernel's default, as for the next.
    pub(super) metric: u32,
    pub(super) mtu: u32,
    /// It stays when the host no longer says it.
    pub(super) announced: bool,
}

/// A neighbour that somebody has written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Neighbor {
    pub(super) interface: u32,
    pub(super) address: IpAddr,
    pub(super) hardware_address: Vec<u8>,
    pub(super) state: u16,
}

impl Route {
    /// Beside one to the same destination through another interface.
    pub(super) fn addition(&self) -> Request {
        const NEW_ROUTE: u16 = 24;
        self.request(NEW_ROUTE, netlink::CREATE | netlink::APPEND)
    }

    pub(super) fn removal(&self) -> Request {
        const REMOVE_ROUTE: u16 = 25;
        self.request(REMOVE_ROUTE, 0)
    }

    fn request(&self, kind: u16, flags: u16) -> Request {
        const UNICAST: u8 = 1;
        const ON_LINK: u32 = 4;

        let mut request = Request::new(kind, flags);
        request.bytes(&[
            self.destination.family(),
            self.destination.length,
            0,
            0,
            TABLE_MAIN,
            PROTOCOL_BOOT,
            self.scope,
            UNICAST,
        ]);
        let flags = if self.on_link { ON_LINK } else { 0 };
        request.bytes(&flags.to_ne_bytes());
        if self.destination.length != 0 {
            request.attribute(Attributes::ROUTE_DESTINATION, &self.destination.octets());
        }
        if let Some(index) = self.interface {
            request.attribute(Attributes::ROUTE_INTERFACE, &index.to_ne_bytes());
        }
        if let Some(gateway) = self.gateway {
            request.attribute(Attributes::ROUTE_GATEWAY, &address::octets(gateway));
        }
        if let Some(source) = self.source {
            request.attribute(Attributes::ROUTE_SOURCE, &address::octets(source));
        }
        if self.metric != 0 {
            request.attribute(Attributes::ROUTE_PRIORITY, &self.metric.to_ne_bytes());
        }
        if self.mtu != 0 {
            let mut metrics = Request::attributes();
            metrics.attribute(Attributes::METRIC_MTU, &self.mtu.to_ne_bytes());
            request.attribute(Attributes::ROUTE_METRICS, metrics.as_bytes());
        }
        request
    }
}

impl Neighbor {
    pub(super) fn addition(&self) -> Request {
        const NEW_NEIGHBOR: u16 = 28;
        self.request(NEW_NEIGHBOR, netlink::CREATE | netlink::REPLACE)
    }

    pub(super) fn removal(&self) -> Request {
        const REMOVE_NEIGHBOR: u16 = 29;
        self.request(REMOVE_NEIGHBOR, 0)
    }

    fn request(&self, kind: u16, flags: u16) -> Request {
        let mut request = Request::new(kind, flags);
        request.bytes(&[address::family(self.address), 0, 0, 0]);
        request.bytes(&self.interface.to_ne_bytes());
        request.bytes(&self.state.to_ne_bytes());
        request.bytes(&[0, 0]);
        request.attribute(Attributes::NEIGHBOR_ADDRESS, &address::octets(self.address));
        if !self.hardware_address.is_empty() {
            request.attribute(Attributes::NEIGHBOR_HARDWARE, &self.hardware_address);
        }
        request
    }
}
