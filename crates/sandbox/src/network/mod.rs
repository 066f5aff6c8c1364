//! The pod's network, and what the guest gets of it.

mod dns;
mod enter;
mod filter;
mod host;
mod link;
mod namespace;
mod nowhere;
mod passt;
mod tap;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use hull_agent_api::agent;
use hull_vm::process::{Process, ProcessRecord};
use hull_vm::{Device, MacAddress, NetDevices, VmError};
use serde::{Deserialize, Serialize};

use crate::config::{NetworkConfig, PublishedPort};
use link::HostEnd;
use namespace::{NamespaceNetwork, NamespaceRecord};
use passt::Passt;

pub use dns::Dns;
pub(crate) use dns::on_loopback;
pub(crate) use namespace::dialled_port;
pub use namespace::{Follower, Loopback};
pub(crate) use nowhere::leading_nowhere;

/// What the guest calls its interface.
const INTERFACE: &str = "eth0";
/// Every pod is alone on its link, so all have the same addresses. What the pod talks to is dialled by
/// the host, so these hide nothing but the same addresses on the host's side, and are rare ones.
const GUEST_MAC: MacAddress = MacAddress([0x02, 0x48, 0x75, 0x6c, 0x6c, 0x02]);
const GATEWAY_MAC: MacAddress = MacAddress([0x02, 0x48, 0x75, 0x6c, 0x6c, 0x01]);
const GUEST_V4: Ipv4Addr = Ipv4Addr::new(10, 72, 85, 2);
const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(10, 72, 85, 1);
/// Queries sent here reach the host's own resolver.
const RESOLVER_V4: Ipv4Addr = Ipv4Addr::new(10, 72, 85, 3);
const PREFIX_V4: u8 = 29;
const GUEST_V6: Ipv6Addr = Ipv6Addr::new(0xfd48, 0x756c, 0x6c00, 0, 0, 0, 0, 2);
const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
const PREFIX_V6: u8 = 64;
/// Largest packet, bytes: what fits into an Ethernet frame of 64 KiB, rounded to words of 32 bits.
const MTU: u32 = 65520;

/// The other end of every TCP connection is passt, on this very host, so windows need not grow for a
/// long way. When they do, Debian 12's passt sends much of the data more than once, and is many times
/// slower; seen with a guest whose instructions are translated.
const NAT_SYSCTLS: [(&str, &str); 1] = [("net.ipv4.tcp_rmem", "4096 131072 262144")];

/// Why the network could not be prepared.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// A helper process is missing or could not be started.
    #[error(transparent)]
    Helper(#[from] VmError),
    /// A file or socket operation of the host failed.
    #[error("cannot {action}")]
    Host {
        /// What was tried, and on what.
        action: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The kernel refused a change of a network namespace.
    #[error("cannot {action}")]
    Netlink {
        /// What was tried, and on what.
        action: String,
        /// Why it failed.
        source: rtnetlink::Error,
    },
    /// An interface of the engine's namespace that a guest cannot have.
    #[error("the interface {name} cannot be the pod's: it {problem}")]
    Interface {
        /// Its name.
        name: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The engine's namespace has more interfaces than a virtual machine.
    #[error(
        "the network namespace has {interfaces} interfaces, and the virtual machine room for {room}"
    )]
    TooMany {
        /// How many the namespace has.
        interfaces: usize,
        /// How many the virtual machine can have.
        room: usize,
    },
    /// passt did not take the network up.
    #[error("cannot connect the pod with the host's network: {0}")]
    Passt(String),
}

impl NetworkError {
    fn host(action: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let action = action.into();
        move |source| Self::Host { action, source }
    }
}

