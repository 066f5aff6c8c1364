//! Answers to a name server in the namespace, which asks others for the names that it does not know.
//!
//! Docker's asks with the container's own address, and what comes in for that address goes to the guest. So a program
//! at each interface (kernel documentation, bpf/prog_type; `tc-bpf(8)`) looks whether a frame from a name server's
//! port is for a socket of the namespace, and leaves it there then. What answers the namespace's own ARP, it needs too;
//! the guest gets that as well, for it may have asked.

use std::os::fd::{AsRawFd, OwnedFd};

use futures_util::StreamExt;
use hull_agent_api::names::PORT;
use rtnetlink::Handle;
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::tc::{
    TcAttribute, TcBpfFlags, TcFilterBpf, TcFilterBpfOption, TcHandle, TcMessage, TcOption,
};

use super::bpf::{
    self, EXIT, Instruction, Program, add, call, copy, instruction, load_byte, load_half,
    load_word, set, unless_equal,
};
use super::slots::Slot;
use super::{NetworkError, netlink};

/// Before the redirection, whose priority the kernel chose.
const PRIORITY: u16 = 1;

/// Lets answers through to the namespace at the interface that a device serves, if it serves one. May be repeated.
pub(super) async fn let_in(handle: &Handle, slot: &Slot) -> Result<(), NetworkError> {
    const CLASSIFIER: u32 = 3;
    let Some(interface) = slot.serves else {
        return Ok(());
    };
    let program = bpf::load(CLASSIFIER, 0, &program(slot.tap)).map_err(NetworkError::host(
        "load a program for answers to a name server",
    ))?;
    let attached = attach(handle, interface.index, &program).await;
    attached.map_err(netlink(format!(
        "let answers to a name server in at the interface {}",
        interface.index
    )))
}

async fn attach(
    handle: &Handle,
    interface: i32,
    program: &OwnedFd,
) -> Result<(), rtnetlink::Error> {
    /// `ETH_P_ALL` as the network sees it.
    const EVERY_PROTOCOL: u16 = 0x0003_u16.to_be();
    let mut message = TcMessage::with_index(interface);
    message.header.parent = TcHandle {
        major: 0xffff,
        minor: TcHandle::MIN_INGRESS,
    };
    message.header.handle = TcHandle { major: 0, minor: 1 };
    message.header.info = u32::from(TcHandle {
        major: PRIORITY,
        minor: EVERY_PROTOCOL,
    });
    let options = [
        TcFilterBpfOption::ProgFd(program.as_raw_fd().cast_unsigned()),
        TcFilterBpfOption::ProgName("hull-answers".to_owned()),
        TcFilterBpfOption::Flags(TcBpfFlags::DirectAction),
    ];
    message.attributes = vec![
        TcAttribute::Kind(TcFilterBpf::KIND.to_owned()),
        TcAttribute::Options(options.map(TcOption::Bpf).into()),
    ];
    let mut request = NetlinkMessage::from(RouteNetlinkMessage::NewTrafficFilter(message));
    request.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
    let mut answers = handle.clone().request(request)?;
    while let Some(answer) = answers.next().await {
        if let NetlinkPayload::Error(error) = answer.payload
            && error.code.is_some()
            && error.raw_code() != -libc::EEXIST
        {
            return Err(rtnetlink::Error::NetlinkError(error));
        }
    }
    Ok(())
}

/// Offsets in `struct __sk_buff`.
const PROTOCOL: i16 = 16;
const DATA: i16 = 76;
const DATA_END: i16 = 80;
/// Offsets in a frame.
const ARP_OPERATION: i16 = 20;
const IP_VERSION: i16 = 14;
const IP_FRAGMENT: i16 = 20;
const IP_PROTOCOL: i16 = 23;
const IP_SOURCE: i32 = 26;
const SOURCE_PORT: i16 = 34;
/// As long has a frame to be: that of ARP up to its operation, that of IP up to the end of both ports.
const ARP_LENGTH: i32 = 22;
const IP_LENGTH: i32 = 38;

