//! A guest that does what it likes with its rings and its packets, and host programs that do what they
//! like with their sockets. The back end must not panic, and what it sends must be right.
#![no_main]

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::OnceLock;

use arbitrary::Arbitrary;
use hull_devices::vsock::muxer::Muxer;
use hull_devices::vsock::packet::{HEADER_LEN, HOST_CID, Header, TYPE_STREAM};
use hull_devices::vsock::queues::{serve_receive, serve_transmit};
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

const CID: u64 = 3;
/// The port behind which a host program listens.
const SERVICE: u32 = 1024;
const MEMORY: usize = 1 << 20;
const RING_SIZE: u16 = 16;
const RECEIVE_RING: u64 = 0x1_0000;
const TRANSMIT_RING: u64 = 0x2_0000;
const RECEIVE_BUFFERS: u64 = 0x3_0000;
const TRANSMIT_BUFFERS: u64 = 0x5_0000;
/// The room of a buffer.
const SLOT: u64 = 0x1000;
const WRITE: u16 = 2;
const NEXT: u16 = 1;
const MAX_CONNECTIONS: usize = 4;

#[derive(Debug, Arbitrary)]
enum Port {
    Service,
    /// The last connection that the back end asked for.
    Asked,
    Any(u32),
}

#[derive(Debug, Arbitrary)]
enum Step {
    /// A packet as a driver sends it, its payload perhaps shorter than it says.
    Packet {
        op: u8,
        stream: bool,
        host: Port,
        guest: u8,
        flags: u8,
        len: Option<u32>,
        payload: u8,
        buf_alloc: u32,
        fwd_cnt: u32,
        parts: u8,
    },
    /// Descriptors of any kind.
    Descriptors {
        transmit: bool,
        head: u16,
        descriptors: Vec<(u32, u32, u16, u16)>,
    },
    /// Any position of the driver in a ring.
    Position {
        transmit: bool,
        index: u16,
    },
    /// Room for packets to the guest.
    Room {
        count: u8,
        len: u16,
    },
    Connect {
        greeting: Vec<u8>,
    },
    ConnectTo {
        port: u8,
    },
    Write {
        client: u8,
        bytes: u16,
    },
    Read {
        client: u8,
    },
    Close {
        client: u8,
    },
    Reset,
}

struct Ring {
    base: u64,
    offered: u16,
    seen: u16,
    queue: Queue,
}

impl Ring {
    fn new(base: u64) -> Self {
        let mut queue = Queue::new(RING_SIZE).unwrap();
        queue
            .try_set_desc_table_address(GuestAddress(base))
            .unwrap();
        queue
            .try_set_avail_ring_address(GuestAddress(base + 0x4000))
            .unwrap();
        queue
            .try_set_used_ring_address(GuestAddress(base + 0x8000))
            .unwrap();
        queue.set_event_idx(true);
        queue.set_ready(true);
        Self {
            base,
            offered: 0,
            seen: 0,
            queue,
        }
    }

    fn describe(&self, memory: &GuestMemoryMmap, index: u16, fields: (u64, u32, u16, u16)) {
        let (address, len, flags, next) = fields;
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&address.to_le_bytes());
        bytes[8..12].copy_from_slice(&len.to_le_bytes());
        bytes[12..14].copy_from_slice(&flags.to_le_bytes());
        bytes[14..].copy_from_slice(&next.to_le_bytes());
        let at = GuestAddress(self.base + u64::from(index % RING_SIZE) * 16);
        memory.write_slice(&bytes, at).unwrap();
    }

    fn offer(&mut self, memory: &GuestMemoryMmap, head: u16) {
        let slot = u64::from(self.offered % RING_SIZE);
        let ring = self.base + 0x4000;
        memory
            .write_obj(head, GuestAddress(ring + 4 + 2 * slot))
            .unwrap();
        self.offered = self.offered.wrapping_add(1);
        memory
            .write_obj(self.offered, GuestAddress(ring + 2))
            .unwrap();
    }

    /// The next chain that the device has finished with, and the bytes that it wrote.
    fn take(&mut self, memory: &GuestMemoryMmap) -> Option<(u32, u32)> {
        let ring = self.base + 0x8000;
        let index: u16 = memory.read_obj(GuestAddress(ring + 2)).unwrap();
        if index == self.seen {
            return None;
        }
        let element = ring + 4 + 8 * u64::from(self.seen % RING_SIZE);
        self.seen = self.seen.wrapping_add(1);
        Some((
            memory.read_obj(GuestAddress(element)).unwrap(),
            memory.read_obj(GuestAddress(element + 4)).unwrap(),
        ))
    }
}

