//! The packets of virtio-vsock and the guest memory that they are in.
//!
//! Numbers are from section 5.10 of the virtio specification. A packet may be spread over
//! descriptors in any way, as version 1 of virtio allows.

use virtio_queue::desc::split::Descriptor;
use vm_memory::{GuestMemory, GuestMemoryMmap, VolatileSlice};

/// The size of a header, in bytes.
pub const HEADER_LEN: usize = 44;
/// The host's address on every guest's vsock.
pub const HOST_CID: u64 = 2;
/// The type of a connection that carries a byte stream.
pub const TYPE_STREAM: u16 = 1;
/// In a shutdown packet: the sender receives no more.
pub const SHUTDOWN_RECEIVE: u32 = 1;
/// In a shutdown packet: the sender sends no more.
pub const SHUTDOWN_SEND: u32 = 2;

/// The most pieces of memory that a packet may be spread over. Linux uses 18 at most: a header and
/// 64 KiB in pages.
const MAX_PARTS: usize = 64;

/// What a packet is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Asks for a connection.
    Request,
    /// Accepts a connection.
    Response,
    /// Refuses a connection, or ends it at once.
    Reset,
    /// Ends one direction of a connection, or both.
    Shutdown,
    /// Carries data.
    Data,
    /// Tells how much can be received.
    CreditUpdate,
    /// Asks how much can be sent.
    CreditRequest,
}

impl Op {
    const fn number(self) -> u16 {
        match self {
            Self::Request => 1,
            Self::Response => 2,
            Self::Reset => 3,
            Self::Shutdown => 4,
            Self::Data => 5,
            Self::CreditUpdate => 6,
            Self::CreditRequest => 7,
        }
    }

    const fn from_number(number: u16) -> Option<Self> {
        Some(match number {
            1 => Self::Request,
            2 => Self::Response,
            3 => Self::Reset,
            4 => Self::Shutdown,
            5 => Self::Data,
            6 => Self::CreditUpdate,
            7 => Self::CreditRequest,
            _ => return None,
        })
    }
}

/// A packet's header, as it is, valid or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Header {
    /// The sender's address.
    pub src_cid: u64,
    /// The receiver's address.
    pub dst_cid: u64,
    /// The sender's port.
    pub src_port: u32,
    /// The receiver's port.
    pub dst_port: u32,
    /// The number of bytes that follow the header.
    pub len: u32,
    /// The type of the connection.
    pub kind: u16,
    /// The number of the operation.
    pub op: u16,
    /// Operation specific.
    pub flags: u32,
    /// The size of the sender's receive buffer, in bytes.
    pub buf_alloc: u32,
    /// How many bytes the sender has taken out of its receive buffer, modulo 2^32.
    pub fwd_cnt: u32,
}

impl Header {
    /// Reads a header.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; HEADER_LEN]) -> Self {
        let mut rest = bytes.as_slice();
        Self {
            src_cid: u64::from_le_bytes(take(&mut rest)),
            dst_cid: u64::from_le_bytes(take(&mut rest)),
            src_port: u32::from_le_bytes(take(&mut rest)),
            dst_port: u32::from_le_bytes(take(&mut rest)),
            len: u32::from_le_bytes(take(&mut rest)),
            kind: u16::from_le_bytes(take(&mut rest)),
            op: u16::from_le_bytes(take(&mut rest)),
            flags: u32::from_le_bytes(take(&mut rest)),
            buf_alloc: u32::from_le_bytes(take(&mut rest)),
            fwd_cnt: u32::from_le_bytes(take(&mut rest)),
        }
    }

    /// Writes a header.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        let mut rest = bytes.as_mut_slice();
        put(&mut rest, &self.src_cid.to_le_bytes());
        put(&mut rest, &self.dst_cid.to_le_bytes());
        put(&mut rest, &self.src_port.to_le_bytes());
        put(&mut rest, &self.dst_port.to_le_bytes());
        put(&mut rest, &self.len.to_le_bytes());
        put(&mut rest, &self.kind.to_le_bytes());
        put(&mut rest, &self.op.to_le_bytes());
        put(&mut rest, &self.flags.to_le_bytes());
        put(&mut rest, &self.buf_alloc.to_le_bytes());
        put(&mut rest, &self.fwd_cnt.to_le_bytes());
        bytes
    }

    /// The operation, if it is a known one.
    #[must_use]
    pub fn operation(&self) -> Option<Op> {
        Op::from_number(self.op)
    }

    /// The same header with another operation.
    #[must_use]
    pub fn with_op(mut self, op: Op) -> Self {
        self.op = op.number();
        self
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> [u8; N] {
    let mut field = [0; N];
    let (head, tail) = rest.split_at(N);
    field.copy_from_slice(head);
    *rest = tail;
    field
}

fn put(rest: &mut &mut [u8], field: &[u8]) {
    let (head, tail) = std::mem::take(rest).split_at_mut(field.len());
    head.copy_from_slice(field);
    *rest = tail;
}

/// Pieces of guest memory, in order.
pub type Parts<'m> = Vec<VolatileSlice<'m>>;

/// The memory of a packet: its header's and what follows.
#[derive(Debug)]
pub struct Buffer<'m> {
    header: Parts<'m>,
    payload: Parts<'m>,
    payload_len: usize,
}