/// Keeps what is meant for the namespace. The rest is for the programs that come after it.
fn program(tap: i32) -> Vec<Instruction> {
    const KEEP: i32 = 0;
    const GO_ON: i32 = -1;
    const CLONE_REDIRECT: i32 = 13;
    const SOCKET_OF_TCP: i32 = 84;
    const SOCKET_OF_UDP: i32 = 85;
    const RELEASE: i32 = 86;
    const ARP: u16 = 0x0806;
    const ARP_REPLY: u16 = 2;
    const IPV4: u16 = 0x0800;
    /// Version 4, and no options.
    const PLAIN_IPV4: i32 = 0x45;
    const IS_FRAGMENT: u16 = 0x3fff;
    /// Source, destination, and both ports, as `struct bpf_sock_tuple` has them as well.
    const TUPLE: i32 = 12;
    const THIS_NAMESPACE: i32 = -1;
    let in_network_order = |value: u16| i32::from(value.to_be());
    // r6: the context; r7, r8: the frame and its end.
    let mut program = Program::default();
    let within = |program: &mut Program, length| {
        program.then([copy(3, 7), add(3, length)]);
        // if (r3 > r8)
        program.unless(instruction(0x2d, 3, 8, 0, 0));
    };
    program.then([copy(6, 1), load_word(7, 6, DATA), load_word(8, 6, DATA_END)]);
    program.then([load_word(2, 6, PROTOCOL)]);
    let not_arp = program.jump(unless_equal(2, in_network_order(ARP), 0));
    within(&mut program, ARP_LENGTH);
    program.then([load_half(3, 7, ARP_OPERATION)]);
    program.only_if(3, in_network_order(ARP_REPLY));
    program.then([copy(1, 6), set(2, tap), set(3, 0), call(CLONE_REDIRECT)]);
    program.then([set(0, KEEP), EXIT]);

    program.land(not_arp);
    program.only_if(2, in_network_order(IPV4));
    within(&mut program, IP_LENGTH);
    program.then([load_byte(3, 7, IP_VERSION)]);
    program.only_if(3, PLAIN_IPV4);
    program.then([
        load_half(3, 7, IP_FRAGMENT),
        // r3 &= …
        instruction(0x57, 3, 0, 0, in_network_order(IS_FRAGMENT)),
    ]);
    program.only_if(3, 0);
    program.then([load_half(3, 7, SOURCE_PORT)]);
    program.only_if(3, in_network_order(PORT));
    program.then([load_byte(9, 7, IP_PROTOCOL)]);
    program.then([copy(1, 6), copy(2, 7), add(2, IP_SOURCE)]);
    program.then([set(3, TUPLE), set(4, THIS_NAMESPACE), set(5, 0)]);
    let not_udp = program.jump(unless_equal(9, libc::IPPROTO_UDP, 0));
    program.then([call(SOCKET_OF_UDP)]);
    let looked_up = program.jump(instruction(0x05, 0, 0, 0, 0));
    program.land(not_udp);
    program.only_if(9, libc::IPPROTO_TCP);
    program.then([call(SOCKET_OF_TCP)]);
    program.land(looked_up);
    // if (r0 == 0)
    program.unless(instruction(0x15, 0, 0, 0, 0));
    program.then([copy(1, 0), call(RELEASE), set(0, KEEP), EXIT]);
    program.or_else(GO_ON)
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::path::{Path, PathBuf};
    use std::sync::mpsc::channel;

    use nix::sched::{CloneFlags, unshare};

    use super::super::{NamespaceNetwork, ip};

    /// Connects this namespace's interface `one` with a name server in another, which answers once.
    fn connect_server() {
        let (told, thread) = channel();
        let (connected, is_connected) = channel();
        std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            told.send(nix::unistd::gettid()).unwrap();
            is_connected.recv().unwrap();
            ip("address add 192.0.2.1/24 dev two");
            ip("link set two up");
            let server = UdpSocket::bind("192.0.2.1:53").unwrap();
            told.send(nix::unistd::gettid()).unwrap();
            let (length, from) = server.recv_from(&mut [0; 16]).unwrap();
            server.send_to(&[b'!'; 16][..length], from).unwrap();
        });
        ip("link add one type veth peer name two");
        let server = thread.recv().unwrap();
        ip(&format!("link set two netns {server}"));
        connected.send(()).unwrap();
        ip("address add 192.0.2.2/24 dev one");
        ip("link set one up");
        thread.recv().unwrap();
    }

    #[tokio::test]
    async fn a_socket_of_the_namespace_gets_its_answer() {
        if !nix::unistd::geteuid().is_root() || !Path::new("/dev/net/tun").exists() {
            eprintln!("not run: it needs root and tap devices");
            return;
        }
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let path = format!("/proc/self/task/{}/ns/net", nix::unistd::gettid());
        connect_server();
        let adopted = NamespaceNetwork::adopt(&PathBuf::from(path), 0, 4).await;
        let (network, _devices) = adopted.unwrap();
        network.let_answers_in().await.unwrap();
        network.let_answers_in().await.unwrap();
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.connect("192.0.2.1:53").unwrap();
        socket.send(b"name").unwrap();
        let mut answer = [0; 16];
        let length = socket.recv(&mut answer).unwrap();
        assert_eq!(&answer[..length], b"!!!!");
    }
}
