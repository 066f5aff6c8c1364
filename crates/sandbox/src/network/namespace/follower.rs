//! Follows what happens in the namespace after the guest's start.

use std::collections::HashSet;
use std::error::Error;
use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex};

use hull_agent_api::agent;

use super::changes::{AwaitedChanges, Changes};
use super::scan::{self, Scan};
use super::slots::{Move, Slot, assign};
use super::{NetworkError, inside, redirect};

/// Finds out what the guest is to be told.
#[derive(Debug)]
pub struct Follower {
    namespace: File,
    changes: AwaitedChanges,
    slots: Arc<Mutex<Vec<Slot>>>,
    /// What the guest was told last, unless that failed.
    told: Option<agent::Network>,
    /// Nobody has looked yet.
    is_new: bool,
    /// Interfaces of which it was said that the guest cannot have them.
    left_out: HashSet<i32>,
}

/// What is in the namespace now, when that is not what the guest was told.
#[derive(Debug)]
pub(crate) struct Update {
    scan: Scan,
    moves: Vec<Move>,
}

impl Update {
    /// Whether the pod's record is another than before.
    pub(crate) fn is_recorded(&self) -> bool {
        !self.moves.is_empty()
    }
}

impl Follower {
    pub(super) fn new(
        namespace: File,
        changes: Changes,
        slots: Arc<Mutex<Vec<Slot>>>,
        told: Option<agent::Network>,
    ) -> io::Result<Box<Self>> {
        Ok(Box::new(Self {
            namespace,
            changes: changes.awaited()?,
            slots,
            is_new: told.is_none(),
            told,
            left_out: HashSet::new(),
        }))
    }

    /// Completes when the guest may have to be told something.
    pub(crate) async fn changed(&mut self) -> io::Result<()> {
        match std::mem::take(&mut self.is_new) {
            true => Ok(()),
            false => self.changes.next().await,
        }
    }

    /// Looks at the namespace, and decides which device of the guest serves which interface from now on. The pod's record
    /// says so at once.
    pub(crate) async fn look(&mut self) -> Result<Update, NetworkError> {
        let taps: Vec<i32> = self.lock().iter().map(|slot| slot.tap).collect();
        let namespace = self.namespace()?;
        let scan = inside(namespace, move |handle| async move {
            scan::scan(&handle, &taps).await
        });
        let scan = scan.await?;
        let (moves, left_out) = assign(&mut self.lock(), &scan.indexes());
        let mut all_left_out = HashSet::new();
        for index in left_out {
            all_left_out.insert(index);
            if !self.left_out.contains(&index) {
                let name = scan.name_of(index);
                tracing::warn!(
                    "the pod does not get the interface {name}: it has no spare one left; the setting \
                     `network.spare_interfaces` says how many it has"
                );
            }
        }
        for (index, problem) in &scan.refused {
            all_left_out.insert(*index);
            if !self.left_out.contains(index) {
                tracing::warn!("the pod does not get an interface: {problem}");
            }
        }
        self.left_out = all_left_out;
        Ok(Update { scan, moves })
    }

    /// Connects the guest's devices as it was decided. Returns what the guest is to be told, if it was told anything else.
    pub(crate) async fn connect(
        &mut self,
        update: Update,
    ) -> Result<Option<agent::Network>, NetworkError> {
        let Update { scan, moves } = update;
        if !moves.is_empty() {
            let made = inside(self.namespace()?, |handle| async move {
                let mut made = Vec::new();
                for change in moves {
                    made.push((change, redirect::make(&handle, &change).await));
                }
                Ok(made)
            });
            for (change, made) in made.await? {
                let Err(error) = made else { continue };
                let error: &(dyn Error + 'static) = &error;
                tracing::warn!(error, "an interface of the pod does not lead anywhere");
                for slot in self.lock().iter_mut() {
                    if slot.tap == change.tap {
                        slot.serves = None;
                    }
                }
            }
        }
        let network = scan.guest(&self.lock());
        if self.told.as_ref() == Some(&network) {
            return Ok(None);
        }
        self.told = None;
        Ok(Some(network))
    }

    /// Keeps in mind what the guest was told.
    pub(crate) fn keep(&mut self, told: agent::Network) {
        self.told = Some(told);
    }

    fn namespace(&self) -> Result<File, NetworkError> {
        self.namespace
            .try_clone()
            .map_err(NetworkError::host("keep the network namespace"))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Slot>> {
        self.slots.lock().expect("no holder of this lock panics")
    }
}
