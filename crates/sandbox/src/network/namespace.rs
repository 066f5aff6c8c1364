//! A network namespace that an engine has made and filled (CNI, netavark): the guest takes the place of
//! its interfaces.
//!
//! Each interface gets a tap device beside it, and the traffic control of the kernel sends every frame
//! that comes in at one out at the other. So the guest has the interface's hardware address, its IP
//! addresses, routes and static neighbours, and everybody outside talks to it as if it were a process in
//! the namespace. Nothing is changed but for these redirections, which [`NamespaceNetwork::release`]
//! takes away; the taps vanish with the VMM.

mod loopback;
mod scan;
mod tap;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use hull_agent_api::agent;
use hull_vm::{Device, MacAddress};
use nix::sched::{CloneFlags, setns};
use rtnetlink::packet_route::tc::TcHandle;
use rtnetlink::{Handle, LinkUnspec};
use serde::{Deserialize, Serialize};

use super::NetworkError;
use scan::Interface;

pub use loopback::Loopback;

/// The namespace, as the guest's.
#[derive(Debug)]
pub(super) struct NamespaceNetwork {
    record: NamespaceRecord,
    guest: agent::Network,
    loopback: Mutex<Option<Loopback>>,
}

/// What is needed to let go of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct NamespaceRecord {
    path: PathBuf,
    /// Interfaces whose frames are redirected.
    interfaces: Vec<Redirected>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Redirected {
    name: String,
    /// Whether it took the frames of all multicast groups before.
    all_multicast: bool,
}

