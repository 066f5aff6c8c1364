//! A back end as a process, and a VMM that is connected to it: guest memory in a file, and rings with
//! their events.

use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use vhost::vhost_user::message::VhostUserProtocolFeatures;
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vm_memory::{FileOffset, GuestAddress, GuestMemory, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

use super::{MEMORY, Ring};

/// How long a back end may take before a test fails rather than hangs, in milliseconds.
const PATIENCE: u16 = 20_000;

/// Version 1 of virtio, and the protocol features of vhost-user.
const FEATURES: u64 = 1 << 32 | 1 << 30;

/// Starts `program`, which inherits `listeners`, and has `{}` in its arguments replaced by them.
pub fn start(program: &str, arguments: &[String], listeners: &[&UnixListener]) -> Child {
    for listener in listeners {
        fcntl(listener.as_fd(), FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
    }
    Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// How a process ended, and what it said.
pub fn end(mut child: Child) -> (ExitStatus, String) {
    let mut errors = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut errors)
        .unwrap();
    (child.wait().unwrap(), errors)
}

/// A field of `/proc/<pid>/status`.
pub fn status(child: &Child, field: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(field))
        .unwrap();
    line.trim_start_matches(':').trim().to_string()
}

/// A connected VMM.
pub struct Vmm {
    pub frontend: Frontend,
    events: Vec<(EventFd, EventFd)>,
}

/// Guest memory that another process can map.
pub fn shared_memory() -> GuestMemoryMmap {
    let file = tempfile::tempfile().unwrap();
    file.set_len(MEMORY as u64).unwrap();
    let range = (GuestAddress(0), MEMORY, Some(FileOffset::new(file, 0)));
    GuestMemoryMmap::from_ranges_with_files([range]).unwrap()
}

impl Vmm {
    /// Connects to the back end at `socket` and starts a device with these rings.
    pub fn connect(
        socket: &Path,
        memory: &GuestMemoryMmap,
        rings: &[&Ring],
        protocol: VhostUserProtocolFeatures,
    ) -> Self {
        let mut frontend = Frontend::connect(socket, rings.len() as u64).unwrap();
        frontend.set_owner().unwrap();
        let offered = frontend.get_features().unwrap();
        assert_eq!(offered & FEATURES, FEATURES);
        frontend.get_protocol_features().unwrap();
        frontend.set_protocol_features(protocol).unwrap();
        let region = memory.iter().next().unwrap();
        frontend.set_features(FEATURES).unwrap();
        let region = VhostUserMemoryRegionInfo::from_guest_region(region).unwrap();
        frontend.set_mem_table(&[region]).unwrap();
        let mut vmm = Self {
            frontend,
            events: Vec::new(),
        };
        vmm.start(memory, rings, &vec![0; rings.len()]);
        vmm
    }

    /// Starts the rings at the given positions.
    pub fn start(&mut self, memory: &GuestMemoryMmap, rings: &[&Ring], positions: &[u16]) {
        self.frontend.set_features(FEATURES).unwrap();
        self.events.clear();
        for (index, (ring, &position)) in rings.iter().zip(positions).enumerate() {
            let at = |address: GuestAddress| memory.get_host_address(address).unwrap() as u64;
            let (kick, call) = (EventFd::new(0).unwrap(), EventFd::new(0).unwrap());
            self.frontend.set_vring_num(index, ring.size).unwrap();
            self.frontend.set_vring_base(index, position).unwrap();
            let config = VringConfigData {
                queue_max_size: ring.size,
                queue_size: ring.size,
                flags: 0,
                desc_table_addr: at(ring.descriptors()),
                used_ring_addr: at(ring.used()),
                avail_ring_addr: at(ring.available()),
                log_addr: None,
            };
            self.frontend.set_vring_addr(index, &config).unwrap();
            self.frontend.set_vring_call(index, &call).unwrap();
            self.frontend.set_vring_kick(index, &kick).unwrap();
            self.frontend.set_vring_enable(index, true).unwrap();
            self.events.push((kick, call));
        }
        for index in 0..rings.len() {
            self.kick(index);
        }
    }

    /// Stops the rings; returns where each of them stopped.
    pub fn stop(&mut self) -> Vec<u16> {
        (0..self.events.len())
            .map(|index| self.frontend.get_vring_base(index).unwrap())
            .map(|position| u16::try_from(position).unwrap())
            .collect()
    }

    /// Tells the back end that ring `index` has something new.
    pub fn kick(&self, index: usize) {
        self.events[index].0.write(1).unwrap();
    }

    /// Waits until the back end has used something of ring `index`.
    pub fn wait(&self, index: usize) {
        let call = &self.events[index].1;
        wait_readable(call);
        call.read().unwrap();
    }
}

/// Waits until there is something to read, or the other side has gone.
pub fn wait_readable(file: &impl AsRawFd) {
    // SAFETY: the descriptor is open for as long as `file` is borrowed.
    let fd = unsafe { BorrowedFd::borrow_raw(file.as_raw_fd()) };
    let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
    assert_eq!(
        poll(&mut fds, PollTimeout::from(PATIENCE)),
        Ok(1),
        "nothing happens"
    );
}

/// A listening socket at `path`.
pub fn listen(path: &Path) -> UnixListener {
    UnixListener::bind(path).unwrap()
}
