//! The pod's network with the real `passt` and `hull-net`, over both kinds of links. The test plays the VMM and the
//! guest: it reads and writes frames.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::Path;

use hull_sandbox::config::{NetworkConfig, Protocol, PublishedPort};
use hull_sandbox::network::{NetworkError, PendingNetwork, PodNetwork};
use hull_vm::{Device, NetDevices};

/// The kinds of links with which the test can run. It says so where there are fewer.
fn links() -> Vec<NetDevices> {
    // Cargo puts programs one directory above its tests.
    let built = std::env::current_exe().ok();
    let built = built.as_deref().and_then(|exe| exe.parent()?.parent());
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = built.into_iter().map(Path::to_owned);
    let dirs = dirs.chain(std::env::split_paths(&path));
    let path = std::env::join_paths(dirs).expect("no directory here has a colon in its name");
    // SAFETY: what else reads the environment here does so through the standard library's lock.
    unsafe { std::env::set_var("PATH", path) };
    for program in ["passt", "hull-net"] {
        if hull_vm::process::find_program(program).is_none() {
            eprintln!("skipped: {program} is not there");
            return Vec::new();
        }
    }
    if !nix::unistd::geteuid().is_root() || !Path::new("/dev/net/tun").exists() {
        eprintln!("not over a tap: that needs root and tap devices");
        return vec![NetDevices::Stream];
    }
    vec![NetDevices::Stream, NetDevices::Tap]
}

/// A loopback address that no other test process uses.
fn own_address() -> Ipv4Addr {
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 64 | high, middle, low)
}

fn nat(address: Ipv4Addr, host: u16, protocol: Protocol) -> NetworkConfig {
    NetworkConfig::Nat {
        publish: vec![PublishedPort {
            address: Some(IpAddr::V4(address)),
            host,
            container: 80,
            protocol,
        }],
    }
}

/// The guest's end of its link.
#[derive(Debug)]
enum Link {
    /// Frames come after their lengths.
    Stream(UnixStream),
    /// Frames come after a header of [`HEADER`] bytes.
    Tap(File),
}

/// Bytes of a `struct virtio_net_hdr`.
const HEADER: usize = 10;

/// A network, and the guest's end of its link.
async fn connect(
    config: &NetworkConfig,
    link: NetDevices,
    run_dir: &Path,
) -> Result<(PodNetwork, Link), NetworkError> {
    let (pending, interfaces) = PendingNetwork::new(config, 1, link).await?;
    let mut devices = interfaces.devices;
    let end = match (link, devices.pop()) {
        (NetDevices::Stream, Some(Device::NetStream { socket, .. })) => Link::Stream(socket.into()),
        (NetDevices::Tap, Some(Device::Net { tap, .. })) => Link::Tap(tap.into()),
        (_, device) => panic!("a network has a device of the kind asked for, not {device:?}"),
    };
    Ok((pending.connect(run_dir).await?, end))
}

fn read_frame(link: &mut Link) -> Vec<u8> {
    match link {
        Link::Stream(socket) => {
            let mut length = [0; 4];
            socket.read_exact(&mut length).expect("passt runs");
            let length = usize::try_from(u32::from_be_bytes(length)).expect("a frame is short");
            let mut frame = vec![0; length];
            socket.read_exact(&mut frame).expect("passt runs");
            frame
        }
        Link::Tap(tap) => {
            let mut bytes = vec![0; 1 << 17];
            let length = tap.read(&mut bytes).expect("the interface is there");
            bytes[HEADER..length].to_vec()
        }
    }
}

fn write_frame(link: &mut Link, frame: &[u8]) {
    match link {
        Link::Stream(socket) => {
            let length = u32::try_from(frame.len()).expect("a frame is short");
            let message = [&length.to_be_bytes()[..], frame].concat();
            socket.write_all(&message).expect("hull-net runs");
        }
        Link::Tap(tap) => {
            let bytes = [&[0; HEADER][..], frame].concat();
            tap.write_all(&bytes).expect("the interface is there");
        }
    }
}

/// Reads up to the next IPv4 packet of `protocol` that is for `port`, and returns the frame.
fn read_packet(link: &mut Link, protocol: u8, port: u16) -> Vec<u8> {
    loop {
        let frame = read_frame(link);
        let is_ipv4 = frame[12..14] == [8, 0];
        if is_ipv4 && frame[23] == protocol && frame[36..38] == port.to_be_bytes() {
            return frame;
        }
    }
}

#[tokio::test]
async fn a_published_tcp_port_leads_to_the_guest() {
    for kind in links() {
        let dir = tempfile::tempdir().unwrap();
        let address = own_address();
        let config = nat(address, 8080, Protocol::Tcp);
        let (network, mut link) = connect(&config, kind, dir.path()).await.unwrap();

        let _client = TcpStream::connect(SocketAddr::from((address, 8080))).unwrap();
        let frame = read_packet(&mut link, 6, 80);
        let guest = network.guest();
        assert_eq!(frame[..6], guest.interfaces[0].hardware_address);
        let destination = Ipv4Addr::from(<[u8; 4]>::try_from(&frame[30..34]).unwrap());
        assert!(guest.interfaces[0].addresses[0].starts_with(&format!("{destination}/")));
        // A connection request, and nothing else.
        assert_eq!(frame[47] & 0x3f, 0x02);
        network.stop().await;
    }
}

