//! The guest's network.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;

use hull_agent_api::agent::{Interface, Neighbor, Network, Route};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use crate::error::AgentError;
use crate::sys::check;

mod address;
mod netlink;

use address::Prefix;
use netlink::{Attributes, Link, Netlink, Request};

/// As in linux/rtnetlink.h and linux/neighbour.h.
const PROTOCOL_KERNEL: u8 = 2;
const PROTOCOL_BOOT: u8 = 3;
const PROTOCOL_ROUTER: u8 = 9;
const SCOPE_LINK: u8 = 253;
const TABLE_MAIN: u8 = 254;
const STATE_PERMANENT: u16 = 0x80;

/// Brings interfaces, routes and neighbours to the given state.
pub(crate) fn configure(network: &Network) -> Result<(), AgentError> {
    let wanted = Wanted::parse(network)?;
    if wanted.interfaces.is_empty() && wanted.routes.is_empty() && wanted.neighbors.is_empty() {
        return Ok(());
    }
    let mut netlink = Netlink::open().map_err(AgentError::io("talk to the kernel's network"))?;
    for interface in &wanted.interfaces {
        configure_interface(&mut netlink, interface)?;
    }
    // Indexes are looked up once the names are right.
    let links = netlink
        .links()
        .map_err(AgentError::io("list the interfaces"))?;
    configure_routes(&mut netlink, &links, &wanted.routes)?;
    for neighbor in &wanted.neighbors {
        add_neighbor(&mut netlink, &links, neighbor)?;
    }
    Ok(())
}