/// For `map_err` on netlink calls: `action` completes "cannot …".
fn netlink(action: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> NetworkError {
    let action = action.into();
    move |source| NetworkError::Netlink { action, source }
}

/// A guest's interfaces, as a [`VmConfig`](hull_vm::VmConfig) has them.
#[derive(Debug, Default)]
pub struct Interfaces {
    /// One for each.
    pub devices: Vec<Device>,
    /// The namespace for the VMM.
    pub namespace: Option<OwnedFd>,
}

/// A network to be: the guest has its interfaces already, so that it can boot meanwhile.
#[derive(Debug)]
pub struct PendingNetwork(Pending);

#[derive(Debug)]
enum Pending {
    /// None, or one that is ready.
    Ready(PodNetwork),
    /// What leads out, and the other end of the guest's link.
    Nat(Vec<PublishedPort>, HostEnd),
}

/// The pod's network.
#[derive(Debug)]
pub struct PodNetwork(Kind);

#[derive(Debug)]
enum Kind {
    None,
    Nat(Nat),
    Namespace(NamespaceNetwork),
}

/// A network that `passt` carries, as far as the filter lets it.
#[derive(Debug)]
struct Nat {
    passt: Passt,
    filter: Process,
    settings: NatSettings,
}

/// What the guest is told, which holds for the pod's life.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct NatSettings {
    ipv6: bool,
}

/// What a network leaves in the state file.
#[derive(Debug, Serialize, Deserialize)]
pub struct NetworkRecord(KindRecord);

#[derive(Debug, Serialize, Deserialize)]
enum KindRecord {
    None,
    Nat(NatRecord),
    Namespace(NamespaceRecord),
}

#[derive(Debug, Serialize, Deserialize)]
struct NatRecord {
    passt: ProcessRecord,
    filter: ProcessRecord,
    settings: NatSettings,
}

/// Where the programs of a pod with a network will resolve names: for whoever writes a container's
/// `/etc/resolv.conf` before its pod is up.
///
/// # Errors
/// When the host's tables cannot be read.
pub fn host_dns() -> Result<Dns, NetworkError> {
    Dns::of_host(host::ipv6_uplink()?.is_some())
}

impl PendingNetwork {
    /// Makes the guest's interfaces, which may lead nowhere yet, and their devices for the virtual
    /// machine, which has `room` for so many and whose VMM knows such devices.
    ///
    /// # Errors
    /// When there are no more descriptors, there is no tap device to be had, or the engine's namespace cannot be used.
    pub async fn new(
        config: &NetworkConfig,
        room: usize,
        known: NetDevices,
    ) -> Result<(Self, Interfaces), NetworkError> {
        match config {
            NetworkConfig::None => Ok((Self::ready(Kind::None), Interfaces::default())),
            NetworkConfig::Nat { publish } => {
                let link = link::make(known).await?;
                let pending = Pending::Nat(publish.clone(), link.host_end);
                let interfaces = Interfaces {
                    devices: vec![link.device],
                    namespace: link.namespace,
                };
                Ok((Self(pending), interfaces))
            }
            NetworkConfig::Namespace {
                path,
                spare_interfaces,
            } => {
                let spares = usize::try_from(*spare_interfaces).unwrap_or(usize::MAX);
                let (network, devices) = NamespaceNetwork::adopt(path, spares, room).await?;
                // Another VMM has no business in the engine's.
                let namespace = match known {
                    NetDevices::NamedTap => Some(network.namespace()?),
                    NetDevices::Stream | NetDevices::Tap => None,
                };
                let interfaces = Interfaces { devices, namespace };
                Ok((Self::ready(Kind::Namespace(network)), interfaces))
            }
        }
    }

    fn ready(kind: Kind) -> Self {
        Self(Pending::Ready(PodNetwork(kind)))
    }

    /// Connects the interfaces with the host's network. Published ports are open when this returns.
    /// Logs go to `run_dir`.
    ///
    /// # Errors
    /// When passt is missing, or cannot do what was asked of it (a published port is in use, say).
    pub async fn connect(self, run_dir: &Path) -> Result<PodNetwork, NetworkError> {
        let (publish, link) = match self.0 {
            Pending::Ready(network) => return Ok(network),
            Pending::Nat(publish, link) => (publish, link),
        };
        let uplink = host::ipv6_uplink()?;
        let settings = NatSettings {
            ipv6: uplink.is_some(),
        };
        let dns = Dns::of_host(settings.ipv6)?;
        let (passt, outside) = Passt::start(&publish, uplink.as_deref(), &dns, run_dir).await?;
        // Without the filter nobody holds the other end, and passt ends.
        let filter = filter::start(link, outside, settings.ipv6, run_dir)?;
        Ok(PodNetwork(Kind::Nat(Nat {
            passt,
            filter,
            settings,
        })))
    }
}

