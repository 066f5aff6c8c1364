//! A network of the test's own: namespaces with one interface, one address of each family and a name
//! server, so that nothing outside this machine is ever asked for anything.

use std::fs::Permissions;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use tempfile::{NamedTempFile, TempDir};

use crate::namespaces::own_mounts;

/// The host's addresses in its network (RFC 5737 and 3849 keep them for examples).
pub const HOST_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// See [`HOST_V4`].
pub const HOST_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

/// What a web server says that listens at a port of this network's loopback.
///
/// # Panics
/// When nobody does, or it breaks off.
#[must_use]
pub fn get(port: u16) -> String {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("connected");
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

/// The network that the current thread and what it starts from now on are in.
#[derive(Debug)]
pub struct Network {
    resolv_conf: NamedTempFile,
}

impl Network {
    /// Takes the current thread into a new network.
    ///
    /// # Panics
    /// When that cannot be done: it needs root and `ip`.
    #[must_use]
    pub fn enter() -> Self {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
        own_mounts();
        let none = None::<&str>;
        // /sys/class/net shows the namespace in which it was mounted. The control groups stay.
        let aside = TempDir::new().expect("a directory");
        let cgroups = "/sys/fs/cgroup";
        let all = MsFlags::MS_BIND | MsFlags::MS_REC;
        mount(Some(cgroups), aside.path(), none, all, none).expect("bound");
        mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), none).expect("sysfs");
        mount(Some(aside.path()), cgroups, none, MsFlags::MS_MOVE, none).expect("moved");
        for arguments in [
            "link set lo up",
            "link add uplink type veth peer name other",
            &format!("address add {HOST_V4}/24 dev uplink"),
            &format!("address add {HOST_V6}/64 dev uplink nodad"),
            "link set uplink up",
            "link set other up",
            "route add default via 192.0.2.254 dev uplink",
            "route add default via 2001:db8::fe dev uplink",
        ] {
            ip(arguments);
        }
        let resolv_conf = NamedTempFile::new().expect("a file");
        // As that of every machine: programs of ordinary users resolve names, too.
        let everybody = Permissions::from_mode(0o644);
        std::fs::set_permissions(resolv_conf.path(), everybody).expect("readable");
        let target = std::fs::canonicalize("/etc/resolv.conf").expect("/etc/resolv.conf");
        let bind = MsFlags::MS_BIND;
        mount(Some(resolv_conf.path()), &target, none, bind, none).expect("bound");
        let network = Self { resolv_conf };
        network.use_name_server(HOST_V4);
        network
    }

    /// Answers every connection to `address` with `answer`, and returns the port.
    ///
    /// # Panics
    /// When the address is not the host's.
    pub fn serve(&self, address: impl Into<IpAddr>, answer: &'static str) -> u16 {
        use std::io::Write;
        let listener = TcpListener::bind((address.into(), 0)).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                // A client that went away is for its own test to judge.
                let _ = connection.and_then(|mut peer| peer.write_all(answer.as_bytes()));
            }
        });
        port
    }

    /// Has the host ask the name server at that address. At first it is [`HOST_V4`].
    ///
    /// # Panics
    /// When its file cannot be written.
    pub fn use_name_server(&self, server: Ipv4Addr) {
        std::fs::write(self.resolv_conf.path(), format!("nameserver {server}\n")).expect("written");
    }

    /// Answers as the name server at `server`: every question for an IPv4 address (type A) with
    /// `address`, and others with none.
    ///
    /// # Panics
    /// When the name server's port is in use.
    pub fn resolve(&self, server: Ipv4Addr, address: Ipv4Addr) {
        let socket = UdpSocket::bind((server, 53)).expect("port 53");
        std::thread::spawn(move || {
            let mut query = [0; 512];
            while let Ok((length, peer)) = socket.recv_from(&mut query) {
                if let Some(answer) = answer_of(&query[..length], address) {
                    let _ = socket.send_to(&answer, peer);
                }
            }
        });
    }
}

/// Runs `ip` in the network that the current thread is in.
///
/// # Panics
/// When it fails.
pub fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output();
    let output = output.expect("ip runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {said}");
}

/// A script that prints what the server at `host` and `port` says. Its own end stays open: Debian 12's
/// passt hangs on connections that the guest half-closes first.
#[must_use]
pub fn fetch(host: impl Into<IpAddr>, port: u16) -> String {
    format!("mkfifo /open; nc {} {port} <> /open", host.into())
}

/// RFC 1035, section 4.1: the header and the question again, and at most one record.
fn answer_of(query: &[u8], address: Ipv4Addr) -> Option<Vec<u8>> {
    const HEADER: usize = 12;
    let name = query.get(HEADER..)?.iter().position(|&byte| byte == 0)? + 1;
    let question = query.get(HEADER..HEADER + name + 4)?;
    let is_a = question[name..name + 2] == [0, 1];
    let mut answer = query[..2].to_vec();
    answer.extend([0x81, 0x80, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0]);
    answer.extend(question);
    if is_a {
        // The name is at the question's; type A, class IN, a minute, 4 bytes.
        answer.extend([0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        answer.extend(address.octets());
    }
    Some(answer)
}
