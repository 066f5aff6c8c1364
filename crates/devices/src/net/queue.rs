//! Frames on their way to a guest that reads a stream.
//!
//! A guest that is paused, or hung, does not read. Nobody may wait for it: passt's early versions lose their place
//! in the stream when they find their socket full, and the pod its network with that. So frames are lost here, as in
//! any network whose queues are full.

use std::sync::{Condvar, Mutex, MutexGuard};

/// Bytes that wait at most, twice: as many are on their way meanwhile.
const LIMIT: usize = 4 * 1024 * 1024;
/// Bytes of a buffer that is kept for what comes next.
const KEPT: usize = 256 * 1024;

/// Messages, in their order.
#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    messages: Vec<u8>,
    is_closed: bool,
}

impl Queue {
    /// Adds a message, or drops it where there is no room.
    pub(super) fn put(&self, message: &[u8]) {
        let mut state = self.locked();
        if state.messages.len() + message.len() <= LIMIT {
            state.messages.extend_from_slice(message);
            self.changed.notify_one();
        }
    }

    /// Nothing will be put any more, and what waits is dropped.
    pub(super) fn close(&self) {
        let mut state = self.locked();
        state.is_closed = true;
        self.changed.notify_one();
    }

    /// Waits for messages and takes all of them in place of `batch`, whose content is dropped. False when the queue
    /// is closed.
    pub(super) fn take(&self, batch: &mut Vec<u8>) -> bool {
        batch.clear();
        if batch.capacity() > KEPT {
            *batch = Vec::new();
        }
        let waits = |state: &mut State| state.messages.is_empty() && !state.is_closed;
        let state = self.changed.wait_while(self.locked(), waits);
        let mut state = state.expect(NO_PANIC);
        std::mem::swap(batch, &mut state.messages);
        !state.is_closed
    }

    fn locked(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect(NO_PANIC)
    }
}

const NO_PANIC: &str = "nobody panics with the queue in hand";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_taken_in_their_order() {
        let queue = Queue::default();
        queue.put(b"one ");
        queue.put(b"two ");
        let mut batch = b"old".to_vec();
        assert!(queue.take(&mut batch));
        assert_eq!(batch, b"one two ");
        queue.put(b"three");
        assert!(queue.take(&mut batch));
        assert_eq!(batch, b"three");
    }

    #[test]
    fn what_finds_no_room_is_lost_and_no_more_than_that() {
        let queue = Queue::default();
        queue.put(&vec![1; LIMIT - 1]);
        queue.put(&[2, 2]);
        queue.put(&[3]);
        let mut batch = Vec::new();
        assert!(queue.take(&mut batch));
        assert_eq!(batch.len(), LIMIT);
        assert_eq!(batch[LIMIT - 2..], [1, 3]);
        queue.put(&[4]);
        assert!(queue.take(&mut batch));
        assert_eq!(batch, [4]);
    }

    #[test]
    fn a_closed_queue_gives_nothing_to_whoever_waits() {
        let queue = Queue::default();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| queue.take(&mut Vec::new()));
            queue.close();
            assert!(!waiting.join().unwrap());
        });
        queue.put(b"late");
        assert!(!queue.take(&mut Vec::new()));
    }
}