impl PodNetwork {
    /// What the guest configures.
    #[must_use]
    pub fn guest(&self) -> agent::Network {
        match &self.0 {
            Kind::None => agent::Network::default(),
            Kind::Nat(nat) => nat.settings.guest(),
            Kind::Namespace(namespace) => namespace.guest(),
        }
    }

    /// Once: what connects the loopback of the engine's namespace with somebody, if there is one.
    #[must_use]
    pub fn take_loopback(&self) -> Option<Loopback> {
        match &self.0 {
            Kind::Namespace(namespace) => namespace.take_loopback(),
            Kind::None | Kind::Nat(_) => None,
        }
    }

    /// Once: what follows the changes of the engine's namespace, if there is one.
    #[must_use]
    pub fn take_follower(&self) -> Option<Box<Follower>> {
        match &self.0 {
            Kind::Namespace(namespace) => namespace.take_follower(),
            Kind::None | Kind::Nat(_) => None,
        }
    }

    /// Those of `wanted`, addresses of the loopback, at which a name server may listen that only the host reaches.
    ///
    /// # Errors
    /// When the engine's namespace cannot be looked at.
    pub async fn name_servers(&self, wanted: Vec<Ipv4Addr>) -> Result<Vec<Ipv4Addr>, NetworkError> {
        match &self.0 {
            Kind::Namespace(namespace) if !wanted.is_empty() => {
                namespace.name_servers(wanted).await
            }
            Kind::Namespace(_) | Kind::None | Kind::Nat(_) => Ok(Vec::new()),
        }
    }

    /// Lets such name servers have the answers of others that they ask. To be repeated when the network has changed.
    ///
    /// # Errors
    /// When the kernel cannot.
    pub async fn let_answers_in(&self) -> Result<(), NetworkError> {
        match &self.0 {
            Kind::Namespace(namespace) => namespace.let_answers_in().await,
            Kind::None | Kind::Nat(_) => Ok(()),
        }
    }

    /// Carries the guest's questions to such a name server, until the guest closes.
    ///
    /// # Errors
    /// When the namespace cannot be entered, or what the guest sends are no questions.
    pub async fn carry_names(
        &self,
        server: Ipv4Addr,
        guest: UnixStream,
    ) -> Result<(), NetworkError> {
        match &self.0 {
            Kind::Namespace(namespace) => namespace.carry_names(server, guest).await,
            Kind::None | Kind::Nat(_) => Ok(()),
        }
    }

    /// Kernel parameters for the guest, names and values.
    #[must_use]
    pub fn sysctls(&self) -> HashMap<String, String> {
        let sysctls: &[(&str, &str)] = match &self.0 {
            Kind::Nat(_) => &NAT_SYSCTLS,
            Kind::None | Kind::Namespace(_) => &[],
        };
        sysctls
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    /// For the state file.
    #[must_use]
    pub fn record(&self) -> NetworkRecord {
        NetworkRecord(match &self.0 {
            Kind::None => KindRecord::None,
            Kind::Nat(nat) => KindRecord::Nat(NatRecord {
                passt: nat.passt.record(),
                filter: nat.filter.record(),
                settings: nat.settings.clone(),
            }),
            Kind::Namespace(namespace) => KindRecord::Namespace(namespace.record()),
        })
    }

    /// Takes over the network of a pod process that is gone. Its devices are the VMM's already.
    ///
    /// # Errors
    /// When a helper has ended.
    pub async fn attach(record: &NetworkRecord) -> Result<Self, NetworkError> {
        Ok(Self(match &record.0 {
            KindRecord::None => Kind::None,
            KindRecord::Nat(nat) => Kind::Nat(Nat {
                passt: Passt::attach(nat.passt)?,
                filter: Process::attach(nat.filter, filter::PROGRAM)?,
                settings: nat.settings.clone(),
            }),
            KindRecord::Namespace(record) => {
                Kind::Namespace(NamespaceNetwork::attach(record).await)
            }
        }))
    }

    /// Completes when a helper has ended, with the cause. Never without one.
    pub async fn wait(&self) -> String {
        match &self.0 {
            Kind::Nat(nat) => tokio::select! {
                cause = nat.passt.wait() => cause,
                cause = end_of(&nat.filter) => cause,
            },
            Kind::None | Kind::Namespace(_) => std::future::pending().await,
        }
    }

    /// Ends the helpers and takes away what was made.
    pub async fn stop(&self) {
        if let Kind::Nat(nat) = &self.0 {
            nat.filter.kill().await;
            nat.passt.kill().await;
        }
        self.record().release().await;
    }
}

impl NetworkRecord {
    /// The helpers.
    #[must_use]
    pub fn processes(&self) -> Vec<ProcessRecord> {
        match &self.0 {
            KindRecord::Nat(nat) => vec![nat.filter, nat.passt],
            KindRecord::None | KindRecord::Namespace(_) => Vec::new(),
        }
    }

