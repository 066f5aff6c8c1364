//! Numbers of files for a guest that sees one file system where the host has several.
//!
//! By virtio-fs, mounts below the shared directory are mounts in the guest, each with a device number of its own. The
//! kernel knows no such thing of `/dev/fuse`: all files have one device number there, and two of different mounts may
//! have the same inode number. Programs take such for one file; `cp` refuses to copy one to the other. So the numbers of
//! a mount's files are changed by a value that only depends on where it is mounted.

use std::collections::HashMap;
use std::ffi::CStr;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, MutexGuard, PoisonError};

use virtiofsd::filesystem::Entry;
use virtiofsd::fuse::{ATTR_SUBMOUNT, Attr};

/// File systems number their files from 1 on, so these bits are rarely in use. The others stay what they are.
const CHANGED: u64 = 0xffff_ff00_0000_0000;

/// The mounts that the guest has seen, by what it knows of files in them.
#[derive(Debug, Default)]
pub(super) struct Mounts {
    known: Mutex<HashMap<u64, Known>>,
}

#[derive(Debug)]
struct Known {
    /// What the numbers of its mount's files are changed by.
    change: u64,
    /// As often as the guest was told of it and has not forgotten it.
    lookups: u64,
}

impl Mounts {
    fn known(&self) -> MutexGuard<'_, HashMap<u64, Known>> {
        // Nothing panics while it is held.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The guest is told of the entry `name` of a directory.
    pub(super) fn tell(&self, parent: u64, name: &CStr, entry: &mut Entry) {
        let mut known = self.known();
        let of_parent = known.get(&parent).map_or(0, |known| known.change);
        let change = match entry.attr.flags & ATTR_SUBMOUNT {
            0 => of_parent,
            _ => change(of_parent, name),
        };
        entry.attr.ino ^= change;
        if change != 0 {
            let known = known
                .entry(entry.inode)
                .or_insert(Known { change, lookups: 0 });
            known.lookups += 1;
        }
    }

    /// The guest is told of a file that it knows.
    pub(super) fn tell_again(&self, inode: u64, attr: &mut Attr) {
        attr.ino ^= self.known().get(&inode).map_or(0, |known| known.change);
    }

    /// The guest has forgotten `count` of what it was told of a file.
    pub(super) fn forget(&self, inode: u64, count: u64) {
        let mut known = self.known();
        if let Some(file) = known.get_mut(&inode) {
            file.lookups = file.lookups.saturating_sub(count);
            if file.lookups == 0 {
                known.remove(&inode);
            }
        }
    }
}

/// Of a mount at `name` in a directory of a mount that has the change `parent`; never 0.
fn change(parent: u64, name: &CStr) -> u64 {
    let mut hasher = DefaultHasher::new();
    (parent, name).hash(&mut hasher);
    match hasher.finish() & CHANGED {
        0 => CHANGED,
        change => change,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn entry(inode: u64, ino: u64, flags: u32) -> Entry {
        Entry {
            inode,
            generation: 0,
            attr: Attr {
                ino,
                flags,
                ..Attr::default()
            },
            attr_timeout: Duration::ZERO,
            entry_timeout: Duration::ZERO,
        }
    }

    /// What the guest gets for a file of the number 2.
    fn told(mounts: &Mounts, parent: u64, name: &CStr, inode: u64, flags: u32) -> u64 {
        let mut entry = entry(inode, 2, flags);
        mounts.tell(parent, name, &mut entry);
        let mut attr = Attr {
            ino: 2,
            ..Attr::default()
        };
        mounts.tell_again(inode, &mut attr);
        assert_eq!(attr.ino, entry.attr.ino);
        attr.ino
    }

    #[test]
    fn files_of_different_mounts_have_different_numbers() {
        let mounts = Mounts::default();
        let root = told(&mounts, 1, c"plain", 10, 0);
        assert_eq!(root, 2);
        let first = told(&mounts, 1, c"a", 20, ATTR_SUBMOUNT);
        let second = told(&mounts, 1, c"b", 30, ATTR_SUBMOUNT);
        let below = told(&mounts, 20, c"b", 40, ATTR_SUBMOUNT);
        for (one, other) in [(root, first), (first, second), (second, below)] {
            assert_ne!(one, other);
        }
        // Those of one mount are changed alike.
        assert_eq!(told(&mounts, 20, c"file", 21, 0), first);
        assert_eq!(told(&mounts, 40, c"file", 41, 0), below);
    }

    #[test]
    fn what_was_forgotten_is_the_same_again() {
        let mounts = Mounts::default();
        let before = told(&mounts, 1, c"a", 20, ATTR_SUBMOUNT);
        told(&mounts, 1, c"a", 20, ATTR_SUBMOUNT);
        mounts.forget(20, 1);
        assert_eq!(mounts.known().len(), 1);
        mounts.forget(20, 1);
        mounts.forget(99, 1);
        assert!(mounts.known().is_empty());
        assert_eq!(told(&mounts, 1, c"a", 50, ATTR_SUBMOUNT), before);
    }
}
