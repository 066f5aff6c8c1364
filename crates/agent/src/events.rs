//! What happens in the guest without being asked for.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hull_agent_api::agent::{Event, OomEvent};
use tokio::sync::watch;

/// Events that are kept for a host that was away.
const KEPT: usize = 256;

/// A numbered list of which the oldest entries are forgotten.
#[derive(Debug, Clone)]
pub(crate) struct Events {
    list: Arc<Mutex<VecDeque<Event>>>,
    /// The number of the last event.
    last: watch::Sender<u64>,
}

impl Default for Events {
    fn default() -> Self {
        Self {
            list: Arc::default(),
            last: watch::Sender::new(0),
        }
    }
}

impl Events {
    fn list(&self) -> MutexGuard<'_, VecDeque<Event>> {
        // Nothing panics while it is held.
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The OOM killer hit a container.
    pub(crate) fn out_of_memory(&self, container_id: &str) {
        let mut oom = OomEvent::new();
        oom.container_id = container_id.to_owned();
        let mut event = Event::new();
        event.set_oom(oom);
        self.add(event);
    }

    fn add(&self, mut event: Event) {
        let mut list = self.list();
        let sequence = *self.last.borrow() + 1;
        event.sequence = sequence;
        list.push_back(event);
        if list.len() > KEPT {
            list.pop_front();
        }
        self.last.send_replace(sequence);
    }

    /// The events after a number, as soon as there is one.
    pub(crate) async fn after(&self, sequence: u64) -> Vec<Event> {
        let mut last = self.last.subscribe();
        // The sender lives as long as this does.
        let _waited = last.wait_for(|&last| last > sequence).await;
        let list = self.list();
        list.iter()
            .filter(|event| event.sequence > sequence)
            .cloned()
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn events_are_numbered_and_waited_for() {
        let events = Events::default();
        let waiting = events.after(0);
        events.out_of_memory("a");
        let got = waiting.await;
        assert_eq!((got.len(), got[0].sequence), (1, 1));
        events.out_of_memory("b");
        let got = events.after(1).await;
        assert_eq!(got[0].oom().container_id, "b");
    }

    #[tokio::test]
    async fn the_oldest_are_forgotten() {
        let events = Events::default();
        for _ in 0..KEPT + 5 {
            events.out_of_memory("a");
        }
        let got = events.after(0).await;
        assert_eq!((got.len(), got[0].sequence), (KEPT, 6));
    }
}
