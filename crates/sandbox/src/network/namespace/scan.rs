//! What is in a network namespace, in the terms of the guest's agent.

use std::collections::HashMap;
use std::net::IpAddr;

use futures_util::{TryStream, TryStreamExt};
use hull_agent_api::agent;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use rtnetlink::packet_route::link::{
    InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric,
    RouteProtocol, RouteType,
};
use rtnetlink::{Handle, RouteMessageBuilder};

use super::slots::{Link, Slot};
use super::{MTU, NetworkError, netlink};

/// An interface that the guest gets.
#[derive(Debug)]
struct Interface {
    index: i32,
    /// Whether it takes the frames of all multicast groups.
    all_multicast: bool,
    name: String,
    hardware_address: [u8; 6],
    mtu: u32,
    no_arp: bool,
}

async fn links(handle: &Handle) -> Result<Vec<LinkMessage>, NetworkError> {
    all(handle.link().get().execute(), "interfaces").await
}

/// All that a request lists.
async fn all<T>(
    listed: impl TryStream<Ok = T, Error = rtnetlink::Error>,
    what: &str,
) -> Result<Vec<T>, NetworkError> {
    let listed = listed.try_collect().await;
    listed.map_err(netlink(format!("list the {what}")))
}

fn name_of(link: &LinkMessage) -> Option<&str> {
    link.attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name.as_str()),
            _ => None,
        })
}

/// What there is in a namespace.
#[derive(Debug)]
pub(super) struct Scan {
    interfaces: Vec<Interface>,
    /// Interfaces that a guest cannot have, and why.
    pub(super) refused: Vec<(i32, NetworkError)>,
    addresses: Vec<AddressMessage>,
    routes: Vec<RouteMessage>,
    neighbours: Vec<NeighbourMessage>,
}

/// Reads what is in this thread's namespace, but for these taps.
pub(super) async fn scan(handle: &Handle, taps: &[i32]) -> Result<Scan, NetworkError> {
    let (mut interfaces, mut refused) = (Vec::new(), Vec::new());
    for link in links(handle).await? {
        let index = link.header.index.cast_signed();
        match interface(&link) {
            _ if taps.contains(&index) => {}
            Ok(found) => interfaces.extend(found),
            Err(problem) => refused.push((index, problem)),
        }
    }
    let addresses = all(handle.address().get().execute(), "addresses").await?;
    let neighbours = all(handle.neighbours().get().execute(), "neighbours").await?;
    let mut routes = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut family_only = RouteMessageBuilder::<IpAddr>::default().build();
        family_only.header.address_family = family;
        routes.extend(all(handle.route().get(family_only).execute(), "routes").await?);
    }
    Ok(Scan {
        interfaces,
        refused,
        addresses,
        routes,
        neighbours,
    })
}

impl Scan {
    /// The interfaces that a guest can have.
    pub(super) fn links(&self) -> Vec<Link> {
        let links = self.interfaces.iter().map(|interface| Link {
            index: interface.index,
            all_multicast: interface.all_multicast,
        });
        links.collect()
    }

    pub(super) fn name_of(&self, index: i32) -> &str {
        let mut interfaces = self.interfaces.iter();
        let found = interfaces.find(|interface| interface.index == index);
        found.map_or("", |interface| interface.name.as_str())
    }

    /// What a guest is told whose devices serve these interfaces.
    pub(super) fn guest(&self, slots: &[Slot]) -> agent::Network {
        let slot_of =
            |interface: &Interface| slots.iter().find(|slot| slot.is_for(interface.index));
        let served = self.interfaces.iter();
        let served = served.filter_map(|interface| Some((interface, slot_of(interface)?)));
        let names: HashMap<u32, &str> = served
            .clone()
            .map(|(interface, _)| (interface.index.cast_unsigned(), interface.name.as_str()))
            .collect();
        let spares = slots.iter().filter(|slot| slot.serves.is_none());
        agent::Network {
            interfaces: served
                .map(|(interface, slot)| guest_interface(interface, slot, &self.addresses))
                .collect(),
            routes: self
                .routes
                .iter()
                .filter_map(|found| route(found, &names))
                .collect(),
            neighbors: self
                .neighbours
                .iter()
                .filter_map(|found| neighbour(found, &names))
                .collect(),
            spare_devices: spares.map(|slot| slot.device().0.to_vec()).collect(),
            ..Default::default()
        }
    }
}