/// Which way a descriptor must point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// The device reads: a packet from the guest.
    Readable,
    /// The device writes: room for a packet to the guest.
    Writable,
}

impl<'m> Buffer<'m> {
    /// The memory that `chain` describes, or `None` if it is too small for a header, in too many
    /// pieces, outside the guest's memory, or points the wrong way.
    pub fn new(
        memory: &'m GuestMemoryMmap,
        chain: impl Iterator<Item = Descriptor>,
        access: Access,
    ) -> Option<Self> {
        let mut header = Parts::with_capacity(1);
        let mut payload = Parts::with_capacity(1);
        let mut missing = HEADER_LEN;
        let mut payload_len = 0;
        for descriptor in chain {
            if descriptor.is_write_only() != (access == Access::Writable) {
                return None;
            }
            let len = usize::try_from(descriptor.len()).ok()?;
            for slice in memory.get_slices(descriptor.addr(), len) {
                let slice = slice.ok()?;
                let split = missing.min(slice.len());
                missing -= split;
                if split > 0 {
                    header.push(slice.subslice(0, split).ok()?);
                }
                if slice.len() > split {
                    payload.push(slice.offset(split).ok()?);
                    payload_len += slice.len() - split;
                }
                if header.len() + payload.len() > MAX_PARTS {
                    return None;
                }
            }
        }
        (missing == 0).then_some(Self {
            header,
            payload,
            payload_len,
        })
    }

    /// The header, read once: the guest can change the memory at any time.
    #[must_use]
    pub fn read_header(&self) -> Header {
        let mut bytes = [0; HEADER_LEN];
        let mut rest = bytes.as_mut_slice();
        for part in &self.header {
            let (head, tail) = std::mem::take(&mut rest).split_at_mut(part.len());
            part.copy_to(head);
            rest = tail;
        }
        Header::from_bytes(&bytes)
    }

    /// Writes the header.
    pub fn write_header(&self, header: &Header) {
        let bytes = header.to_bytes();
        let mut rest = bytes.as_slice();
        for part in &self.header {
            let (head, tail) = rest.split_at(part.len());
            part.copy_from(head);
            rest = tail;
        }
    }

    /// How many bytes fit after the header.
    #[must_use]
    pub fn payload_len(&self) -> usize {
        self.payload_len
    }

    /// The memory after the header, `len` bytes of it; `None` if there is less.
    #[must_use]
    pub fn payload(mut self, len: usize) -> Option<Parts<'m>> {
        (len <= self.payload_len).then(|| {
            truncate(&mut self.payload, len);
            self.payload
        })
    }

    /// Appends the memory after the header to `parts`.
    pub fn append_payload(&self, parts: &mut Parts<'m>) {
        parts.extend_from_slice(&self.payload);
    }
}

/// Cuts `parts` down to `len` bytes in all.
pub fn truncate(parts: &mut Parts<'_>, len: usize) {
    let mut left = len;
    parts.retain_mut(|part| {
        let keep = left.min(part.len());
        left -= keep;
        match part.subslice(0, keep) {
            Ok(cut) => *part = cut,
            // Cannot be: `keep` is no more than there is.
            Err(_) => return false,
        }
        keep > 0
    });
}

/// Takes the first `len` bytes off `parts`.
pub fn advance(parts: &mut Parts<'_>, len: usize) {
    let mut left = len;
    parts.retain_mut(|part| {
        let skip = left.min(part.len());
        left -= skip;
        match part.offset(skip) {
            Ok(rest) => *part = rest,
            // Cannot be: `skip` is no more than there is.
            Err(_) => return false,
        }
        !part.is_empty()
    });
}
