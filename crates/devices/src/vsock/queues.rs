//! Moves packets between the virtio queues and the muxer.

use virtio_queue::{Error, Queue, QueueOwnedT, QueueT};
use vm_memory::GuestMemoryMmap;

use super::muxer::{Demand, Muxer};
use super::packet::{Access, Buffer, HEADER_LEN, Parts, truncate};

/// A header's length as the used ring has it.
const HEADER: u32 = 44;
const _: () = assert!(HEADER as usize == HEADER_LEN);

/// Takes all packets that the guest has queued; true if there was one.
///
/// # Errors
/// When the queue itself lies outside the guest's memory.
pub fn serve_transmit(
    muxer: &mut Muxer,
    queue: &mut Queue,
    memory: &GuestMemoryMmap,
) -> Result<bool, Error> {
    let mut moved = false;
    loop {
        queue.disable_notification(memory)?;
        let mut progress = false;
        while muxer.takes_packets()
            && let Some(chain) = queue.iter(memory)?.next()
        {
            progress = true;
            let head = chain.head_index();
            // What is not a packet is dropped: there is nobody to be told.
            if let Some(buffer) = Buffer::new(memory, chain, Access::Readable) {
                let header = buffer.read_header();
                let len = usize::try_from(header.len).unwrap_or(usize::MAX);
                if let Some(payload) = buffer.payload(len) {
                    muxer.on_packet(&header, payload);
                }
            }
            queue.add_used(memory, head, 0)?;
        }
        moved |= progress;
        // Without progress the rest, if any, waits for the guest to take what it was sent.
        if !queue.enable_notification(memory)? || !progress {
            return Ok(moved);
        }
    }
}

/// Gives the guest all packets that there are and that it has buffers for; true if there was one.
///
/// # Errors
/// When the queue itself lies outside the guest's memory.
pub fn serve_receive(
    muxer: &mut Muxer,
    queue: &mut Queue,
    memory: &GuestMemoryMmap,
) -> Result<bool, Error> {
    let mut moved = false;
    while let Some(demand) = muxer.demand() {
        let buffers = take_buffers(queue, memory, demand)?;
        if buffers.is_empty() {
            // Asks to be told of buffers to come. Some may have come just now.
            if queue.enable_notification(memory)? {
                continue;
            }
            return Ok(moved);
        }
        let headers = muxer.produce(&room(&buffers, demand.bytes));
        for _ in headers.len()..buffers.len() {
            queue.go_to_previous_position();
        }
        for ((head, buffer), header) in buffers.iter().zip(&headers) {
            buffer.write_header(header);
            queue.add_used(memory, *head, HEADER.saturating_add(header.len))?;
            moved = true;
        }
    }
    Ok(moved)
}

/// The next buffers of the guest, with the heads of their chains: as many as there are, up to what is
/// demanded.
fn take_buffers<'m>(
    queue: &mut Queue,
    memory: &'m GuestMemoryMmap,
    demand: Demand,
) -> Result<Vec<(u16, Buffer<'m>)>, Error> {
    let mut buffers = Vec::with_capacity(demand.buffers);
    let mut bytes = 0;
    while buffers.len() < demand.buffers {
        let Some(chain) = queue.iter(memory)?.next() else {
            break;
        };
        let head = chain.head_index();
        match Buffer::new(memory, chain, Access::Writable) {
            Some(buffer) if demand.bytes == 0 || buffer.payload_len() > 0 => {
                bytes += buffer.payload_len();
                buffers.push((head, buffer));
                if bytes >= demand.bytes {
                    break;
                }
            }
            // No use for it. It can be returned only when nothing before it might be put back.
            _ if buffers.is_empty() => queue.add_used(memory, head, 0)?,
            _ => {
                queue.go_to_previous_position();
                break;
            }
        }
    }
    Ok(buffers)
}

/// The memory for data in `buffers`, `bytes` in all at most.
fn room<'m>(buffers: &[(u16, Buffer<'m>)], bytes: usize) -> Vec<Parts<'m>> {
    let mut left = bytes;
    buffers
        .iter()
        .map(|(_, buffer)| {
            let mut parts = Parts::new();
            buffer.append_payload(&mut parts);
            truncate(&mut parts, left);
            left = left.saturating_sub(buffer.payload_len());
            parts
        })
        .collect()
}
