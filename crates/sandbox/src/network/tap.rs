//! Tap devices (kernel documentation, networking/tuntap).

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use futures_util::TryStreamExt;
use rtnetlink::packet_route::link::{AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute};
use rtnetlink::{Handle, LinkUnspec};

use super::{MTU, NetworkError, netlink};

nix::ioctl_readwrite_bad!(
    /// `TUNSETIFF`
    tun_set_interface,
    0x4004_54ca,
    libc::ifreq
);

/// What the names of taps begin with.
const PREFIX: &str = "hull";
/// What a tap is called: the kernel puts in the first number that is free.
const NAME: &str = "hull%d";

/// Makes a tap device in this thread's network namespace, and returns its index. It is down, has no address of any kind and
/// takes the largest packets, which a VMM may look for at its start. It vanishes with its last descriptor.
pub(super) async fn make(handle: &Handle) -> Result<(i32, OwnedFd), NetworkError> {
    let (index, tap) = create()?;
    silence(handle, index).await;
    let large = LinkUnspec::new_with_index(index.cast_unsigned()).mtu(MTU);
    let set = handle.link().set(large.build()).execute().await;
    set.map_err(netlink("let a tap device take large packets"))?;
    Ok((index, tap))
}

fn create() -> Result<(i32, OwnedFd), NetworkError> {
    let cannot = || NetworkError::host("create a tap device");
    let tun = File::options()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
        .map_err(NetworkError::host("open /dev/net/tun"))?;
    // SAFETY: ifreq is plain bytes, for which zero is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(NAME.bytes()) {
        *to = from.cast_signed();
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = i16::try_from(flags).expect("the flags are 16 bits");
    // SAFETY: the descriptor is open and the request is a valid ifreq; both outlive the call.
    unsafe { tun_set_interface(tun.as_raw_fd(), &raw mut request) }
        .map_err(|error| cannot()(error.into()))?;
    let name = request.ifr_name.map(i8::cast_unsigned);
    let name = CStr::from_bytes_until_nul(&name);
    let name = name.map_err(|_| cannot()(io::ErrorKind::InvalidData.into()))?;
    let index = nix::net::if_::if_nametoindex(name).map_err(|error| cannot()(error.into()))?;
    Ok((index.cast_signed(), tun.into()))
}

async fn silence(handle: &Handle, index: i32) {
    let index = index.cast_unsigned();
    let mode = vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)];
    let specification = LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(mode)]);
    let quiet = LinkUnspec::new_with_index(index)
        .append_extra_attribute(specification)
        .build();
    // A kernel without IPv6 has no such attribute.
    let _ = handle.link().set(quiet).execute().await;
}

pub(super) async fn bring_up(handle: &Handle, index: i32) -> Result<(), rtnetlink::Error> {
    let up = LinkUnspec::new_with_index(index.cast_unsigned())
        .arp(false)
        .up()
        .build();
    handle.link().set(up).execute().await
}

/// Takes away a tap that has outlived its VMM, which one that a VMM opens by its name does. Most have vanished.
pub(super) async fn remove(handle: &Handle, index: i32) {
    // Of another machine's namespace, perhaps, an interface with the same index may have come since.
    let ours = handle.link().get().match_index(index.cast_unsigned());
    let Ok(Some(link)) = ours.execute().try_next().await else {
        return;
    };
    let is_ours = |attribute: &LinkAttribute| matches!(attribute, LinkAttribute::IfName(name) if name.starts_with(PREFIX));
    if !link.attributes.iter().any(is_ours) {
        return;
    }
    if let Err(error) = handle.link().del(index.cast_unsigned()).execute().await {
        tracing::warn!(%error, "a tap device stays in the pod's network namespace");
    }
}

pub(super) async fn take_down(handle: &Handle, index: i32) -> Result<(), rtnetlink::Error> {
    let down = LinkUnspec::new_with_index(index.cast_unsigned()).down();
    handle.link().set(down.build()).execute().await
}