/// An interface that carries Ethernet frames and is up. Others are not the engine's: the loopback, and
/// what the kernel makes in every namespace (`tunl0`, `sit0`).
fn interface(link: &LinkMessage) -> Result<Option<Interface>, NetworkError> {
    let up = link.header.flags.contains(LinkFlags::Up);
    if link.header.link_layer_type != LinkLayerType::Ether || !up {
        return Ok(None);
    }
    let mut hardware_address = None;
    let mut mtu = 1500;
    let mut kind = None;
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::Address(bytes) => hardware_address = bytes.as_slice().try_into().ok(),
            LinkAttribute::Mtu(bytes) => mtu = *bytes,
            LinkAttribute::LinkInfo(infos) => {
                kind = infos.iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    let name = name_of(link).unwrap_or_default().to_owned();
    // One that somebody has open is as good as any: slirp4netns and pasta serve theirs.
    let carrier = link.header.flags.contains(LinkFlags::LowerUp);
    if kind == Some(&InfoKind::Tun) && !carrier {
        return Err(NetworkError::Interface {
            name,
            problem: "is a tap device that no process has open",
        });
    }
    let Some(hardware_address) = hardware_address else {
        return Err(NetworkError::Interface {
            name,
            problem: "has no hardware address of six bytes",
        });
    };
    Ok(Some(Interface {
        index: link.header.index.cast_signed(),
        name,
        hardware_address,
        mtu,
        all_multicast: link.header.flags.contains(LinkFlags::Allmulti),
        no_arp: link.header.flags.contains(LinkFlags::Noarp),
    }))
}

fn guest_interface(
    interface: &Interface,
    slot: &Slot,
    addresses: &[AddressMessage],
) -> agent::Interface {
    let own = addresses
        .iter()
        .filter(|address| address.header.index == interface.index.cast_unsigned());
    let (lasting, announced): (Vec<_>, Vec<_>) = own.partition(|address| {
        let flags = address.header.flags;
        flags.contains(AddressHeaderFlags::Permanent)
    });
    let texts = |messages: Vec<&AddressMessage>| messages.into_iter().filter_map(address).collect();
    agent::Interface {
        name: interface.name.clone(),
        hardware_address: interface.hardware_address.to_vec(),
        device: slot.device().0.to_vec(),
        mtu: interface.mtu.min(MTU),
        addresses: texts(lasting),
        announced_addresses: texts(announced),
        no_arp: interface.no_arp,
        no_prefix_routes: true,
        ..Default::default()
    }
}

/// In CIDR notation. A link-local address the guest makes by itself.
fn address(message: &AddressMessage) -> Option<String> {
    let find = |local: bool| {
        message
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                AddressAttribute::Local(address) if local => Some(*address),
                AddressAttribute::Address(address) if !local => Some(*address),
                _ => None,
            })
    };
    // On a point-to-point link the other one is the peer's.
    let address = find(true).or_else(|| find(false))?;
    let link_local = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
    (!link_local).then(|| format!("{address}/{}", message.header.prefix_len))
}

/// A route of the main table that leads through one of the interfaces.
fn route(message: &RouteMessage, names: &HashMap<u32, &str>) -> Option<agent::Route> {
    let header = &message.header;
    let mut table = u32::from(header.table);
    let mut route = agent::Route {
        scope: u32::from(u8::from(header.scope)),
        onlink: header.flags.contains(RouteFlags::Onlink),
        ipv6: header.address_family == AddressFamily::Inet6,
        announced: header.protocol == RouteProtocol::Ra,
        ..Default::default()
    };
    let mut destination = None;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Oif(index) => route.interface = (*names.get(index)?).to_owned(),
            RouteAttribute::Destination(address) => destination = Some(ip(address)?),
            RouteAttribute::Gateway(address) => route.gateway = ip(address)?.to_string(),
            RouteAttribute::PrefSource(address) => route.source = ip(address)?.to_string(),
            RouteAttribute::Priority(metric) => route.metric = *metric,
            RouteAttribute::CacheInfo(info) => route.announced |= info.expires != 0,
            RouteAttribute::Metrics(metrics) => {
                route.mtu = metrics
                    .iter()
                    .find_map(|metric| match metric {
                        RouteMetric::Mtu(mtu) => Some(*mtu),
                        _ => None,
                    })
                    .unwrap_or_default();
            }
            _ => {}
        }
    }
    if let Some(destination) = destination {
        let link_local = matches!(destination, IpAddr::V6(v6) if v6.is_unicast_link_local());
        if link_local || destination.is_multicast() {
            return None;
        }
        route.destination = format!("{destination}/{}", header.destination_prefix_length);
    }
    let wanted = table == u32::from(RouteHeader::RT_TABLE_MAIN)
        && header.kind == RouteType::Unicast
        && !route.interface.is_empty();
    wanted.then_some(route)
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some((*v4).into()),
        RouteAddress::Inet6(v6) => Some((*v6).into()),
        _ => None,
    }
}

/// A neighbour that somebody has written down; the others the guest finds by itself.
fn neighbour(message: &NeighbourMessage, names: &HashMap<u32, &str>) -> Option<agent::Neighbor> {
    let interface = names.get(&message.header.ifindex)?;
    if message.header.state != NeighbourState::Permanent {
        return None;
    }
    let mut neighbour = agent::Neighbor {
        interface: (*interface).to_owned(),
        state: u32::from(u16::from(message.header.state)),
        ..Default::default()
    };
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => {
                neighbour.address = address.to_string();
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => {
                neighbour.address = address.to_string();
            }
            NeighbourAttribute::LinkLayerAddress(bytes) => {
                neighbour.hardware_address.clone_from(bytes);
            }
            _ => {}
        }
    }
    (!neighbour.address.is_empty() && !neighbour.hardware_address.is_empty()).then_some(neighbour)
}
