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
    /// Another process followed before, and nobody knows how far it came.
    is_taken_over: bool,
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
            is_taken_over: told.is_none(),
            told,
            left_out: HashSet::new(),
        }))
    }

    /// Completes when the guest may have to be told something.
    pub(crate) async fn changed(&self) -> io::Result<()> {
        if self.is_taken_over {
            return Ok(());
        }
        self.changes.next().await
    }

    /// Looks at the namespace, and decides which device of the guest serves which interface from now on. The pod's record
    /// says so at once.
    pub(crate) async fn look(&mut self) -> Result<Update, NetworkError> {
        let slots: Vec<Slot> = self.lock().clone();
        let is_taken_over = std::mem::take(&mut self.is_taken_over);
        let looked = inside(self.namespace()?, move |handle| async move {
            let taps: Vec<i32> = slots.iter().map(|slot| slot.tap).collect();
            let scan = scan::scan(&handle, &taps).await?;
            let mut unmade = Vec::new();
            for slot in slots.iter().filter(|_| is_taken_over) {
                // One that is there stays: without it, the host would answer in the guest's place.
                if !redirect::is_made(&handle, slot).await {
                    unmade.push(slot.again());
                }
            }
            Ok((scan, unmade))
        });
        let (scan, unmade) = looked.await?;
        let (mut moves, left_out) = assign(&mut self.lock(), &scan.links());
        let still = |change: &Move| self.lock().iter().any(|slot| slot.again() == *change);
        moves.extend(unmade.into_iter().filter(still));
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

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use nix::sched::{CloneFlags, unshare};

    use super::*;
    use crate::network::namespace::{NamespaceNetwork, NamespaceRecord, ip};

    /// As another process takes it over.
    async fn take_over(network: &NamespaceNetwork) -> (NamespaceNetwork, Box<Follower>) {
        let record = serde_json::to_vec(&network.record()).unwrap();
        let record: NamespaceRecord = serde_json::from_slice(&record).unwrap();
        let network = NamespaceNetwork::attach(&record).await;
        let follower = network.take_follower().unwrap();
        follower.changed().await.unwrap();
        (network, follower)
    }

    #[tokio::test]
    async fn one_goes_on_where_another_was_killed() {
        if !nix::unistd::geteuid().is_root() || !Path::new("/dev/net/tun").exists() {
            eprintln!("not run: it needs root and tap devices");
            return;
        }
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let path = format!("/proc/self/task/{}/ns/net", nix::unistd::gettid());
        ip("link add one type veth peer name two");
        ip("link set one up");
        let adopted = NamespaceNetwork::adopt(&PathBuf::from(path), 1, 4).await;
        // They keep the taps.
        let (first, devices) = adopted.unwrap();
        assert_eq!(devices.len(), 2);
        assert_eq!(first.guest().interfaces.len(), 1);
        assert_eq!(first.guest().spare_devices.len(), 1);

        ip("link set two up");
        let (second, mut follower) = take_over(&first).await;
        let update = follower.look().await.unwrap();
        // What the first one has connected stays.
        assert_eq!(update.moves.len(), 1, "{update:?}");
        drop((update, follower));

        let (third, mut follower) = take_over(&second).await;
        let update = follower.look().await.unwrap();
        assert_eq!(update.moves.len(), 1, "{update:?}");
        let network = follower.connect(update).await.unwrap().unwrap();
        let names = network.interfaces.iter().map(|of| &*of.name);
        assert_eq!(names.collect::<HashSet<_>>(), HashSet::from(["one", "two"]));
        assert!(network.spare_devices.is_empty());
        follower.keep(network);
        let update = follower.look().await.unwrap();
        assert!(!update.is_recorded(), "{update:?}");
        assert_eq!(follower.connect(update).await.unwrap(), None);

        let (fourth, mut follower) = take_over(&third).await;
        assert!(!follower.look().await.unwrap().is_recorded());
        fourth.record().release().await;
        let (_, mut follower) = take_over(&fourth).await;
        let update = follower.look().await.unwrap();
        assert_eq!(update.moves.len(), 2, "{update:?}");
    }
}
