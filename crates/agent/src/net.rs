//! The guest's network.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::AsRawFd;

use hull_agent_api::agent::Network;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use crate::error::AgentError;
use crate::sys::check;

mod address;
mod links;
mod netlink;
mod route;
mod wanted;

use address::Prefix;
use netlink::Netlink;
use route::{Neighbor, Route};
use wanted::{Address, Interface, Wanted};

/// What the host has said of the network, as far as it has been brought about. Interfaces are known by their indexes.
#[derive(Debug, Default)]
pub(crate) struct Configured {
    addresses: Vec<(u32, Address)>,
    routes: Vec<Route>,
    neighbors: Vec<Neighbor>,
    /// Interfaces with changes that may have made the kernel drop some of that.
    shaken: BTreeSet<u32>,
}

impl Configured {
    /// Changes what differs from what was said before. What containers have changed by themselves stays.
    pub(crate) fn bring_to(&mut self, network: &Network) -> Result<(), AgentError> {
        let wanted = Wanted::parse(network)?;
        if wanted.is_empty() && self.addresses.is_empty() && self.routes.is_empty() {
            return Ok(());
        }
        let mut netlink =
            Netlink::open().map_err(AgentError::io("talk to the kernel's network"))?;
        self.change_links(&mut netlink, &wanted)?;
        // Indexes are looked up once the names are right.
        let links = netlink
            .links()
            .map_err(AgentError::io("list the interfaces"))?;
        for interface in &wanted.interfaces {
            let index = links::index_of(&links, &interface.name)?;
            self.change_addresses(&mut netlink, index, interface)?;
        }
        self.change_routes(&mut netlink, wanted.routes(&links)?)?;
        self.change_neighbors(&mut netlink, wanted.neighbors(&links)?)?;
        self.shaken.clear();
        Ok(())
    }

    fn change_links(&mut self, netlink: &mut Netlink, wanted: &Wanted) -> Result<(), AgentError> {
        let links = netlink
            .links()
            .map_err(AgentError::io("list the interfaces"))?;
        for change in links::changes(&links, wanted)? {
            if change.down {
                self.shaken.insert(change.index);
            }
            let failed = AgentError::io(format!("change the interface {}", change.name));
            change.make(netlink).map_err(failed)?;
            if change.spare {
                self.strip(netlink, change.index)?;
            }
        }
        Ok(())
    }

    /// Takes everything from an interface that is down, whoever gave it.
    fn strip(&mut self, netlink: &mut Netlink, index: u32) -> Result<(), AgentError> {
        let failed = || AgentError::io("take the addresses from a spare interface");
        for address in netlink.addresses(index).map_err(failed())? {
            gone_is_well(netlink.remove_address(index, &address)).map_err(failed())?;
        }
        self.addresses.retain(|(owner, _)| *owner != index);
        // The kernel has dropped them with the interface's state.
        self.routes.retain(|route| route.interface != Some(index));
        self.neighbors
            .retain(|neighbor| neighbor.interface != index);
        Ok(())
    }

    fn change_addresses(
        &mut self,
        netlink: &mut Netlink,
        index: u32,
        interface: &Interface,
    ) -> Result<(), AgentError> {
        let name = &interface.name;
        let add = |netlink: &mut Netlink, address: &Address| {
            let added = netlink.add_address(index, &address.prefix, interface.no_prefix_routes);
            let prefix = address.prefix;
            added.map_err(AgentError::io(format!("give {prefix} to interface {name}")))
        };
        // New ones first: with an interface's last address its routes go.
        for address in &interface.addresses {
            let held = (index, *address);
            if !self.addresses.contains(&held) {
                add(netlink, address)?;
                self.addresses.push(held);
            }
        }
        let is_old = |(owner, address): &(u32, Address)| {
            *owner == index && !interface.addresses.contains(address)
        };
        while let Some(at) = self.addresses.iter().position(is_old) {
            let (_, Address { prefix, announced }) = self.addresses[at];
            let wanted_otherwise = interface.addresses.iter().any(|new| new.prefix == prefix);
            if !announced && !wanted_otherwise {
                self.shaken.insert(index);
                gone_is_well(netlink.remove_address(index, &prefix)).map_err(AgentError::io(
                    format!("take {prefix} from interface {name}"),
                ))?;
            }
            self.addresses.swap_remove(at);
        }
        if self.shaken.contains(&index) {
            let failed = AgentError::io(format!("look at interface {name}"));
            let there: Vec<Prefix> = netlink.addresses(index).map_err(failed)?;
            for address in &interface.addresses {
                if !there.contains(&address.prefix) {
                    add(netlink, address)?;
                }
            }
        }
        Ok(())
    }