    /// Takes away what outlives all processes of the pod.
    pub async fn release(&self) {
        if let KindRecord::Namespace(namespace) = &self.0 {
            namespace.release().await;
        }
    }
}

/// Completes when a helper has ended, with the cause.
async fn end_of(helper: &Process) -> String {
    let status = helper.wait().await;
    let how = status.map_or_else(|| "ended".to_owned(), |status| status.to_string());
    let program = helper.program();
    // The last line tells why; the ones before it are of no interest.
    match helper.log_tail().lines().last() {
        Some(reason) => format!("{program} is gone ({how}): {reason}"),
        None => format!("{program} is gone ({how})"),
    }
}

impl NatSettings {
    fn guest(&self) -> agent::Network {
        let mut addresses = vec![format!("{GUEST_V4}/{PREFIX_V4}")];
        let mut routes = vec![default_route(GATEWAY_V4.into())];
        if self.ipv6 {
            addresses.push(format!("{GUEST_V6}/{PREFIX_V6}"));
            routes.push(default_route(GATEWAY_V6.into()));
        }
        agent::Network {
            interfaces: vec![agent::Interface {
                name: INTERFACE.to_owned(),
                hardware_address: GUEST_MAC.0.to_vec(),
                mtu: MTU,
                addresses,
                ..Default::default()
            }],
            routes,
            ..Default::default()
        }
    }
}

fn default_route(gateway: IpAddr) -> agent::Route {
    agent::Route {
        gateway: gateway.to_string(),
        interface: INTERFACE.to_owned(),
        ipv6: gateway.is_ipv6(),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest(ipv6: bool) -> agent::Network {
        NatSettings { ipv6 }.guest()
    }

    #[test]
    fn the_guest_has_ipv6_only_where_the_host_has() {
        let without = guest(false);
        assert_eq!(without.interfaces[0].addresses, ["10.72.85.2/29"]);
        assert_eq!(without.routes.len(), 1);
        let with = guest(true);
        assert_eq!(with.interfaces[0].addresses[1], "fd48:756c:6c00::2/64");
        assert_eq!(with.routes[1].gateway, "fe80::1");
        assert!(with.routes[1].ipv6);
    }

    #[test]
    fn gateway_and_resolver_are_on_the_guests_link() {
        let network = |address: Ipv4Addr| u32::from(address) >> (32 - PREFIX_V4);
        for neighbour in [GATEWAY_V4, RESOLVER_V4] {
            assert_eq!(network(neighbour), network(GUEST_V4));
            assert_ne!(neighbour, GUEST_V4);
        }
    }

    #[tokio::test]
    async fn no_network_needs_no_helper() {
        let made = PendingNetwork::new(&NetworkConfig::None, 1, NetDevices::Tap).await;
        let (pending, interfaces) = made.unwrap();
        assert!(interfaces.devices.is_empty());
        let network = pending.connect(Path::new("/nonexistent")).await.unwrap();
        assert!(network.guest().interfaces.is_empty());
        assert!(network.sysctls().is_empty());
        let taken_over = PodNetwork::attach(&network.record()).await.unwrap();
        taken_over.stop().await;
    }
}
