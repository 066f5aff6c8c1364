//! A network namespace that an engine has made and filled (CNI, netavark): the guest takes the place of
//! its interfaces.
//!
//! Each interface gets a tap device beside it, and the traffic control of the kernel sends every frame
//! that comes in at one out at the other. So the guest has the interface's hardware address, its IP
//! addresses, routes and static neighbours, and everybody outside talks to it as if it were a process in
//! the namespace. Nothing is changed but for these redirections, which [`NamespaceNetwork::release`]
//! takes away; the taps vanish with the VMM.
//!
//! A virtual machine gets no devices after its start. So it has spare ones, whose taps lead nowhere, and the
//! [`Follower`] lets one serve an interface that appears later. All devices are alike: one whose interface has
//! vanished is a spare, too.

mod answers;
mod bpf;
mod changes;
mod follower;
mod loopback;
mod names;
mod nat;
mod redirect;
mod scan;
mod slots;

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use hull_agent_api::agent;
use hull_vm::Device;
use serde::{Deserialize, Serialize};

use super::enter::{inside, within};
use super::{MTU, NetworkError, netlink, tap};
use changes::Changes;
use slots::{Slot, assign};

pub use follower::Follower;
pub use loopback::Loopback;
pub(crate) use loopback::dialled_port;

/// The namespace, as the guest's.
#[derive(Debug)]
pub(super) struct NamespaceNetwork {
    path: PathBuf,
    /// The same, while it can be entered.
    namespace: Option<File>,
    slots: Arc<Mutex<Vec<Slot>>>,
    guest: agent::Network,
    follower: Mutex<Option<Box<Follower>>>,
    loopback: Mutex<Option<Loopback>>,
}

/// What is needed to let go of it, or to go on with it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct NamespaceRecord {
    path: PathBuf,
    slots: Vec<Slot>,
}

impl NamespaceNetwork {
    /// Connects all interfaces of the namespace with devices for a virtual machine that has `room` for so many, and
    /// makes spare ones as far as there is room.
    ///
    /// # Errors
    /// When it cannot be entered, or has an interface that a guest cannot have.
    pub(super) async fn adopt(
        path: &Path,
        spares: usize,
        room: usize,
    ) -> Result<(Self, Vec<Device>), NetworkError> {
        let namespace = open(path)?;
        let entered = again(&namespace)?;
        let adopted = inside(entered, move |handle| async move {
            let changes = Changes::subscribe().map_err(NetworkError::host("follow the network"))?;
            let mut scan = scan::scan(&handle, &[]).await?;
            let interfaces = scan.links();
            if let Some((_, problem)) = scan.refused.pop() {
                return Err(problem);
            }
            if interfaces.len() > room {
                return Err(NetworkError::TooMany {
                    interfaces: interfaces.len(),
                    room,
                });
            }
            // Whoever starts with an empty one adds its first interface later.
            let first = usize::from(interfaces.is_empty());
            let (mut slots, mut taps) = (Vec::new(), Vec::new());
            for (number, _) in (0..=u8::MAX).zip(0..(interfaces.len() + first + spares).min(room)) {
                let (index, tap) = tap::make(&handle).await?;
                slots.push(Slot::new(number, index));
                taps.push(tap);
            }
            let (moves, _) = assign(&mut slots, &interfaces);
            for change in moves {
                redirect::make(&handle, &change).await?;
            }
            let guest = scan.guest(&slots);
            Ok((guest, slots, taps, changes, Loopback::take()))
        });
        let (guest, slots, taps, changes, loopback) = adopted.await?;
        let devices = slots.iter().zip(taps).map(|(slot, tap)| Device::Net {
            tap,
            vhost: vhost_net(),
            mac: slot.device(),
            mtu: MTU,
            offload: true,
        });
        let devices = devices.collect();
        let loopback = loopback.inspect_err(|error| {
            tracing::warn!(%error, "the pod's ports cannot be forwarded: this kernel cannot redirect its loopback");
        });
        let slots = Arc::new(Mutex::new(slots));
        let told = Some(guest.clone());
        let followed = again(&namespace)?;
        let follower = Follower::new(followed, changes, Arc::clone(&slots), told);
        let follower = follower.map_err(NetworkError::host("follow the network"))?;
        let network = Self {
            path: path.to_owned(),
            namespace: Some(namespace),
            slots,
            guest,
            follower: Mutex::new(Some(follower)),
            loopback: Mutex::new(loopback.ok()),
        };
        Ok((network, devices))
    }

    /// Takes over what another process has adopted.
    pub(super) async fn attach(record: &NamespaceRecord) -> Self {
        let slots = Arc::new(Mutex::new(record.slots.clone()));
        let follower = follow(&record.path, Arc::clone(&slots)).await;
        let follower = follower.inspect_err(|error| {
            tracing::warn!(%error, "changes of the pod's network are not followed");
        });
        Self {
            path: record.path.clone(),
            namespace: open(&record.path).ok(),
            slots,
            guest: agent::Network::default(),
            follower: Mutex::new(follower.ok()),
            loopback: Mutex::default(),
        }
    }

