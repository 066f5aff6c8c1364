//! `hull-vsock` as a process in its sandbox, with a VMM and a guest's driver in this one.

#![allow(clippy::unwrap_used, reason = "a failure is a panic")]

mod support;

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::process::Child;

use hull_devices::vsock::connection::BUFFER;
use hull_devices::vsock::packet::{Header, Op};
use support::vmm::{self, Vmm};
use support::{CID, Guest, header};
use tempfile::TempDir;
use vhost::vhost_user::VhostUserFrontend;
use vhost::vhost_user::message::{VhostUserConfigFlags, VhostUserProtocolFeatures};

const PROGRAM: &str = env!("CARGO_BIN_EXE_hull-vsock");
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;

struct Bench {
    directory: TempDir,
    child: Child,
    vmm: Vmm,
    guest: Guest,
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("streams")).unwrap();
        let vhost = vmm::listen(&directory.path().join("vhost"));
        let uds = directory.path().join("streams/vsock");
        let host = vmm::listen(&uds);
        let arguments = [
            format!("--vhost-socket-fd={}", vhost.as_raw_fd()),
            format!("--listen-fd={}", host.as_raw_fd()),
            format!("--uds={}", uds.display()),
        ];
        let child = vmm::start(PROGRAM, &arguments, &[&vhost, &host]);
        let mut guest = Guest::new(vmm::shared_memory());
        guest.post(0..256);
        let rings = [&guest.receive, &guest.transmit];
        let protocol = VhostUserProtocolFeatures::MQ | VhostUserProtocolFeatures::CONFIG;
        let socket = directory.path().join("vhost");
        let vmm = Vmm::connect(&socket, &guest.memory, &rings, protocol);
        Self {
            directory,
            child,
            vmm,
            guest,
        }
    }

    fn send(&mut self, header: &Header, payload: &[u8]) {
        let len = u32::try_from(payload.len()).unwrap();
        self.guest.send(&Header { len, ..*header }, payload);
        self.vmm.kick(TRANSMIT);
    }

    fn next(&mut self) -> (Header, Vec<u8>) {
        loop {
            if let Some(packet) = self.guest.next() {
                self.vmm.kick(RECEIVE);
                return packet;
            }
            self.vmm.wait(RECEIVE);
        }
    }

    fn connect(&mut self) -> (UnixStream, Header) {
        let mut client = UnixStream::connect(self.directory.path().join("streams/vsock")).unwrap();
        client.write_all(b"CONNECT 1024\n").unwrap();
        let (request, _) = self.next();
        assert_eq!(request.operation(), Some(Op::Request));
        let mine = header(1024, request.src_port);
        self.send(&mine.with_op(Op::Response), &[]);
        let mut answer = vec![0; format!("OK {}\n", request.src_port).len()];
        client.read_exact(&mut answer).unwrap();
        (client, mine)
    }

    fn ping(&mut self, client: &mut UnixStream, mine: &Header) {
        client.write_all(b"ping").unwrap();
        assert_eq!(self.next().1, b"ping");
        self.send(&mine.with_op(Op::Data), b"pong");
        let mut bytes = [0; 4];
        client.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"pong");
    }

    /// The VMM goes; returns how the process ended and what it said.
    fn finish(self) -> (std::process::ExitStatus, String) {
        drop(self.vmm);
        vmm::end(self.child)
    }
}

#[test]
fn streams_work_in_the_sandbox_and_end_with_the_vmm() {
    let mut bench = Bench::new();
    let flags = VhostUserConfigFlags::empty();
    let (_, cid) = bench.vmm.frontend.get_config(0, 8, flags, &[0; 8]).unwrap();
    assert_eq!(cid, CID.to_le_bytes());
    let (mut client, mine) = bench.connect();
    bench.ping(&mut client, &mine);

    let listener = vmm::listen(&bench.directory.path().join("streams/vsock_7"));
    let own = header(9000, 7);
    bench.send(&own.with_op(Op::Request), &[]);
    assert_eq!(bench.next().0.operation(), Some(Op::Response));
    let (mut server, _) = listener.accept().unwrap();
    bench.ping(&mut server, &own);

    let (exit, errors) = bench.finish();
    assert_eq!((exit.code(), errors.as_str()), (Some(0), ""));
    assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
}

