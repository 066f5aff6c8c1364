//! Where a machine's memory lies, and how much of it its guest leaves alone at first.

use crate::config::MachineSize;

/// What a guest takes into use at once, MiB: a block of its kernel's, which begins at a multiple of its size.
const BLOCK_MIB: u32 = 128;
/// The most that a block is in a guest of [`LARGE_MIB`] or more.
const LARGE_BLOCK_MIB: u32 = 2048;
const LARGE_MIB: u32 = 64 << 10;
/// A microvm with this much memory has [`LOW_MIB`] of it below 4 GiB, where the rest begins.
const SPLIT_MIB: u32 = 3584;
const LOW_MIB: u32 = 3072;
/// What there is of addresses between the two parts.
const HOLE_MIB: u32 = 1024;

/// A machine's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Memory {
    /// All of it, MiB.
    pub(super) total_mib: u32,
    /// The address from which on the guest uses nothing at first, MiB.
    pub(super) limit_mib: Option<u32>,
}

impl Memory {
    /// Enough for `max`, in whole blocks behind the first `size`.
    pub(super) fn new(size: MachineSize, max: MachineSize) -> Self {
        let at_first = size.memory_mib;
        if max.memory_mib <= at_first {
            return Self {
                total_mib: at_first,
                limit_mib: None,
            };
        }
        let block = match at_first < LARGE_MIB {
            true => BLOCK_MIB,
            false => LARGE_BLOCK_MIB,
        };
        let more = (max.memory_mib - at_first).next_multiple_of(block);
        let total_mib = at_first.next_multiple_of(block) + more;
        if total_mib < SPLIT_MIB || at_first <= LOW_MIB {
            return Self {
                total_mib,
                limit_mib: Some(at_first),
            };
        }
        let limit = at_first + HOLE_MIB;
        Self {
            total_mib: limit.next_multiple_of(block) - HOLE_MIB + more,
            limit_mib: Some(limit),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(size: u32, max: u32) -> (u32, Option<u32>) {
        let of = |memory_mib| MachineSize {
            vcpus: 1,
            memory_mib,
        };
        let memory = Memory::new(of(size), of(max));
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
    fn the_limit_is_an_address() {
        assert_eq!(memory(3072, 8192), (8192, Some(3072)));
        assert_eq!(memory(3200, 8192), (8192, Some(4224)));
        assert_eq!(memory(3200, 3456), (3456, Some(3200)));
    }
}