    /// Once: what follows the namespace's changes.
    pub(super) fn take_follower(&self) -> Option<Box<Follower>> {
        let mut follower = self.follower.lock().expect("no holder of this lock panics");
        follower.take()
    }

    /// Once: what connects the namespace's loopback with somebody.
    pub(super) fn take_loopback(&self) -> Option<Loopback> {
        let mut loopback = self.loopback.lock().expect("no holder of this lock panics");
        loopback.take()
    }

    /// Those of `wanted`, addresses of the namespace's loopback, at which a name server may listen. None where the
    /// namespace is this process's own: that is the machine's.
    pub(super) async fn name_servers(
        &self,
        wanted: Vec<Ipv4Addr>,
    ) -> Result<Vec<Ipv4Addr>, NetworkError> {
        let Some(namespace) = &self.namespace else {
            return Ok(Vec::new());
        };
        let is_another = names::is_another(namespace);
        if !is_another.map_err(NetworkError::host("look at the network namespace"))? {
            return Ok(Vec::new());
        }
        within(again(namespace)?, || async move { names::served(&wanted) }).await
    }

    /// Lets such servers in the namespace have the answers of others, at the interfaces that there are now.
    pub(super) async fn let_answers_in(&self) -> Result<(), NetworkError> {
        let Some(namespace) = &self.namespace else {
            return Ok(());
        };
        let slots = self.record().slots;
        let let_in = |handle| async move {
            for slot in &slots {
                answers::let_in(&handle, slot).await?;
            }
            Ok(())
        };
        inside(again(namespace)?, let_in).await
    }

    /// Carries the guest's questions to a name server of the namespace, until the guest closes.
    pub(super) async fn carry_names(
        &self,
        server: Ipv4Addr,
        guest: UnixStream,
    ) -> Result<(), NetworkError> {
        let Some(namespace) = &self.namespace else {
            return Ok(());
        };
        let carry = move || async move {
            let guest = tokio::net::UnixStream::from_std(guest)
                .map_err(NetworkError::host("watch a connection"))?;
            names::carry(guest, server).await
        };
        within(again(namespace)?, carry).await
    }

    /// The namespace, for a VMM that has to be in it.
    pub(super) fn namespace(&self) -> Result<OwnedFd, NetworkError> {
        match &self.namespace {
            Some(namespace) => Ok(again(namespace)?.into()),
            None => Ok(open(&self.path)?.into()),
        }
    }

    pub(super) fn guest(&self) -> agent::Network {
        self.guest.clone()
    }

    pub(super) fn record(&self) -> NamespaceRecord {
        let slots = self.slots.lock().expect("no holder of this lock panics");
        NamespaceRecord {
            path: self.path.clone(),
            slots: slots.clone(),
        }
    }
}

impl NamespaceRecord {
    /// Takes the redirections away, and what is left of the taps. A namespace that is gone, or an interface, needs nothing.
    pub(super) async fn release(&self) {
        let slots = self.slots.clone();
        let released = async {
            inside(open(&self.path)?, |handle| async move {
                for slot in slots {
                    if let Some(interface) = slot.serves {
                        redirect::disconnect(&handle, interface).await;
                    }
                    tap::remove(&handle, slot.tap).await;
                }
                Ok(())
            })
            .await
        };
        if let Err(error) = released.await {
            tracing::debug!(%error, "the network namespace was gone before the pod");
        }
    }
}

/// Of a namespace whose guest runs, and was told what nobody knows any more.
async fn follow(path: &Path, slots: Arc<Mutex<Vec<Slot>>>) -> Result<Box<Follower>, NetworkError> {
    let cannot = || NetworkError::host("follow the network");
    let namespace = open(path)?;
    let changes = inside(again(&namespace)?, move |_| async move {
        Changes::subscribe().map_err(cannot())
    });
    Follower::new(namespace, changes.await?, slots, None).map_err(cannot())
}

fn open(namespace: &Path) -> Result<File, NetworkError> {
    let action = format!("open the network namespace {}", namespace.display());
    File::open(namespace).map_err(NetworkError::host(action))
}

fn again(namespace: &File) -> Result<File, NetworkError> {
    namespace
        .try_clone()
        .map_err(NetworkError::host("keep the network namespace"))
}

/// The kernel's own virtio-net back end, where there is one.
fn vhost_net() -> Option<OwnedFd> {
    let device = File::options()
        .read(true)
        .write(true)
        .open("/dev/vhost-net");
    device.ok().map(OwnedFd::from)
}

/// Runs `ip` for a test, in this thread's namespace.
#[cfg(test)]
fn ip(arguments: &str) {
    let mut ip = std::process::Command::new("ip");
    let status = ip.args(arguments.split(' ')).status().expect("ip runs");
    assert!(status.success(), "ip {arguments}");
}