    fn change_routes(
        &mut self,
        netlink: &mut Netlink,
        wanted: Vec<Route>,
    ) -> Result<(), AgentError> {
        while let Some(at) = self.routes.iter().position(|old| !wanted.contains(old)) {
            let old = &self.routes[at];
            if !old.announced {
                let failed = AgentError::io(format!("remove the route {}", old.destination));
                gone_is_well(netlink.call(old.removal())).map_err(failed)?;
            }
            self.routes.swap_remove(at);
        }
        // Gateways are reached by the routes without one.
        let (direct, via): (Vec<_>, Vec<_>) = wanted
            .into_iter()
            .partition(|route| route.gateway.is_none());
        for route in direct.into_iter().chain(via) {
            let held = self.routes.contains(&route);
            let shaken = route
                .interface
                .is_none_or(|index| self.shaken.contains(&index));
            if !held || shaken {
                let failed = AgentError::io(format!("add the route {}", route.destination));
                there_is_well(netlink.call(route.addition())).map_err(failed)?;
            }
            if !held {
                self.routes.push(route);
            }
        }
        Ok(())
    }

    fn change_neighbors(
        &mut self,
        netlink: &mut Netlink,
        wanted: Vec<Neighbor>,
    ) -> Result<(), AgentError> {
        while let Some(at) = self.neighbors.iter().position(|old| !wanted.contains(old)) {
            let old = &self.neighbors[at];
            let failed = AgentError::io(format!("remove the neighbour {}", old.address));
            gone_is_well(netlink.call(old.removal())).map_err(failed)?;
            self.neighbors.swap_remove(at);
        }
        for neighbor in wanted {
            let held = self.neighbors.contains(&neighbor);
            if !held || self.shaken.contains(&neighbor.interface) {
                let failed = AgentError::io(format!("add the neighbour {}", neighbor.address));
                netlink.call(neighbor.addition()).map_err(failed)?;
            }
            if !held {
                self.neighbors.push(neighbor);
            }
        }
        Ok(())
    }
}

/// What is to be removed may be gone: by the kernel, with what it hung on, or by a container.
fn gone_is_well(removed: io::Result<()>) -> io::Result<()> {
    const GONE: [i32; 4] = [libc::ESRCH, libc::ENOENT, libc::ENODEV, libc::EADDRNOTAVAIL];
    match removed {
        Err(error)
            if error
                .raw_os_error()
                .is_some_and(|number| GONE.contains(&number)) =>
        {
            Ok(())
        }
        removed => removed,
    }
}

/// What is to be added may be there: the kernel made it with an address.
fn there_is_well(added: io::Result<()>) -> io::Result<()> {
    match added {
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        added => added,
    }
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
    use hull_agent_api::agent;

    use super::*;

    #[test]
    fn bad_networks_are_refused_before_anything_is_done() {
        let mut network = Network::new();
        let mut route = agent::Route::new();
        route.destination = "nonsense".to_owned();
        network.routes.push(route);
        let mut configured = Configured::default();
        assert!(matches!(
            configured.bring_to(&network),
            Err(AgentError::Invalid { .. })
        ));
        assert!(configured.bring_to(&Network::new()).is_ok());
    }
}