/// Everything of one run.
struct World {
    memory: GuestMemoryMmap,
    muxer: Muxer,
    receive: Ring,
    transmit: Ring,
    service: UnixListener,
    uds: PathBuf,
    clients: VecDeque<UnixStream>,
    asked: u32,
    /// The driver keeps to the rules of a ring, so that what it is sent can be looked at.
    lawful: bool,
}

fn directory() -> &'static TempDir {
    static DIRECTORY: OnceLock<TempDir> = OnceLock::new();
    DIRECTORY.get_or_init(|| tempfile::tempdir().unwrap())
}

fn bind(path: &PathBuf) -> UnixListener {
    // Of the run before.
    let _ = std::fs::remove_file(path);
    UnixListener::bind(path).unwrap()
}

impl World {
    fn new() -> Self {
        let uds = directory().path().join("vsock");
        let listener = bind(&uds);
        let service = bind(&directory().path().join(format!("vsock_{SERVICE}")));
        service.set_nonblocking(true).unwrap();
        Self {
            memory: GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)]).unwrap(),
            muxer: Muxer::new(CID, listener.into(), uds.clone(), MAX_CONNECTIONS).unwrap(),
            receive: Ring::new(RECEIVE_RING),
            transmit: Ring::new(TRANSMIT_RING),
            service,
            uds,
            clients: VecDeque::new(),
            asked: 0,
            lawful: true,
        }
    }

    /// The back end's turn. It ends: a guest and host programs that do nothing give it nothing to do.
    fn turn(&mut self) {
        for _ in 0..1000 {
            let events = self.muxer.poll();
            let memory = &self.memory;
            // An error means a ring outside the memory, which ends the device.
            let sent = serve_transmit(&mut self.muxer, &mut self.transmit.queue, memory);
            let received = serve_receive(&mut self.muxer, &mut self.receive.queue, memory);
            let (Ok(sent), Ok(received)) = (sent, received) else {
                return;
            };
            self.look();
            while let Ok((stream, _)) = self.service.accept() {
                self.keep(stream);
            }
            if !events && !sent && !received {
                return;
            }
        }
        panic!("the back end does not come to rest");
    }

    /// Checks the packets that the guest got.
    fn look(&mut self) {
        while let Some((head, len)) = self.receive.take(&self.memory) {
            // A buffer without room for a header comes back as it was.
            if !self.lawful || len == 0 {
                continue;
            }
            let mut bytes = [0; HEADER_LEN];
            let at = RECEIVE_BUFFERS + u64::from(head) * SLOT;
            self.memory
                .read_slice(&mut bytes, GuestAddress(at))
                .unwrap();
            let header = Header::from_bytes(&bytes);
            assert_eq!((header.src_cid, header.dst_cid), (HOST_CID, CID));
            assert!(header.operation().is_some(), "{header:?}");
            assert_eq!(u64::from(len), HEADER_LEN as u64 + u64::from(header.len));
            if header.src_port != SERVICE {
                self.asked = header.src_port;
            }
        }
    }

    fn keep(&mut self, stream: UnixStream) {
        stream.set_nonblocking(true).unwrap();
        self.clients.push_back(stream);
        if self.clients.len() > 2 * MAX_CONNECTIONS {
            self.clients.pop_front();
        }
    }

    fn connect(&mut self, greeting: &[u8]) {
        if let Ok(mut stream) = UnixStream::connect(&self.uds) {
            // The back end may have closed it already.
            let _ = stream.write(greeting);
            self.keep(stream);
        }
    }

    fn client(&mut self, index: u8) -> Option<usize> {
        usize::from(index).checked_rem(self.clients.len())
    }

    fn packet(&mut self, header: &Header, payload: u8, parts: u8) {
        while self.transmit.take(&self.memory).is_some() {}
        let head = self.transmit.offered % RING_SIZE;
        let at = TRANSMIT_BUFFERS + u64::from(head) * SLOT;
        let bytes = [&header.to_bytes()[..], &vec![b'p'; usize::from(payload)]].concat();
        self.memory.write_slice(&bytes, GuestAddress(at)).unwrap();
        let len = u32::try_from(bytes.len()).unwrap();
        // In one piece, or cut anywhere into two.
        let cut = u32::from(parts).min(len);
        let memory = &self.memory;
        let next = (head + 1) % RING_SIZE;
        if cut == 0 {
            self.transmit.describe(memory, head, (at, len, 0, 0));
        } else {
            self.transmit.describe(memory, head, (at, cut, NEXT, next));
            let rest = (at + u64::from(cut), len - cut, 0, 0);
            self.transmit.describe(memory, next, rest);
        }
        self.transmit.offer(memory, head);
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Packet {
                op,
                stream,
                host,
                guest,
                flags,
                len,
                payload,
                buf_alloc,
                fwd_cnt,
                parts,
            } => {
                let header = Header {
                    src_cid: CID,
                    dst_cid: HOST_CID,
                    // Few, so that packets are about the same connection.
                    src_port: u32::from(*guest % 8),
                    dst_port: match host {
                        Port::Service => SERVICE,
                        Port::Asked => self.asked,
                        Port::Any(port) => *port,
                    },
                    len: len.unwrap_or(u32::from(*payload)),
                    kind: if *stream {
                        TYPE_STREAM
                    } else {
                        u16::from(*flags)
                    },
                    op: u16::from(op % 10),
                    flags: u32::from(*flags),
                    buf_alloc: *buf_alloc,
                    fwd_cnt: *fwd_cnt,
                };
                self.packet(&header, *payload, *parts);
            }
            Step::Descriptors {
                transmit,
                head,
                descriptors,
            } => {
                self.lawful &= *transmit;
                let ring = if *transmit {
                    &mut self.transmit
                } else {
                    &mut self.receive
                };
                for (index, (address, len, flags, next)) in (0..RING_SIZE).zip(descriptors) {
                    let fields = (u64::from(*address), *len, *flags, *next);
                    ring.describe(&self.memory, head.wrapping_add(index), fields);
                }
                ring.offer(&self.memory, *head);
            }
            Step::Position { transmit, index } => {
                self.lawful = false;
                let ring = if *transmit {
                    &mut self.transmit
                } else {
                    &mut self.receive
                };
                ring.offered = *index;
                let at = GuestAddress(ring.base + 0x4002);
                self.memory.write_obj(*index, at).unwrap();
            }
            Step::Room { count, len } => {
                for _ in 0..count % (RING_SIZE as u8) {
                    let in_use = self.receive.offered.wrapping_sub(self.receive.seen);
                    if in_use >= RING_SIZE {
                        break;
                    }
                    let head = self.receive.offered % RING_SIZE;
                    let address = RECEIVE_BUFFERS + u64::from(head) * SLOT;
                    let len = u32::from(*len).min(SLOT as u32);
                    let fields = (address, len, WRITE, 0);
                    self.receive.describe(&self.memory, head, fields);
                    self.receive.offer(&self.memory, head);
                }
            }
            Step::Connect { greeting } => self.connect(greeting),
            Step::ConnectTo { port } => self.connect(format!("CONNECT {port}\n").as_bytes()),
            Step::Write { client, bytes } => {
                if let Some(index) = self.client(*client) {
                    let _ = self.clients[index].write(&vec![b'w'; usize::from(*bytes)]);
                }
            }
            Step::Read { client } => {
                if let Some(index) = self.client(*client) {
                    let _ = self.clients[index].read(&mut [0; 4096]);
                }
            }
            Step::Close { client } => {
                if let Some(index) = self.client(*client) {
                    self.clients.remove(index);
                }
            }
            Step::Reset => self.muxer.on_guest_reset(),
        }
    }
}

fuzz_target!(|steps: Vec<Step>| {
    let mut world = World::new();
    for step in steps.iter().take(64) {
        world.step(step);
        world.turn();
    }
});
