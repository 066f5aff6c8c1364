//! Where a machine's memory lies, and how much of it its guest leaves alone at first.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Mutex;

use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::config::MachineSize;
use crate::error::VmError;

/// The rest of a machine's memory begins at this address, MiB.
const HIGH_MIB: u32 = 4096;

/// Where a VMM puts what does not fit below its devices, which lie below 4 GiB.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout {
    /// A machine with this much memory has [`low_mib`](Self::low_mib) of it below 4 GiB, where the rest begins. Up to
    /// [`low_mib`](Self::low_mib) it is never split.
    pub(crate) split_mib: u32,
    /// MiB.
    pub(crate) low_mib: u32,
}

/// A machine's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Memory {
    /// All of it, MiB.
    pub(crate) total_mib: u32,
    /// The address from which on the guest uses nothing at first, MiB.
    pub(crate) limit_mib: Option<u32>,
}

/// The memory of a machine whose guest is to come up; nothing once it is, and of a machine that another process has
/// started.
#[derive(Debug, Default)]
pub(crate) struct Booting(Mutex<Option<Started>>);

#[derive(Debug)]
struct Started {
    size: MachineSize,
    memory: Memory,
    file: File,
}

impl Booting {
    /// Makes the memory's file, of which nothing is there yet, and our copy of it for the VMM.
    pub(crate) fn new(size: MachineSize, memory: Memory) -> Result<(Self, OwnedFd), VmError> {
        let file = memory.file()?;
        let for_vmm = file.try_clone();
        let for_vmm = for_vmm.map_err(VmError::host("hand the guest's memory over"))?;
        let started = Started { size, memory, file };
        Ok((Self(Mutex::new(Some(started))), for_vmm.into()))
    }

    /// Once the guest is up: gives back what it does not use yet.
    pub(crate) fn done(&self) -> Result<(), VmError> {
        let started = self.0.lock().expect("no holder of this lock panics").take();
        match started {
            Some(started) => started.memory.give_back_unused(started.size, &started.file),
            None => Ok(()),
        }
    }
}

impl Memory {
    /// A file for it, of which nothing is there yet.
    pub(crate) fn file(self) -> Result<File, VmError> {
        let cannot = || VmError::host("make the guest's memory");
        let file = memfd_create("guest-memory", MFdFlags::MFD_CLOEXEC)
            .map_err(|errno| cannot()(errno.into()))?;
        let file = File::from(file);
        file.set_len(mebibytes(self.total_mib)).map_err(cannot())?;
        Ok(file)
    }

    /// Gives back what the guest does not use yet. The VMM has left the initial file system at the end of it, and the
    /// kernel has made a copy where its memory is.
    fn give_back_unused(self, size: MachineSize, file: &File) -> Result<(), VmError> {
        if self.limit_mib.is_none() {
            return Ok(());
        }
        let offset = |mib| i64::try_from(mebibytes(mib)).unwrap_or(i64::MAX);
        let from = offset(size.memory_mib);
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        fallocate(file, flags, from, offset(self.total_mib) - from)
            .map_err(|errno| VmError::host("give guest memory back")(errno.into()))
    }

    /// Enough for `max`, in whole blocks behind the first `size`.
    pub(crate) fn new(size: MachineSize, max: MachineSize, layout: Layout) -> Self {
        let at_first = size.memory_mib;
        if max.memory_mib <= at_first {
            return Self {
                total_mib: at_first,
                limit_mib: None,
            };
        }
        let block = size.block_mib();
        let more = (max.memory_mib - at_first).next_multiple_of(block);
        let total_mib = at_first.next_multiple_of(block) + more;
        if total_mib < layout.split_mib || at_first <= layout.low_mib {
            return Self {
                total_mib,
                limit_mib: Some(at_first),
            };
        }
        let hole = HIGH_MIB - layout.low_mib;
        let limit = at_first + hole;
        Self {
            total_mib: limit.next_multiple_of(block) - hole + more,
            limit_mib: Some(limit),
        }
    }
}

fn mebibytes(count: u32) -> u64 {
    u64::from(count) << 20
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYOUT: Layout = Layout {
        split_mib: 3584,
        low_mib: 3072,
    };

    fn memory(size: u32, max: u32) -> (u32, Option<u32>) {
        let of = |memory_mib| MachineSize {
            vcpus: 1,
            memory_mib,
        };
        let memory = Memory::new(of(size), of(max), LAYOUT);
        (memory.total_mib, memory.limit_mib)
    }

    #[test]
    fn a_guest_that_cannot_grow_has_what_it_was_given() {
        assert_eq!(memory(200, 200), (200, None));
    }

    #[test]
    fn a_guest_grows_by_whole_blocks() {
        assert_eq!(memory(200, 201), (384, Some(200)));
        assert_eq!(memory(128, 2048), (2048, Some(128)));
        assert_eq!(memory(70_000, 70_001), (72_704, Some(71_024)));
    }

    #[test]
    fn what_is_not_used_yet_is_given_back() {
        use std::os::unix::fs::{FileExt, MetadataExt};
        let of = |memory_mib| MachineSize {
            vcpus: 1,
            memory_mib,
        };
        let memory = Memory::new(of(64), of(192), LAYOUT);
        let file = memory.file().unwrap();
        for mib in [63, 64, 255] {
            file.write_all_at(b"x", mebibytes(mib)).unwrap();
        }
        memory.give_back_unused(of(64), &file).unwrap();
        let mut read = [0; 1];
        for (mib, kept) in [(63, b"x"), (64, b"\0"), (255, b"\0")] {
            file.read_exact_at(&mut read, mebibytes(mib)).unwrap();
            assert_eq!(&read, kept, "{mib}");
        }
        // One page, in units of 512 bytes.
        assert_eq!(file.metadata().unwrap().blocks(), 8);
    }

    #[test]
    fn the_limit_is_an_address() {
        assert_eq!(memory(3072, 8192), (8192, Some(3072)));
        assert_eq!(memory(3200, 8192), (8192, Some(4224)));
        assert_eq!(memory(3200, 3456), (3456, Some(3200)));
    }
}
