//! Packets to the guest: connections take turns.

use vm_memory::VolatileSlice;

use super::{Entry, Muxer, Reset, SMALL_BURST};
use crate::vsock::connection::{Connection, header_to};
use crate::vsock::packet::{Header, Op, Parts};
use crate::vsock::stream::Progress;

/// The most buffers that one connection fills before the next one's turn.
const MAX_BURST: usize = 64;

/// What the next turn needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Demand {
    /// Buffers.
    pub buffers: usize,
    /// Bytes in these buffers; 0 for packets without data.
    pub bytes: usize,
}

impl Muxer {
    /// What the next turn needs, or `None` if there is nothing for the guest.
    pub fn demand(&mut self) -> Option<Demand> {
        let packet = Demand {
            buffers: 1,
            bytes: 0,
        };
        if !self.resets.is_empty() {
            return Some(packet);
        }
        while let Some(&id) = self.turns.front() {
            if let Some(entry) = self.entries.get_mut(&id)
                && let Some(connection) = &entry.connection
            {
                let credit = connection.credit();
                if connection.owed().is_some() {
                    return Some(packet);
                }
                if entry.readable && credit > 0 {
                    let bytes = usize::try_from(credit).unwrap_or(usize::MAX);
                    return Some(Demand {
                        buffers: entry.burst,
                        bytes,
                    });
                }
                entry.queued = false;
            }
            self.turns.pop_front();
        }
        None
    }

    /// Takes the turn that [`Self::demand`] announced: fills the first of `buffers`, which hold no
    /// more bytes than announced, and returns their headers in order.
    pub fn produce(&mut self, buffers: &[Parts<'_>]) -> Vec<Header> {
        if let Some(Reset { ports, kind }) = self.resets.pop_front() {
            return vec![header_to(ports, self.guest_cid, kind).with_op(Op::Reset)];
        }
        let Some(id) = self.turns.pop_front() else {
            return Vec::new();
        };
        let Some(entry) = self.entries.get_mut(&id) else {
            return Vec::new();
        };
        entry.queued = false;
        let Entry {
            stream,
            connection: Some(connection),
            ..
        } = entry
        else {
            return Vec::new();
        };
        let headers = if let Some(op) = connection.owed() {
            vec![connection.send_owed(op)]
        } else if let Some(stream) = stream {
            let parts: Parts<'_> = buffers.iter().flatten().copied().collect();
            let room: usize = parts.iter().map(VolatileSlice::len).sum();
            match stream.receive(&parts) {
                Progress::Bytes(count) => {
                    entry.burst = if count == room {
                        (entry.burst * 2).min(MAX_BURST)
                    } else {
                        SMALL_BURST
                    };
                    data_headers(connection, buffers, count)
                }
                Progress::Blocked => {
                    entry.readable = false;
                    Vec::new()
                }
                Progress::Ended => {
                    entry.readable = false;
                    connection.on_host_ended();
                    Vec::new()
                }
            }
        } else {
            Vec::new()
        };
        if connection.host_is_done() {
            // Nothing goes either way any more; only the guest's farewell is missing.
            entry.stream = None;
        }
        self.queue(id);
        headers
    }
}

/// The headers for `count` bytes that were read into `buffers`.
fn data_headers(connection: &mut Connection, buffers: &[Parts<'_>], count: usize) -> Vec<Header> {
    let mut left = count;
    let mut headers = Vec::with_capacity(buffers.len());
    for buffer in buffers {
        if left == 0 {
            break;
        }
        let room: usize = buffer.iter().map(VolatileSlice::len).sum();
        let len = left.min(room);
        left -= len;
        // A buffer is never longer than the credit, which is 32 bits.
        headers.push(connection.send_data(u32::try_from(len).unwrap_or(u32::MAX)));
    }
    headers
}