#[tokio::test]
async fn a_published_udp_port_leads_to_the_guest() {
    for kind in links() {
        let dir = tempfile::tempdir().unwrap();
        let address = own_address();
        let config = nat(address, 8053, Protocol::Udp);
        let (network, mut link) = connect(&config, kind, dir.path()).await.unwrap();

        let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        client.send_to(b"to the guest", (address, 8053)).unwrap();
        let frame = read_packet(&mut link, 17, 80);
        assert_eq!(&frame[42..], b"to the guest");
        network.stop().await;
    }
}

#[tokio::test]
async fn a_port_in_use_is_told_before_anything_starts() {
    for kind in links() {
        let dir = tempfile::tempdir().unwrap();
        let holder = TcpListener::bind((own_address(), 0)).unwrap();
        let port = holder.local_addr().unwrap().port();
        let config = nat(own_address(), port, Protocol::Tcp);
        let error = connect(&config, kind, dir.path()).await.unwrap_err();
        let NetworkError::Passt(cause) = error else {
            panic!("{error:?}");
        };
        assert!(cause.contains(&port.to_string()), "{cause}");
    }
}

#[tokio::test]
async fn the_helpers_end_with_the_machine_and_their_end_is_told() {
    for kind in links() {
        let dir = tempfile::tempdir().unwrap();
        let config = NetworkConfig::Nat { publish: vec![] };
        let (network, link) = connect(&config, kind, dir.path()).await.unwrap();
        // A pod process that is started again knows the network by its record only.
        let record = serde_json::to_string(&network.record()).unwrap();
        let record = serde_json::from_str(&record).unwrap();
        let taken_over = PodNetwork::attach(&record).await.unwrap();
        assert_eq!(taken_over.guest(), network.guest());

        drop(link);
        assert!(taken_over.wait().await.contains("is gone"));
        assert!(network.wait().await.contains("is gone"));
        network.stop().await;
        assert!(PodNetwork::attach(&record).await.is_err());
    }
}

/// "Who has the gateway's address?", as a frame.
fn question(mac: &[u8]) -> Vec<u8> {
    [
        &[0xff; 6][..],
        mac,
        &[0x08, 0x06, 0, 1, 0x08, 0x00, 6, 4, 0, 1],
        mac,
        &[10, 72, 85, 2],
        &[0; 6],
        &[10, 72, 85, 1],
    ]
    .concat()
}

/// A TCP connection request to `address`, as a frame.
fn request(mac: &[u8], address: Ipv4Addr, port: u16) -> Vec<u8> {
    let mut header = vec![0x45, 0, 0, 44, 0, 0, 0, 0, 64, 6, 0, 0, 10, 72, 85, 2];
    header.extend(address.octets());
    let [high, low] = port.to_be_bytes();
    // Flags: SYN. Options: a segment size.
    let tcp = [
        0x9c, 0x40, high, low, 0, 0, 0, 1, 0, 0, 0, 0, 0x60, 0x02, 0xff, 0xff, 0, 0, 0, 0, 2, 4, 5,
        0xb4,
    ];
    [&[0xff; 6][..], mac, &[8, 0], &header, &tcp].concat()
}

#[tokio::test]
async fn a_frame_from_the_guest_is_carried_out() {
    for kind in links() {
        let dir = tempfile::tempdir().unwrap();
        let config = NetworkConfig::Nat { publish: vec![] };
        let (network, mut link) = connect(&config, kind, dir.path()).await.unwrap();
        let mac = network.guest().interfaces[0].hardware_address.clone();
        write_frame(&mut link, &question(&mac));
        let answer = read_frame(&mut link);
        assert_eq!(answer[..6], mac);
        assert_eq!(answer[28..32], [10, 72, 85, 1]);
        network.stop().await;
    }
}

#[tokio::test]
async fn the_hosts_loopback_is_out_of_the_guests_reach() {
    for kind in links() {
        let dir = tempfile::tempdir().unwrap();
        let service = TcpListener::bind((own_address(), 0)).unwrap();
        let port = service.local_addr().unwrap().port();
        let local = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let local_port = local.local_addr().unwrap().port();
        let config = NetworkConfig::Nat { publish: vec![] };
        let (network, mut link) = connect(&config, kind, dir.path()).await.unwrap();
        let mac = network.guest().interfaces[0].hardware_address.clone();
        write_frame(&mut link, &request(&mac, own_address(), port));
        // The gateway's address.
        let gateway = Ipv4Addr::new(10, 72, 85, 1);
        write_frame(&mut link, &request(&mac, gateway, local_port));
        // passt takes frames in their order. When it answers this, it has dealt with what came before.
        write_frame(&mut link, &question(&mac));
        let answer = read_frame(&mut link);
        assert_eq!(answer[12..14], [8, 6]);
        for listener in [service, local] {
            listener.set_nonblocking(true).unwrap();
            let error = listener.accept().unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
        }
        network.stop().await;
    }
}

#[tokio::test]
async fn a_guest_that_does_not_read_loses_frames_and_nothing_else() {
    for kind in links() {
        let dir = tempfile::tempdir().unwrap();
        let address = own_address();
        let config = nat(address, 8053, Protocol::Udp);
        let (network, mut link) = connect(&config, kind, dir.path()).await.unwrap();
        let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        for _ in 0..2000 {
            client.send_to(&[1; 1000], (address, 8053)).unwrap();
        }
        let first = read_packet(&mut link, 17, 80);
        assert_eq!(first[42..], [1; 1000]);
        let mac = network.guest().interfaces[0].hardware_address.clone();
        // An answer may be lost too while the queue is full. As each frame that is read leaves room for one more, and is
        // followed by a question, an empty queue means that the last answer is still to come.
        loop {
            write_frame(&mut link, &question(&mac));
            if read_frame(&mut link)[12..14] == [8, 6] {
                break;
            }
        }
        network.stop().await;
    }
}
