//! What the host says of the network, every address of it read before anything is changed.

use std::net::IpAddr;

use hull_agent_api::agent;

use super::address::Prefix;
use super::links::index_of;
use super::netlink::Link;
use super::route::{Neighbor, Route, SCOPE_LINK, STATE_PERMANENT};
use crate::error::AgentError;

#[derive(Debug, Default)]
pub(super) struct Wanted {
    pub(super) interfaces: Vec<Interface>,
    pub(super) spare_devices: Vec<Vec<u8>>,
    /// With the names of their interfaces: the indexes are not known yet.
    pub(super) routes: Vec<(String, Route)>,
    pub(super) neighbors: Vec<(String, Neighbor)>,
}

#[derive(Debug)]
pub(super) struct Interface {
    pub(super) name: String,
    /// The hardware address that its device was made with.
    pub(super) device: Vec<u8>,
    pub(super) hardware_address: Vec<u8>,
    pub(super) mtu: u32,
    pub(super) no_arp: bool,
    pub(super) no_prefix_routes: bool,
    pub(super) addresses: Vec<Address>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) prefix: Prefix,
    /// It stays when the host no longer says it.
    pub(super) announced: bool,
}

impl Wanted {
    pub(super) fn parse(network: &agent::Network) -> Result<Self, AgentError> {
        let interfaces = network.interfaces.iter().map(Interface::parse);
        let routes = network
            .routes
            .iter()
            .map(|route| Ok((route.interface.clone(), Route::parse(route)?)));
        let neighbors = network
            .neighbors
            .iter()
            .map(|neighbor| Ok((neighbor.interface.clone(), Neighbor::parse(neighbor)?)));
        Ok(Self {
            interfaces: interfaces.collect::<Result<_, _>>()?,
            spare_devices: network.spare_devices.clone(),
            routes: routes.collect::<Result<_, AgentError>>()?,
            neighbors: neighbors.collect::<Result<_, AgentError>>()?,
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.interfaces.is_empty()
            && self.spare_devices.is_empty()
            && self.routes.is_empty()
            && self.neighbors.is_empty()
    }

    /// The routes through these links.
    pub(super) fn routes(&self, links: &[Link]) -> Result<Vec<Route>, AgentError> {
        let routes = self.routes.iter().map(|(name, route)| {
            let interface = match name.as_str() {
                "" => None,
                name => Some(index_of(links, name)?),
            };
            let route = route.clone();
            Ok(Route { interface, ..route })
        });
        routes.collect()
    }

    /// The neighbours at these links.
    pub(super) fn neighbors(&self, links: &[Link]) -> Result<Vec<Neighbor>, AgentError> {
        let neighbors = self.neighbors.iter().map(|(name, neighbor)| {
            let interface = index_of(links, name)?;
            let neighbor = neighbor.clone();
            Ok(Neighbor {
                interface,
                ..neighbor
            })
        });
        neighbors.collect()
    }
}

impl Interface {
    fn parse(interface: &agent::Interface) -> Result<Self, AgentError> {
        let name = &interface.name;
        let hardware_address = &interface.hardware_address;
        if hardware_address.len() != 6 {
            return Err(invalid("interface hardware_address", name));
        }
        if !is_interface_name(name) {
            return Err(invalid("interface name", name));
        }
        let own = interface.addresses.iter().map(|text| (text, false));
        let announced = interface.announced_addresses.iter();
        let addresses = own.chain(announced.map(|text| (text, true)));
        let addresses = addresses.map(|(text, announced)| {
            let prefix = Prefix::parse(text).ok_or_else(|| invalid("interface address", text))?;
            Ok(Address { prefix, announced })
        });
        Ok(Self {
            name: name.clone(),
            device: match interface.device.is_empty() {
                true => hardware_address.clone(),
                false => interface.device.clone(),
            },
            hardware_address: hardware_address.clone(),
            mtu: interface.mtu,
            no_arp: interface.no_arp,
            no_prefix_routes: interface.no_prefix_routes,
            addresses: addresses.collect::<Result<_, AgentError>>()?,
        })
    }
}

impl Route {
    fn parse(route: &agent::Route) -> Result<Self, AgentError> {
        let gateway = optional_address("route gateway", &route.gateway)?;
        let source = optional_address("route source", &route.source)?;
        let v6 = route.ipv6 || gateway.or(source).is_some_and(|address| address.is_ipv6());
        let destination = if route.destination.is_empty() {
            Prefix::default_of(v6)
        } else {
            Prefix::parse(&route.destination)
                .ok_or_else(|| invalid("route destination", &route.destination))?
        };
        let same_family = |address: Option<IpAddr>| {
            address.is_none_or(|address| address.is_ipv6() == destination.address.is_ipv6())
        };
        if !same_family(gateway) || !same_family(source) {
            return Err(invalid("route gateway or source", &route.destination));
        }
        let scope = u8::try_from(route.scope)
            .map_err(|_| invalid("route scope", &route.scope.to_string()))?;
        Ok(Self {
            destination: destination.network(),
            gateway,
            interface: None,
            source,
            // Without a gateway a route of universal scope leads nowhere.
            scope: if gateway.is_none() && scope == 0 {
                SCOPE_LINK
            } else {
                scope
            },
            on_link: route.onlink,
            metric: route.metric,
            mtu: route.mtu,
            announced: route.announced,
        })
    }
}

impl Neighbor {
    fn parse(neighbor: &agent::Neighbor) -> Result<Self, AgentError> {
        let address = neighbor.address.parse();
        let state = match neighbor.state {
            0 => STATE_PERMANENT,
            state => u16::try_from(state)
                .map_err(|_| invalid("neighbor state", &neighbor.state.to_string()))?,
        };
        Ok(Self {
            interface: 0,
            address: address.map_err(|_| invalid("neighbor address", &neighbor.address))?,
            hardware_address: neighbor.hardware_address.clone(),
            state,
        })
    }
}

fn optional_address(field: &'static str, text: &str) -> Result<Option<IpAddr>, AgentError> {
    if text.is_empty() {
        return Ok(None);
    }
    let address = text.parse().map_err(|_| invalid(field, text))?;
    Ok(Some(address))
}

fn invalid(field: &'static str, value: &str) -> AgentError {
    AgentError::Invalid {
        field,
        value: value.to_owned(),
    }
}

/// What the kernel takes for a name.
fn is_interface_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_graphic() && c != '/' && c != ':';
    !name.is_empty() && name.len() < 16 && name != "." && name != ".." && name.chars().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(destination: &str, gateway: &str) -> Result<Route, AgentError> {
        let mut route = agent::Route::new();
        route.destination = destination.to_owned();
        route.gateway = gateway.to_owned();
        Route::parse(&route)
    }

    #[test]
    fn the_default_route_takes_its_gateways_family() {
        let parsed = parse("", "fe80::1").unwrap();
        assert_eq!(parsed.destination, Prefix::default_of(true));
        let parsed = parse("", "10.0.0.1").unwrap();
        assert_eq!(parsed.destination, Prefix::default_of(false));
    }

    #[test]
    fn a_route_without_gateway_is_of_link_scope() {
        assert_eq!(parse("10.0.0.7/8", "").unwrap().scope, SCOPE_LINK);
    }

    #[test]
    fn destinations_lose_their_host_bits() {
        let parsed = parse("10.1.2.3/8", "").unwrap();
        assert_eq!(parsed.destination.to_string(), "10.0.0.0/8");
    }

    #[test]
    fn families_are_not_mixed() {
        assert!(parse("10.0.0.0/8", "fe80::1").is_err());
    }

    #[test]
    fn interface_names_are_checked() {
        for name in ["eth0", "a", "veth12345678901"] {
            assert!(is_interface_name(name), "{name}");
        }
        for name in ["", ".", "..", "a/b", "a:b", "a b", "1234567890123456"] {
            assert!(!is_interface_name(name), "{name}");
        }
    }
}