/// For `map_err` on netlink calls: `action` completes "cannot …".
fn netlink(action: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> NetworkError {
    let action = action.into();
    move |source| NetworkError::Netlink { action, source }
}

impl NamespaceNetwork {
    /// Connects all interfaces of the namespace with devices for a virtual machine.
    ///
    /// # Errors
    /// When it cannot be entered, or has an interface that a guest cannot have.
    pub(super) async fn adopt(path: &Path) -> Result<(Self, Vec<Device>), NetworkError> {
        let (guest, taps, loopback) = inside(path, |handle| async move {
            let (interfaces, network) = scan::scan(&handle).await?;
            let mut taps = Vec::new();
            for interface in interfaces {
                let tap = connect(&handle, &interface).await?;
                taps.push((interface, tap));
            }
            let loopback = Loopback::take();
            Ok((network, taps, loopback))
        })
        .await?;
        let record = NamespaceRecord {
            path: path.to_owned(),
            interfaces: taps
                .iter()
                .map(|(found, _)| Redirected {
                    name: found.name.clone(),
                    all_multicast: found.all_multicast,
                })
                .collect(),
        };
        let devices = taps.into_iter().map(|(interface, tap)| Device::Net {
            tap,
            vhost: vhost_net(),
            mac: MacAddress(interface.hardware_address),
            mtu: interface.mtu,
        });
        let loopback = loopback.inspect_err(|error| {
            tracing::warn!(%error, "the pod's ports cannot be forwarded: this kernel cannot redirect its loopback");
        });
        let network = Self {
            record,
            guest,
            loopback: Mutex::new(loopback.ok()),
        };
        Ok((network, devices.collect()))
    }

    /// Takes over what another process has adopted.
    pub(super) fn attach(record: &NamespaceRecord) -> Self {
        Self {
            record: record.clone(),
            guest: agent::Network::default(),
            loopback: Mutex::default(),
        }
    }

    /// Once: what connects the namespace's loopback with somebody.
    pub(super) fn take_loopback(&self) -> Option<Loopback> {
        let mut loopback = self.loopback.lock().expect("no holder of this lock panics");
        loopback.take()
    }

    pub(super) fn guest(&self) -> agent::Network {
        self.guest.clone()
    }

    pub(super) fn record(&self) -> NamespaceRecord {
        self.record.clone()
    }
}

impl NamespaceRecord {
    /// Takes the redirections away. A namespace that is gone, or an interface, needs nothing.
    pub(super) async fn release(&self) {
        let interfaces = self.interfaces.clone();
        let released = inside(&self.path, |handle| async move {
            for interface in interfaces {
                if let Some(index) = scan::index_of(&handle, &interface.name).await? {
                    remove_redirect(&handle, index).await;
                    if !interface.all_multicast {
                        // It may have gone in between.
                        let _ = take_all_multicast(&handle, index, false).await;
                    }
                }
            }
            Ok(())
        })
        .await;
        if let Err(error) = released {
            tracing::debug!(%error, "the network namespace was gone before the pod");
        }
    }
}

/// The kernel's own virtio-net back end, where there is one.
fn vhost_net() -> Option<OwnedFd> {
    let device = File::options()
        .read(true)
        .write(true)
        .open("/dev/vhost-net");
    device.ok().map(OwnedFd::from)
}

/// Sends every frame that comes in at `interface` into a new tap device, and the other way round.
async fn connect(handle: &Handle, interface: &Interface) -> Result<OwnedFd, NetworkError> {
    let name = format!("hull{}", interface.index);
    let tap = tap::create(&name)?;
    let cannot = || netlink(format!("connect the interface {}", interface.name));
    let index = scan::index_of(handle, &name).await?.ok_or_else(|| {
        NetworkError::host(format!("find the tap {name}"))(std::io::ErrorKind::NotFound.into())
    })?;
    tap::bring_up(handle, index, interface.mtu)
        .await
        .map_err(cannot())?;
    take_all_multicast(handle, interface.index, true)
        .await
        .map_err(cannot())?;
    for (from, to) in [(interface.index, index), (index, interface.index)] {
        redirect(handle, from, to).await.map_err(cannot())?;
    }
    Ok(tap)
}

/// The guest says to nobody here which groups it has joined, and some interfaces drop the frames of others
/// than their own: a macvlan, a network card.
async fn take_all_multicast(
    handle: &Handle,
    index: i32,
    all: bool,
) -> Result<(), rtnetlink::Error> {
    let index = u32::try_from(index).unwrap_or_default();
    let change = LinkUnspec::new_with_index(index).allmulticast(all).build();
    handle.link().set(change).execute().await
}

async fn redirect(handle: &Handle, from: i32, to: i32) -> Result<(), rtnetlink::Error> {
    /// `ffff:`, the handle of an ingress queueing discipline.
    const INGRESS: u32 = 0xffff_0000;
    /// `ETH_P_ALL` as the network sees it.
    const EVERY_PROTOCOL: u16 = 0x0003_u16.to_be();
    // One that a pod left which was killed.
    remove_redirect(handle, from).await;
    handle.qdisc().add(from).ingress().execute().await?;
    let to = u32::try_from(to).unwrap_or_default();
    handle
        .traffic_filter(from)
        .add()
        .parent(INGRESS)
        .protocol(EVERY_PROTOCOL)
        .redirect(to)?
        .execute()
        .await
}

/// There may be none: whoever made the interface may have reset it.
async fn remove_redirect(handle: &Handle, index: i32) {
    let mut removal = handle.qdisc().del(index);
    removal.message_mut().header.parent = TcHandle::INGRESS;
    let _ = removal.execute().await;
}

/// Runs `task` on a thread in the namespace, with a netlink connection of that namespace. A thread
/// that has entered one is of no use for anything else, so it ends with the task.
async fn inside<T, F>(
    path: &Path,
    task: impl FnOnce(Handle) -> F + Send + 'static,
) -> Result<T, NetworkError>
where
    T: Send + 'static,
    F: Future<Output = Result<T, NetworkError>>,
{
    let action = format!("enter the network namespace {}", path.display());
    let namespace = File::open(path).map_err(NetworkError::host(action.clone()))?;
    let (answer, answered) = tokio::sync::oneshot::channel();
    let run = move || {
        setns(namespace, CloneFlags::CLONE_NEWNET)
            .map_err(|error| NetworkError::host(action)(error.into()))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(NetworkError::host("talk to the kernel's network"))?;
        runtime.block_on(async {
            let (connection, handle, _) = rtnetlink::new_connection()
                .map_err(NetworkError::host("talk to the kernel's network"))?;
            tokio::spawn(connection);
            task(handle).await
        })
    };
    std::thread::Builder::new()
        .name("netns".to_owned())
        .spawn(move || drop(answer.send(run())))
        .map_err(NetworkError::host("start a thread"))?;
    answered.await.expect("the thread answers")
}