#[test]
fn the_process_is_shut_in() {
    let mut bench = Bench::new();
    let (mut client, mine) = bench.connect();
    bench.ping(&mut client, &mine);
    for set in ["CapEff", "CapPrm", "CapInh", "CapAmb"] {
        assert_eq!(vmm::status(&bench.child, set), "0000000000000000", "{set}");
    }
    assert_eq!(vmm::status(&bench.child, "NoNewPrivs"), "1");
    assert_eq!(vmm::status(&bench.child, "Seccomp"), "2");
    for namespace in ["mnt", "net", "ipc", "uts"] {
        let link = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/{namespace}")).unwrap();
        let own = link("self");
        assert_ne!(link(&bench.child.id().to_string()), own, "{namespace}");
    }
    let mounts = std::fs::read_to_string(format!("/proc/{}/mountinfo", bench.child.id())).unwrap();
    assert_eq!(mounts.lines().count(), 1, "{mounts}");
    assert!(
        mounts.contains("/streams / ro,nosuid,nodev,noexec"),
        "{mounts}"
    );
}

#[test]
fn what_the_guest_sent_outlives_its_vmm() {
    let mut bench = Bench::new();
    let (mut client, mine) = bench.connect();
    let sent: Vec<u8> = (0..BUFFER).map(|index| index.to_be_bytes()[2]).collect();
    for chunk in sent.chunks(60_000) {
        bench.send(&mine.with_op(Op::Data), chunk);
    }
    let Bench {
        directory,
        child,
        vmm,
        guest: _guest,
    } = bench;
    drop(vmm);
    let mut received = Vec::new();
    client.read_to_end(&mut received).unwrap();
    assert!(
        received == sent,
        "{} of {} bytes",
        received.len(),
        sent.len()
    );
    assert_eq!(vmm::end(child).0.code(), Some(0));
    drop(directory);
}

#[test]
fn a_paused_guest_keeps_its_connections_and_a_new_driver_does_not() {
    let mut bench = Bench::new();
    let (mut client, mine) = bench.connect();
    let positions = bench.vmm.stop();
    // Nothing moves while the rings are stopped.
    client.write_all(b"meanwhile").unwrap();
    let rings = [bench.guest.receive.clone(), bench.guest.transmit.clone()];
    let rings = [&rings[0], &rings[1]];
    bench.vmm.start(&bench.guest.memory, &rings, &positions);
    assert_eq!(bench.next().1, b"meanwhile");
    bench.ping(&mut client, &mine);

    bench.vmm.stop();
    let memory = bench.guest.memory.clone();
    bench.guest = Guest::new(memory);
    bench.guest.clear();
    bench.guest.post(0..256);
    let rings = [bench.guest.receive.clone(), bench.guest.transmit.clone()];
    let rings = [&rings[0], &rings[1]];
    bench.vmm.start(&bench.guest.memory, &rings, &[0, 0]);
    assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
    let (mut client, mine) = bench.connect();
    bench.ping(&mut client, &mine);
}

#[test]
fn arguments_that_cannot_work_are_one_clear_line() {
    let directory = tempfile::tempdir().unwrap();
    let listener = vmm::listen(&directory.path().join("socket"));
    let other = vmm::listen(&directory.path().join("other"));
    let (connected, _peer) = UnixStream::pair().unwrap();
    let path = directory.path().join("vsock").display().to_string();
    let start = |vhost: i32, host: i32, uds: &str, cid: &str| {
        let arguments = [
            format!("--vhost-socket-fd={vhost}"),
            format!("--listen-fd={host}"),
            format!("--uds={uds}"),
            format!("--guest-cid={cid}"),
        ];
        vmm::end(vmm::start(PROGRAM, &arguments, &[&listener, &other]))
    };
    let good = (listener.as_raw_fd(), other.as_raw_fd());
    let not_listening = connected.as_raw_fd();
    nix::fcntl::fcntl(
        &connected,
        nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()),
    )
    .unwrap();
    for (result, what) in [
        (start(good.0, 999, &path, "3"), "descriptor 999"),
        (start(-1, good.1, &path, "3"), "descriptor -1"),
        (
            start(not_listening, good.1, &path, "3"),
            "is not a listening socket",
        ),
        (start(good.0, good.0, &path, "3"), "are the same"),
        (start(good.0, good.1, &path, "2"), "cannot be a guest's CID"),
        (start(good.0, good.1, "/", "3"), "names no file"),
        (
            start(good.0, good.1, "/does/not/exist", "3"),
            "cannot find the directory",
        ),
    ] {
        let (exit, errors) = result;
        assert_eq!(exit.code(), Some(1), "{errors}");
        assert!(
            errors.contains(what) && errors.lines().count() == 1,
            "{errors}"
        );
    }
}