/// A network whose every address has been read, before anything is changed.
#[derive(Debug)]
struct Wanted<'a> {
    interfaces: Vec<(&'a Interface, Vec<Prefix>)>,
    routes: Vec<(&'a Route, WantedRoute)>,
    neighbors: Vec<(&'a Neighbor, IpAddr)>,
}

#[derive(Debug, PartialEq, Eq)]
struct WantedRoute {
    destination: Prefix,
    gateway: Option<IpAddr>,
    source: Option<IpAddr>,
    scope: u8,
}

impl<'a> Wanted<'a> {
    fn parse(network: &'a Network) -> Result<Self, AgentError> {
        let interfaces = network.interfaces.iter().map(|interface| {
            if interface.hardware_address.len() != 6 {
                return Err(invalid("interface hardware_address", &interface.name));
            }
            if !is_interface_name(&interface.name) {
                return Err(invalid("interface name", &interface.name));
            }
            let prefixes = interface
                .addresses
                .iter()
                .map(|text| Prefix::parse(text).ok_or_else(|| invalid("interface address", text)));
            Ok((interface, prefixes.collect::<Result<_, _>>()?))
        });
        let routes = network
            .routes
            .iter()
            .map(|route| Ok((route, WantedRoute::parse(route)?)));
        let neighbors = network.neighbors.iter().map(|neighbor| {
            let address = neighbor.address.parse();
            let address = address.map_err(|_| invalid("neighbor address", &neighbor.address))?;
            Ok((neighbor, address))
        });
        Ok(Self {
            interfaces: interfaces.collect::<Result<_, _>>()?,
            routes: routes.collect::<Result<_, AgentError>>()?,
            neighbors: neighbors.collect::<Result<_, AgentError>>()?,
        })
    }
}

impl WantedRoute {
    fn parse(route: &Route) -> Result<Self, AgentError> {
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
            source,
            // Without a gateway a route of universal scope leads nowhere.
            scope: if gateway.is_none() && scope == 0 {
                SCOPE_LINK
            } else {
                scope
            },
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

fn configure_interface(
    netlink: &mut Netlink,
    (interface, addresses): &(&Interface, Vec<Prefix>),
) -> Result<(), AgentError> {
    let name = &interface.name;
    let failed = |what: &str| AgentError::io(format!("{what} interface {name}"));
    let links = netlink.links().map_err(failed("find"))?;
    let link = links
        .iter()
        .find(|link| link.hardware_address == interface.hardware_address)
        .ok_or_else(|| AgentError::NotFound {
            kind: "interface",
            id: format!("{name} ({:02x?})", interface.hardware_address),
        })?;
    if link.name != *name {
        netlink
            .set_link(
                link.index,
                netlink::Down,
                &[(netlink::NAME, name_bytes(name))],
            )
            .map_err(failed("rename"))?;
    }
    let mut attributes = Vec::new();
    if interface.mtu != 0 {
        attributes.push((netlink::MTU, interface.mtu.to_ne_bytes().to_vec()));
    }
    let state = netlink::Up {
        no_arp: interface.no_arp,
    };
    netlink
        .set_link(link.index, state, &attributes)
        .map_err(failed("bring up"))?;
    for old in netlink.addresses(link.index).map_err(failed("look at"))? {
        if !old.is_link_local() && !addresses.contains(&old) {
            netlink
                .remove_address(link.index, &old)
                .map_err(failed("take an address from"))?;
        }
    }
    for address in addresses {
        netlink
            .add_address(link.index, address, interface.no_prefix_routes)
            .map_err(AgentError::io(format!(
                "give {address} to interface {name}"
            )))?;
    }
    Ok(())
}

fn name_bytes(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.push(0);
    bytes
}

fn configure_routes(
    netlink: &mut Netlink,
    links: &[Link],
    wanted: &[(&Route, WantedRoute)],
) -> Result<(), AgentError> {
    let failed = || AgentError::io("list the routes");
    for old in netlink.routes().map_err(failed())? {
        let ours = !matches!(old.protocol, PROTOCOL_KERNEL | PROTOCOL_ROUTER);
        let kept = wanted
            .iter()
            .any(|(_, route)| route.destination == old.destination);
        if ours && old.table == TABLE_MAIN && !kept {
            netlink.remove_route(&old).map_err(AgentError::io(format!(
                "remove the route {}",
                old.destination
            )))?;
        }
    }
    // Gateways are reached by the routes without one.
    let (direct, via): (Vec<_>, Vec<_>) = wanted
        .iter()
        .partition(|(_, route)| route.gateway.is_none());
    for (route, parsed) in direct.into_iter().chain(via) {
        let interface = match route.interface.as_str() {
            "" => None,
            name => Some(index_of(links, name)?),
        };
        let request = route_request(route, parsed, interface);
        netlink.call(request).map_err(AgentError::io(format!(
            "add the route {}",
            parsed.destination
        )))?;
    }
    Ok(())
}

fn route_request(route: &Route, parsed: &WantedRoute, interface: Option<u32>) -> Request {
    const NEW_ROUTE: u16 = 24;
    const UNICAST: u8 = 1;
    const ON_LINK: u32 = 4;

    let flags = if route.onlink { ON_LINK } else { 0 };
    let mut request = Request::new(NEW_ROUTE, netlink::CREATE | netlink::REPLACE);
    request.bytes(&[
        parsed.destination.family(),
        parsed.destination.length,
        0,
        0,
        TABLE_MAIN,
        PROTOCOL_BOOT,
        parsed.scope,
        UNICAST,
    ]);
    request.bytes(&flags.to_ne_bytes());
    if parsed.destination.length != 0 {
        request.attribute(Attributes::ROUTE_DESTINATION, &parsed.destination.octets());
    }
    if let Some(index) = interface {
        request.attribute(Attributes::ROUTE_INTERFACE, &index.to_ne_bytes());
    }
    if let Some(gateway) = parsed.gateway {
        request.attribute(Attributes::ROUTE_GATEWAY, &address::octets(gateway));
    }
    if let Some(source) = parsed.source {
        request.attribute(Attributes::ROUTE_SOURCE, &address::octets(source));
    }
    if route.metric != 0 {
        request.attribute(Attributes::ROUTE_PRIORITY, &route.metric.to_ne_bytes());
    }
    if route.mtu != 0 {
        let mut metrics = Request::attributes();
        metrics.attribute(Attributes::METRIC_MTU, &route.mtu.to_ne_bytes());
        request.attribute(Attributes::ROUTE_METRICS, metrics.as_bytes());
    }
    request
}

fn add_neighbor(
    netlink: &mut Netlink,
    links: &[Link],
    (neighbor, address): &(&Neighbor, IpAddr),
) -> Result<(), AgentError> {
    const NEW_NEIGHBOR: u16 = 28;

    let index = index_of(links, &neighbor.interface)?;
    let state = match neighbor.state {
        0 => STATE_PERMANENT,
        state => u16::try_from(state)
            .map_err(|_| invalid("neighbor state", &neighbor.state.to_string()))?,
    };
    let mut request = Request::new(NEW_NEIGHBOR, netlink::CREATE | netlink::REPLACE);
    request.bytes(&[address::family(*address), 0, 0, 0]);
    request.bytes(&index.to_ne_bytes());
    request.bytes(&state.to_ne_bytes());
    request.bytes(&[0, 0]);
    request.attribute(Attributes::NEIGHBOR_ADDRESS, &address::octets(*address));
    if !neighbor.hardware_address.is_empty() {
        request.attribute(Attributes::NEIGHBOR_HARDWARE, &neighbor.hardware_address);
    }
    netlink
        .call(request)
        .map_err(AgentError::io(format!("add the neighbour {address}")))?;
    Ok(())
}

fn index_of(links: &[Link], name: &str) -> Result<u32, AgentError> {
    let link = links.iter().find(|link| link.name == name);
    link.map(|link| link.index)
        .ok_or_else(|| AgentError::NotFound {
            kind: "interface",
            id: name.to_owned(),
        })
}

/// Brings this network namespace's loopback interface up.
pub(crate) fn loopback_up() -> io::Result<()> {
    let fd = socket(
        AddressFamily::Inet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    // SAFETY: ifreq is plain bytes, for which zero is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = from.cast_signed();
    }
    // SAFETY: both calls take an ifreq, which lives through them.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::SIOCGIFFLAGS, &raw mut request) }.into())?;
    // SAFETY: the kernel has filled in the flags.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    request.ifr_ifru.ifru_flags = flags | 1;
    // SAFETY: as above.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) }.into())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(destination: &str, gateway: &str) -> Route {
        let mut route = Route::new();
        route.destination = destination.to_owned();
        route.gateway = gateway.to_owned();
        route
    }

    #[test]
    fn the_default_route_takes_its_gateways_family() {
        let parsed = WantedRoute::parse(&route("", "fe80::1")).unwrap();
        assert_eq!(parsed.destination, Prefix::default_of(true));
        let parsed = WantedRoute::parse(&route("", "10.0.0.1")).unwrap();
        assert_eq!(parsed.destination, Prefix::default_of(false));
    }

    #[test]
    fn a_route_without_gateway_is_of_link_scope() {
        assert_eq!(
            WantedRoute::parse(&route("10.0.0.7/8", "")).unwrap().scope,
            SCOPE_LINK
        );
    }

    #[test]
    fn destinations_lose_their_host_bits() {
        let parsed = WantedRoute::parse(&route("10.1.2.3/8", "")).unwrap();
        assert_eq!(parsed.destination.to_string(), "10.0.0.0/8");
    }

    #[test]
    fn families_are_not_mixed() {
        assert!(WantedRoute::parse(&route("10.0.0.0/8", "fe80::1")).is_err());
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

    #[test]
    fn bad_networks_are_refused_before_anything_is_done() {
        let mut network = Network::new();
        network.routes.push(route("nonsense", ""));
        assert!(matches!(
            configure(&network),
            Err(AgentError::Invalid { .. })
        ));
        assert!(configure(&Network::new()).is_ok());
    }
}
