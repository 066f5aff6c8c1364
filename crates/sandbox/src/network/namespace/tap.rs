//! Tap devices (kernel documentation, networking/tuntap).

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rtnetlink::packet_route::link::{AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute};
use rtnetlink::{Handle, LinkUnspec};

use super::NetworkError;

nix::ioctl_write_ptr_bad!(
    /// `TUNSETIFF`
    tun_set_interface,
    0x4004_54ca,
    libc::ifreq
);

/// Makes a tap device in this thread's network namespace. It vanishes with its last descriptor.
pub(super) fn create(name: &str) -> Result<OwnedFd, NetworkError> {
    let cannot = || NetworkError::host(format!("create the tap device {name}"));
    let tun = File::options()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
        .map_err(NetworkError::host("open /dev/net/tun"))?;
    // SAFETY: ifreq is plain bytes, for which zero is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(cannot()(io::ErrorKind::InvalidFilename.into()));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = i16::try_from(flags).expect("the flags are 16 bits");
    // SAFETY: the descriptor is open and the request is a valid ifreq; both outlive the call.
    unsafe { tun_set_interface(tun.as_raw_fd(), &raw const request) }
        .map_err(|error| cannot()(error.into()))?;
    Ok(tun.into())
}

/// Brings a tap up that is nobody's interface: it has no address of any kind.
pub(super) async fn bring_up(
    handle: &Handle,
    index: i32,
    mtu: u32,
) -> Result<(), rtnetlink::Error> {
    let index = u32::try_from(index).unwrap_or_default();
    let mode = vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)];
    let specification = LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(mode)]);
    let quiet = LinkUnspec::new_with_index(index)
        .append_extra_attribute(specification)
        .build();
    // A kernel without IPv6 has no such attribute.
    let _ = handle.link().set(quiet).execute().await;
    let up = LinkUnspec::new_with_index(index)
        .mtu(mtu)
        .arp(false)
        .up()
        .build();
    handle.link().set(up).execute().await
}
