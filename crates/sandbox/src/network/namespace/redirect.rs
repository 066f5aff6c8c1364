//! Frames from an interface to a tap and back, by the kernel's traffic control.

use futures_util::TryStreamExt;
use rtnetlink::packet_route::tc::TcHandle;
use rtnetlink::{Handle, LinkUnspec};

use super::slots::{Link, Move, Slot};
use super::{NetworkError, netlink, tap};

/// Lets a tap lead to another interface, or nowhere.
pub(super) async fn make(handle: &Handle, change: &Move) -> Result<(), NetworkError> {
    if let Some(interface) = change.from {
        disconnect(handle, interface).await;
    }
    match change.to {
        Some(interface) => {
            let connected = connect(handle, interface, change.tap).await;
            connected.map_err(netlink(format!(
                "connect the interface {}",
                interface.index
            )))
        }
        None => {
            remove(handle, change.tap).await;
            let down = tap::take_down(handle, change.tap).await;
            down.map_err(netlink("take the tap of an interface down"))
        }
    }
}

/// Whether a device is connected with the interface that it serves, if it serves one.
pub(super) async fn is_made(handle: &Handle, slot: &Slot) -> bool {
    let Some(interface) = slot.serves else {
        return true;
    };
    for index in [interface.index, slot.tap] {
        let filters = handle.traffic_filter(index).get().ingress().execute();
        let filter = std::pin::pin!(filters).try_next().await;
        if !matches!(filter, Ok(Some(_))) {
            return false;
        }
    }
    true
}

/// Sends every frame that comes in at `interface` into `tap`, and the other way round.
async fn connect(handle: &Handle, interface: Link, tap: i32) -> Result<(), rtnetlink::Error> {
    tap::bring_up(handle, tap).await?;
    take_all_multicast(handle, interface.index, true).await?;
    for (from, to) in [(interface.index, tap), (tap, interface.index)] {
        redirect(handle, from, to).await?;
    }
    Ok(())
}

async fn redirect(handle: &Handle, from: i32, to: i32) -> Result<(), rtnetlink::Error> {
    /// `ffff:`, the handle of an ingress queueing discipline.
    const INGRESS: u32 = 0xffff_0000;
    /// `ETH_P_ALL` as the network sees it.
    const EVERY_PROTOCOL: u16 = 0x0003_u16.to_be();
    // One that a pod left which was killed.
    remove(handle, from).await;
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

/// Leaves an interface as it was before it was connected. It may have gone in between.
pub(super) async fn disconnect(handle: &Handle, interface: Link) {
    remove(handle, interface.index).await;
    if !interface.all_multicast {
        let _ = take_all_multicast(handle, interface.index, false).await;
    }
}

/// Takes the redirection away. There may be none: whoever made the interface may have reset it.
async fn remove(handle: &Handle, index: i32) {
    let mut removal = handle.qdisc().del(index);
    removal.message_mut().header.parent = TcHandle::INGRESS;
    let _ = removal.execute().await;
}
