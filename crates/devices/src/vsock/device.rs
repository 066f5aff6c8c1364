//! The vhost-user device: queues on one side, the muxer on the other.

use std::io;
use std::ops::Deref;
use std::sync::mpsc::Sender;

use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost_user_backend::{VhostUserBackendMut, VringMutex, VringState, VringT};
use virtio_bindings::bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::bindings::virtio_ring::{
    VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC,
};
use virtio_queue::QueueT;
use vm_memory::{GuestAddressSpace, GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::event::{
    EventConsumer, EventFlag, EventNotifier, new_event_consumer_and_notifier,
};

use super::muxer::Muxer;
use super::queues::{serve_receive, serve_transmit};

/// The queues in the order of the virtio specification.
const RECEIVE_QUEUE: usize = 0;
const TRANSMIT_QUEUE: usize = 1;
/// Receive, transmit, event. The last is for the guest to be told that the VM has moved to another
/// host, which does not happen with a back end like this one: the guest's buffers stay in it.
const QUEUES: usize = 3;
const MAX_QUEUE_SIZE: usize = 1024;

/// Sockets have something to say. Numbers up to that of the queues are taken.
pub(super) const HOST_EVENT: u16 = 16;
/// The VMM has gone.
pub(super) const DRAIN_EVENT: u16 = 17;

type Ring = VringMutex<GuestMemoryAtomic<GuestMemoryMmap>>;
type RingState = VringState<GuestMemoryAtomic<GuestMemoryMmap>>;

/// The vsock device of one guest.
#[derive(Debug)]
pub struct Device {
    guest_cid: u64,
    muxer: Muxer,
    memory: Option<GuestMemoryAtomic<GuestMemoryMmap>>,
    /// The rings have been stopped and started since they were last served.
    restarted: bool,
    /// Where receiving and transmitting stopped, to tell a paused guest from one that starts anew.
    positions: (u16, u16),
    drain: EventConsumer,
    /// Told once everything has been delivered after the VMM has gone.
    drained: Option<Sender<()>>,
}

impl Device {
    /// A device that waits for its VMM. When `drain` is raised, it delivers what it still holds and
    /// then says so to `drained`.
    pub fn new(guest_cid: u64, muxer: Muxer, drain: EventConsumer, drained: Sender<()>) -> Self {
        Self {
            guest_cid,
            muxer,
            memory: None,
            restarted: false,
            positions: (0, 0),
            drain,
            drained: Some(drained),
        }
    }

    /// Moves packets both ways until there is nothing more to move.
    fn run(&mut self, receive: &Ring, transmit: &Ring, host_event: bool) {
        let mut look = host_event;
        loop {
            if look {
                self.muxer.poll();
            }
            look = true;
            if !self.serve(&mut receive.get_mut(), &mut transmit.get_mut()) {
                break;
            }
        }
    }

    /// Serves both queues once; false if there was nothing to do.
    fn serve(&mut self, receive: &mut RingState, transmit: &mut RingState) -> bool {
        if !is_running(receive) || !is_running(transmit) {
            return false;
        }
        let Some(memory) = self.memory.as_ref().map(GuestAddressSpace::memory) else {
            return false;
        };
        self.check_restart(receive, transmit);

        let (queue, memory) = (transmit.get_queue_mut(), memory.deref());
        let mut moved = false;
        let result = serve_transmit(&mut self.muxer, queue, memory);
        moved |= finish("transmit", result, transmit);
        let result = serve_receive(&mut self.muxer, receive.get_queue_mut(), memory);
        moved |= finish("receive", result, receive);

        self.positions = positions(receive, transmit);
        moved
    }

    /// A guest whose driver starts anew knows none of the connections. A guest that was only paused
    /// goes on where it stopped.
    fn check_restart(&mut self, receive: &RingState, transmit: &RingState) {
        if std::mem::take(&mut self.restarted) && self.positions != positions(receive, transmit) {
            self.muxer.on_guest_reset();
        }
    }

    fn report_drained(&mut self) {
        if self.muxer.is_drained()
            && let Some(drained) = self.drained.take()
        {
            // Nobody waits only if the process is ending already.
            let _ = drained.send(());
        }
    }
}

fn is_running(ring: &RingState) -> bool {
    ring.is_enabled() && ring.get_queue().ready()
}

fn positions(receive: &RingState, transmit: &RingState) -> (u16, u16) {
    let next = |ring: &RingState| ring.get_queue().next_avail();
    (next(receive), next(transmit))
}

/// Interrupts the guest if it wants that. A queue that cannot be served is left alone until the guest
/// touches it again: it can only be the guest's doing.
fn finish(name: &str, result: Result<bool, virtio_queue::Error>, ring: &mut RingState) -> bool {
    let moved = result.unwrap_or_else(|error| {
        log::warn!("cannot serve the {name} queue as the guest set it up: {error}");
        false
    });
    // Without an answer an interrupt too many does no harm.
    if moved
        && ring.needs_notification().unwrap_or(true)
        && let Err(error) = ring.signal_used_queue()
    {
        log::warn!("cannot interrupt the guest for the {name} queue: {error}");
    }
    moved
}

impl VhostUserBackendMut for Device {
    type Bitmap = ();
    type Vring = Ring;

    fn num_queues(&self) -> usize {
        QUEUES
    }

    fn max_queue_size(&self) -> usize {
        MAX_QUEUE_SIZE
    }

    fn features(&self) -> u64 {
        1 << VIRTIO_F_VERSION_1
            | 1 << VIRTIO_RING_F_INDIRECT_DESC
            | 1 << VIRTIO_RING_F_EVENT_IDX
            | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()
    }

    fn acked_features(&mut self, _features: u64) {
        // The VMM says this at every start of the device.
        self.restarted = true;
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
    }

    fn set_event_idx(&mut self, _enabled: bool) {}

    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        let config = self.guest_cid.to_le_bytes();
        let at = |index: u32| config.get(usize::try_from(index).ok()?).copied();
        (offset..offset.saturating_add(size))
            .map(|index| at(index).unwrap_or(0))
            .collect()
    }

    fn update_memory(&mut self, memory: GuestMemoryAtomic<GuestMemoryMmap>) -> io::Result<()> {
        self.memory = Some(memory);
        Ok(())
    }

    fn exit_event(&self, _thread: usize) -> Option<(EventConsumer, EventNotifier)> {
        // Needed to end the thread. Without descriptors left there will be no thread to end.
        new_event_consumer_and_notifier(EventFlag::NONBLOCK).ok()
    }

    fn handle_event(
        &mut self,
        event: u16,
        _set: EventSet,
        rings: &[Ring],
        _thread: usize,
    ) -> io::Result<()> {
        // An error here would end the thread, so there is none.
        let (Some(receive), Some(transmit)) = (rings.get(RECEIVE_QUEUE), rings.get(TRANSMIT_QUEUE))
        else {
            return Ok(());
        };
        self.run(receive, transmit, event == HOST_EVENT);
        if event == DRAIN_EVENT {
            // It is only read so that it is not seen again.
            let _ = self.drain.consume();
            self.muxer.drain();
        }
        self.report_drained();
        Ok(())
    }
}
