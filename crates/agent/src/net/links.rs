//! Which links have to change for the guest to have the interfaces that the host says.

use std::io;

use super::netlink::{self, Link, Netlink};
use super::wanted::{Interface, Wanted};
use crate::error::AgentError;

/// What a spare device is called, before a number.
const SPARE: &str = "spare";

/// A change of one link.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) index: u32,
    /// What it is called afterwards.
    pub(super) name: String,
    /// It leads nowhere from now on.
    pub(super) spare: bool,
    /// It is taken down first, and stays so unless it comes up.
    pub(super) down: bool,
    /// It comes up, and whether it needs no ARP then.
    up: Option<bool>,
    rename: bool,
    hardware_address: Option<Vec<u8>>,
    mtu: Option<u32>,
}

impl Change {
    pub(super) fn make(&self, netlink: &mut Netlink) -> io::Result<()> {
        let mut attributes = Vec::new();
        if let Some(address) = &self.hardware_address {
            attributes.push((netlink::HARDWARE, address.clone()));
        }
        if let Some(mtu) = self.mtu {
            attributes.push((netlink::MTU, mtu.to_ne_bytes().to_vec()));
        }
        if self.rename {
            let mut name = self.name.as_bytes().to_vec();
            name.push(0);
            attributes.push((netlink::NAME, name));
        }
        if self.down {
            netlink.set_link(self.index, netlink::Down, &[])?;
        }
        match self.up {
            Some(no_arp) => netlink.set_link(self.index, netlink::Up { no_arp }, &attributes),
            None => netlink.set_link(self.index, netlink::Down, &attributes),
        }
    }

    /// To a device that leads nowhere.
    fn to_spare(link: &Link, name: String) -> Option<Self> {
        let change = Self {
            index: link.index,
            rename: link.name != name,
            name,
            spare: true,
            down: link.up,
            up: None,
            hardware_address: (link.hardware_address != link.device).then(|| link.device.clone()),
            mtu: None,
        };
        let changes = change.rename || change.down || change.hardware_address.is_some();
        changes.then_some(change)
    }

    fn to_interface(link: &Link, wanted: &Interface) -> Option<Self> {
        let rename = link.name != wanted.name;
        let hardware_address = (link.hardware_address != wanted.hardware_address)
            .then(|| wanted.hardware_address.clone());
        let mtu = Some(wanted.mtu).filter(|mtu| *mtu != 0 && *mtu != link.mtu);
        let comes_up = !link.up || link.no_arp != wanted.no_arp;
        // A link-local address is made from the hardware address when it comes up.
        let down = link.up && (rename || hardware_address.is_some());
        let changes = comes_up || down || mtu.is_some();
        changes.then(|| Self {
            index: link.index,
            name: wanted.name.clone(),
            spare: false,
            down,
            up: Some(wanted.no_arp),
            rename,
            hardware_address,
            mtu,
        })
    }
}

/// The changes, in their order: names are given up before others get them.
pub(super) fn changes(links: &[Link], wanted: &Wanted) -> Result<Vec<Change>, AgentError> {
    let mut links = links.to_vec();
    let mut changes = Vec::new();
    let is_wanted = |name: &str| wanted.interfaces.iter().any(|other| other.name == name);
    for device in &wanted.spare_devices {
        let at = position(&links, device, SPARE)?;
        let name = match links[at].name.starts_with(SPARE) && !is_wanted(&links[at].name) {
            true => links[at].name.clone(),
            false => spare_name(&links, wanted),
        };
        changes.extend(Change::to_spare(&links[at], name.clone()));
        links[at].name = name;
    }
    for interface in &wanted.interfaces {
        let at = position(&links, &interface.device, &interface.name)?;
        let (own, others) = (&links[at].name, is_wanted(&links[at].name));
        if *own != interface.name && others {
            let name = spare_name(&links, wanted);
            let change = Change::to_spare(&links[at], name.clone());
            // Its addresses stay.
            changes.extend(change.map(|change| Change {
                spare: false,
                ..change
            }));
            let device = links[at].device.clone();
            links[at] = Link {
                name,
                up: false,
                hardware_address: device,
                ..links[at].clone()
            };
        }
    }
    for interface in &wanted.interfaces {
        let at = position(&links, &interface.device, &interface.name)?;
        changes.extend(Change::to_interface(&links[at], interface));
    }
    Ok(changes)
}

pub(super) fn index_of(links: &[Link], name: &str) -> Result<u32, AgentError> {
    let link = links.iter().find(|link| link.name == name);
    link.map(|link| link.index)
        .ok_or_else(|| AgentError::NotFound {
            kind: "interface",
            id: name.to_owned(),
        })
}

fn position(links: &[Link], device: &[u8], name: &str) -> Result<usize, AgentError> {
    let at = links.iter().position(|link| link.device == device);
    at.ok_or_else(|| AgentError::NotFound {
        kind: "interface",
        id: format!("{name} ({device:02x?})"),
    })
}

