//! A guest's vsock driver in a few lines: two rings in memory, and packets in and out of them.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "every test file uses another part, and a failure is a panic"
)]

pub mod bench;
pub mod vmm;

use hull_devices::vsock::packet::{HEADER_LEN, Header};
use virtio_queue::desc::RawDescriptor;
use virtio_queue::desc::split::Descriptor;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryMmap};

/// The size of the guest's memory, in bytes.
pub const MEMORY: usize = 8 << 20;
/// The guest's address.
pub const CID: u64 = 3;
/// The size of a buffer for a packet to the guest, in bytes.
pub const ROOM: u32 = 4096;

const RECEIVE_RING: u64 = 0x1_0000;
const TRANSMIT_RING: u64 = 0x2_0000;
const RECEIVE_BUFFERS: u64 = 0x10_0000;
const TRANSMIT_BUFFERS: u64 = 0x40_0000;
/// Room for a header and 64 KiB.
const TRANSMIT_SLOT: u64 = 0x1_1000;
pub const WRITE: u16 = 2;
pub const NEXT: u16 = 1;

/// One split ring, as the driver sees it.
#[derive(Debug, Clone)]
pub struct Ring {
    pub base: u64,
    pub size: u16,
    offered: u16,
    seen: u16,
}

impl Ring {
    fn new(base: u64, size: u16) -> Self {
        Self {
            base,
            size,
            offered: 0,
            seen: 0,
        }
    }

    pub fn descriptors(&self) -> GuestAddress {
        GuestAddress(self.base)
    }

    pub fn available(&self) -> GuestAddress {
        GuestAddress(self.base + 0x4000)
    }

    pub fn used(&self) -> GuestAddress {
        GuestAddress(self.base + 0x8000)
    }

    /// The device's side of the ring.
    pub fn queue(&self) -> Queue {
        let mut queue = Queue::new(self.size).unwrap();
        queue
            .try_set_desc_table_address(self.descriptors())
            .unwrap();
        queue.try_set_avail_ring_address(self.available()).unwrap();
        queue.try_set_used_ring_address(self.used()).unwrap();
        queue.set_event_idx(true);
        queue.set_ready(true);
        queue
    }

    pub fn describe(&self, memory: &GuestMemoryMmap, index: u16, descriptor: Descriptor) {
        let address = self.descriptors().unchecked_add(u64::from(index) * 16);
        memory
            .write_obj(RawDescriptor::from(descriptor), address)
            .unwrap();
    }

    /// Offers the chain that starts at `head` to the device.
    pub fn offer(&mut self, memory: &GuestMemoryMmap, head: u16) {
        let slot = u64::from(self.offered % self.size);
        memory
            .write_obj(head, self.available().unchecked_add(4 + 2 * slot))
            .unwrap();
        self.offered = self.offered.wrapping_add(1);
        memory
            .write_obj(self.offered, self.available().unchecked_add(2))
            .unwrap();
    }

    /// The next chain that the device has finished with, and how many bytes it wrote.
    pub fn take(&mut self, memory: &GuestMemoryMmap) -> Option<(u16, u32)> {
        let index: u16 = memory.read_obj(self.used().unchecked_add(2)).unwrap();
        if index == self.seen {
            return None;
        }
        let slot = u64::from(self.seen % self.size);
        let element = self.used().unchecked_add(4 + 8 * slot);
        self.seen = self.seen.wrapping_add(1);
        let head: u32 = memory.read_obj(element).unwrap();
        let len = memory.read_obj(element.unchecked_add(4)).unwrap();
        Some((u16::try_from(head).unwrap(), len))
    }
}

/// A packet with what came after its header.
pub type Packet = (Header, Vec<u8>);

/// The driver.
#[derive(Debug)]
pub struct Guest {
    pub memory: GuestMemoryMmap,
    pub receive: Ring,
    pub transmit: Ring,
    free: Vec<u16>,
}

impl Guest {
    pub fn new(memory: GuestMemoryMmap) -> Self {
        Self {
            memory,
            receive: Ring::new(RECEIVE_RING, 256),
            transmit: Ring::new(TRANSMIT_RING, 32),
            free: (0..32).collect(),
        }
    }

    pub fn in_memory() -> Self {
        Self::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)]).unwrap())
    }

    /// Makes the rings empty, as a driver does that starts.
    pub fn clear(&mut self) {
        for ring in [&self.receive, &self.transmit] {
            self.memory
                .write_slice(&[0; 0x1_0000], GuestAddress(ring.base))
                .unwrap();
        }
    }

    /// Gives the device buffers `range` for packets to the guest.
    pub fn post(&mut self, range: std::ops::Range<u16>) {
        for index in range {
            let address = RECEIVE_BUFFERS + u64::from(index) * u64::from(ROOM);
            let descriptor = Descriptor::new(address, ROOM, WRITE, 0);
            self.receive.describe(&self.memory, index, descriptor);
            self.receive.offer(&self.memory, index);
        }
    }

    /// Where the transmit chain `index` has its bytes.
    pub fn slot(index: u16) -> GuestAddress {
        GuestAddress(TRANSMIT_BUFFERS + u64::from(index) * TRANSMIT_SLOT)
    }

    /// A transmit chain that is not in use.
    pub fn free_chain(&mut self) -> u16 {
        while let Some((head, _)) = self.transmit.take(&self.memory) {
            self.free.push(head);
        }
        self.free.pop().expect("the device takes no packets")
    }

    /// Queues a packet for the device.
    pub fn send(&mut self, header: &Header, payload: &[u8]) {
        let index = self.free_chain();
        let mut bytes = header.to_bytes().to_vec();
        bytes.extend_from_slice(payload);
        self.memory.write_slice(&bytes, Self::slot(index)).unwrap();
        let len = u32::try_from(bytes.len()).unwrap();
        let descriptor = Descriptor::new(Self::slot(index).0, len, 0, 0);
        self.transmit.describe(&self.memory, index, descriptor);
        self.transmit.offer(&self.memory, index);
    }

    /// The next packet from the device. Its buffer is given back.
    pub fn next(&mut self) -> Option<Packet> {
        let (head, len) = self.receive.take(&self.memory)?;
        let address = GuestAddress(RECEIVE_BUFFERS + u64::from(head) * u64::from(ROOM));
        let mut bytes = vec![0; usize::try_from(len).unwrap()];
        self.memory.read_slice(&mut bytes, address).unwrap();
        let (header, payload) = bytes.split_at(HEADER_LEN);
        let packet = (
            Header::from_bytes(header.try_into().unwrap()),
            payload.to_vec(),
        );
        self.receive.offer(&self.memory, head);
        Some(packet)
    }
}

/// A header of a packet from the guest.
pub fn header(guest: u32, host: u32) -> Header {
    Header {
        src_cid: CID,
        dst_cid: 2,
        src_port: guest,
        dst_port: host,
        kind: 1,
        buf_alloc: 256 * 1024,
        ..Header::default()
    }
}
