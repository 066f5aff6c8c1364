//! The link of a network of kind `nat`: one end is a device for the VMM, the other is for the filter.
//!
//! Where the VMM knows no stream, its end is a tap device, and the filter's a packet socket at the same interface. Both
//! are alone in a network namespace without a name, in which there is no process but the VMM. The two descriptors and the
//! VMM hold that namespace, and nothing else does: the interface vanishes when the VMM has closed the tap, of which the
//! packet socket tells, and the namespace with the last that holds it. (A tap that the VMM has opened by its name goes
//! with the namespace.) So there is nothing to take away, whoever is killed.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use hull_vm::{Device, NetDevices};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socket, sockopt};
use rtnetlink::Handle;

use super::enter::inside_a_new_one;
use super::{GUEST_MAC, MTU, NetworkError, netlink, tap};

/// What the packet socket holds each way, bytes. With the kernel's own choice there would be room for two frames of
/// the largest kind, and guests send more of them at once.
const BUFFER: usize = 8 << 20;

/// The filter's end.
#[derive(Debug)]
pub(super) enum HostEnd {
    /// A stream socket that carries frames after their lengths.
    Stream(UnixStream),
    /// A packet socket at the guest's interface.
    Packets(OwnedFd),
}

/// A link, and what the VMM gets of it.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) device: Device,
    /// Where the device is, for [`VmConfig::network_namespace`](hull_vm::VmConfig::network_namespace).
    pub(super) namespace: Option<OwnedFd>,
    pub(super) host_end: HostEnd,
}

/// Makes a link for a VMM that knows such devices. It holds what the guest sends until somebody reads it.
///
/// # Errors
/// When there are no more descriptors, or no tap device or network namespace is to be had.
pub(super) async fn make(known: NetDevices) -> Result<Link, NetworkError> {
    match known {
        NetDevices::Stream => {
            let pair = UnixStream::pair();
            let (vmm, host) = pair.map_err(NetworkError::host("make the guest's link"))?;
            let device = Device::NetStream {
                socket: vmm.into(),
                mac: GUEST_MAC,
                mtu: MTU,
            };
            Ok(Link {
                device,
                namespace: None,
                host_end: HostEnd::Stream(host),
            })
        }
        NetDevices::Tap | NetDevices::NamedTap => {
            let ((tap, packets), namespace) = inside_a_new_one(make_tap).await?;
            let device = Device::Net {
                tap,
                vhost: None,
                mac: GUEST_MAC,
                mtu: MTU,
                offload: false,
            };
            Ok(Link {
                device,
                namespace: Some(namespace),
                host_end: HostEnd::Packets(packets),
            })
        }
    }
}

/// A tap device in this thread's namespace, and a packet socket at it.
async fn make_tap(handle: Handle) -> Result<(OwnedFd, OwnedFd), NetworkError> {
    let (index, tap) = tap::make(&handle).await?;
    let up = tap::bring_up(&handle, index).await;
    up.map_err(netlink("bring the guest's tap device up"))?;
    let packets = packet_socket(index);
    let packets = packets.map_err(NetworkError::host(
        "open a packet socket at the guest's tap",
    ))?;
    Ok((tap, packets))
}

/// A socket that gets what comes in at an interface which is up, and not what goes out there.
fn packet_socket(interface: i32) -> io::Result<OwnedFd> {
    // Without a protocol it gets nothing until it is bound.
    let kind = SockType::Raw;
    let socket = socket(AddressFamily::Packet, kind, SockFlag::SOCK_CLOEXEC, None)?;
    ignore_outgoing(&socket)?;
    // Only the machine's root may have more than the machine's limit.
    if setsockopt(&socket, sockopt::RcvBufForce, &BUFFER).is_err() {
        setsockopt(&socket, sockopt::RcvBuf, &BUFFER)?;
    }
    if setsockopt(&socket, sockopt::SndBufForce, &BUFFER).is_err() {
        setsockopt(&socket, sockopt::SndBuf, &BUFFER)?;
    }
    bind(&socket, interface)?;
    Ok(socket)
}

fn ignore_outgoing(socket: &OwnedFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the option is an int, which outlives the call.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_IGNORE_OUTGOING,
            (&raw const on).cast(),
            length_of(&on),
        )
    })
}

fn bind(socket: &OwnedFd, interface: i32) -> io::Result<()> {
    // SAFETY: sockaddr_ll is plain bytes, for which zero is valid.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = u16::try_from(libc::AF_PACKET).expect("families are 16 bits");
    let every_protocol = u16::try_from(libc::ETH_P_ALL).expect("protocols are 16 bits");
    address.sll_protocol = every_protocol.to_be();
    address.sll_ifindex = interface;
    let length = length_of(&address);
    // SAFETY: the address has that length and outlives the call.
    check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) })
}

fn length_of<T>(value: &T) -> libc::socklen_t {
    libc::socklen_t::try_from(size_of_val(value)).expect("it is short")
}

fn check(result: libc::c_int) -> io::Result<()> {
    nix::errno::Errno::result(result).map(drop)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};
    use std::path::Path;

    use nix::errno::Errno;
    use nix::sys::socket::{MsgFlags, recv, send};

    use super::*;

    /// Bytes before a frame (`struct virtio_net_hdr`).
    const HEADER: usize = 10;

    #[tokio::test]
    async fn the_packet_socket_has_what_the_guest_sends_and_nothing_else() {
        if !nix::unistd::geteuid().is_root() || !Path::new("/dev/net/tun").exists() {
            eprintln!("not run: it needs root and tap devices");
            return;
        }
        let link = make(NetDevices::Tap).await.unwrap();
        let (device, HostEnd::Packets(packets)) = (link.device, link.host_end) else {
            panic!("a link of packets was asked for");
        };
        let Device::Net { tap, offload, .. } = device else {
            panic!("a tap was asked for");
        };
        assert!(!offload);
        let mut vmm = File::from(tap);
        let longest = usize::try_from(MTU).unwrap() + 14;
        let (inward, outward) = (vec![1; longest], vec![2; longest]);
        send(packets.as_raw_fd(), &inward, MsgFlags::empty()).unwrap();
        let mut frame = vec![0; 2 * longest];
        let length = vmm.read(&mut frame).unwrap();
        assert_eq!(frame[HEADER..length], inward);

        vmm.write_all(&[&[0; HEADER][..], &outward].concat())
            .unwrap();
        let length = recv(packets.as_raw_fd(), &mut frame, MsgFlags::MSG_DONTWAIT).unwrap();
        assert_eq!(frame[..length], outward);
        let nothing = recv(packets.as_raw_fd(), &mut frame, MsgFlags::MSG_DONTWAIT);
        assert_eq!(nothing, Err(Errno::EAGAIN));

        drop(vmm);
        let end = recv(packets.as_raw_fd(), &mut frame, MsgFlags::empty());
        assert_eq!(end, Err(Errno::ENETDOWN));
    }
}