/// One that nobody has or wants.
fn spare_name(links: &[Link], wanted: &Wanted) -> String {
    let is_taken = |name: &str| {
        links.iter().any(|link| link.name == name)
            || wanted.interfaces.iter().any(|other| other.name == name)
    };
    let mut names = (0_u32..).map(|number| format!("{SPARE}{number}"));
    names
        .find(|name| !is_taken(name))
        .expect("fewer links than numbers")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u8, name: &str, up: bool) -> Link {
        Link {
            index: index.into(),
            name: name.to_owned(),
            hardware_address: vec![index],
            device: vec![index],
            mtu: 1500,
            up,
            no_arp: false,
        }
    }

    fn interface(device: u8, name: &str) -> Interface {
        Interface {
            name: name.to_owned(),
            device: vec![device],
            hardware_address: vec![device],
            mtu: 1500,
            no_arp: false,
            no_prefix_routes: true,
            addresses: Vec::new(),
        }
    }

    fn wanted(interfaces: Vec<Interface>, spares: &[u8]) -> Wanted {
        Wanted {
            interfaces,
            spare_devices: spares.iter().map(|device| vec![*device]).collect(),
            ..Default::default()
        }
    }

    /// Makes the changes as the kernel does, which refuses a name that somebody has, and a new one to what is up.
    fn apply(links: &mut [Link], wanted: &Wanted) {
        for change in changes(links, wanted).unwrap() {
            let taken = links
                .iter()
                .any(|link| link.name == change.name && link.index != change.index);
            assert!(!taken, "{change:?}");
            let mut own = links.iter_mut().filter(|link| link.index == change.index);
            let link = own.next().unwrap();
            link.up &= !change.down;
            assert!(!(link.up && change.rename), "{change:?}");
            link.name = change.name;
            link.mtu = change.mtu.unwrap_or(link.mtu);
            let address = change.hardware_address.clone();
            link.hardware_address = address.unwrap_or(link.hardware_address.clone());
            link.up |= change.up.is_some();
        }
        assert_eq!(changes(links, wanted).unwrap(), []);
    }

    fn names(links: &[Link]) -> Vec<(&str, bool)> {
        links
            .iter()
            .map(|link| (link.name.as_str(), link.up))
            .collect()
    }

    #[test]
    fn spare_devices_give_their_names_up_first() {
        let mut links = [link(1, "eth0", false), link(2, "eth1", false)];
        apply(&mut links, &wanted(vec![interface(2, "eth0")], &[1]));
        assert_eq!(names(&links), [("spare0", false), ("eth0", true)]);
    }

    #[test]
    fn names_are_exchanged() {
        let mut links = [link(1, "eth0", true), link(2, "eth1", true)];
        let swapped = vec![interface(1, "eth1"), interface(2, "eth0")];
        apply(&mut links, &wanted(swapped, &[]));
        assert_eq!(names(&links), [("eth1", true), ("eth0", true)]);
    }

    #[test]
    fn a_spare_device_becomes_an_interface_and_spare_again() {
        let mut links = [link(1, "eth0", true), link(2, "spare0", false)];
        let mut added = interface(2, "net1");
        added.hardware_address = vec![7];
        added.mtu = 1400;
        let both = wanted(vec![interface(1, "eth0"), added], &[]);
        let all = changes(&links, &both).unwrap();
        assert!(all.iter().all(|change| change.index == 2), "{all:?}");
        apply(&mut links, &both);
        assert_eq!(names(&links), [("eth0", true), ("net1", true)]);
        assert_eq!((&links[1].hardware_address, links[1].mtu), (&vec![7], 1400));
        apply(&mut links, &wanted(vec![interface(1, "eth0")], &[2]));
        assert_eq!(names(&links), [("eth0", true), ("spare0", false)]);
        assert_eq!(links[1].hardware_address, [2]);
    }

    #[test]
    fn an_interface_may_be_called_spare() {
        let mut links = [link(1, "spare0", false), link(2, "eth1", false)];
        apply(&mut links, &wanted(vec![interface(2, "spare0")], &[1]));
        assert_eq!(names(&links), [("spare1", false), ("spare0", true)]);
    }

    #[test]
    fn a_new_mtu_takes_nothing_down() {
        let links = [link(1, "eth0", true)];
        let mut larger = interface(1, "eth0");
        larger.mtu = 9000;
        let all = changes(&links, &wanted(vec![larger], &[])).unwrap();
        assert_eq!(all.len(), 1);
        assert!(!all[0].down && all[0].mtu == Some(9000), "{all:?}");
    }

    #[test]
    fn a_device_that_is_not_there_is_an_error() {
        let links = [link(1, "eth0", true)];
        assert!(changes(&links, &wanted(vec![interface(2, "eth1")], &[])).is_err());
        assert!(changes(&links, &wanted(vec![], &[3])).is_err());
    }
}
