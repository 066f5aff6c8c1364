//! The guest's size: CPUs and memory that it left alone at boot and takes into use later.
//!
//! The kernel's command line held them back (`maxcpus=`, `mem=`). The CPUs are there, offline. The memory is in
//! the firmware's map and nowhere else; it is added block by block, as the kernel's documentation says under
//! "probe" (admin-guide/mm/memory-hotplug).

use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::error::AgentError;

const CPUS: &str = "/sys/devices/system/cpu";
const MEMORY: &str = "/sys/devices/system/memory";
const FIRMWARE_MAP: &str = "/sys/firmware/memmap";

/// Takes CPUs into use until `count` are, or there are no more.
pub(crate) fn online_cpus(count: u32) -> Result<(), AgentError> {
    for number in 1..count {
        let file = PathBuf::from(format!("{CPUS}/cpu{number}/online"));
        let online = match fs::read_to_string(&file) {
            Ok(online) => online,
            // The one before was the last.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(AgentError::io(format!("read {}", file.display()))(error)),
        };
        if online.trim() == "0" {
            let cannot = AgentError::io(format!("take CPU {number} into use"));
            fs::write(&file, "1").map_err(cannot)?;
        }
    }
    Ok(())
}

/// Memory that was added since boot.
#[derive(Debug, Default)]
pub(crate) struct AddedMemory {
    blocks: u64,
}

impl AddedMemory {
    /// Adds whole blocks until it is `mib` MiB or more.
    ///
    /// # Errors
    /// When there is no more, or the kernel has no room for what it notes down of each page.
    pub(crate) fn grow_to(&mut self, mib: u32) -> Result<(), AgentError> {
        let memory = Path::new(MEMORY);
        let cannot = || AgentError::io("read how the memory is laid out");
        let block_size = fs::read_to_string(memory.join("block_size_bytes"))
            .and_then(|text| hexadecimal(&text))
            .map_err(cannot())?;
        let wanted = (u64::from(mib) << 20).div_ceil(block_size);
        if self.blocks >= wanted {
            return Ok(());
        }
        let map = firmware_map(Path::new(FIRMWARE_MAP)).map_err(cannot())?;
        let absent = |block: &u64| !memory.join(format!("memory{block}")).exists();
        for block in map
            .iter()
            .flat_map(|range| whole_blocks(range, block_size))
            .filter(absent)
        {
            let address = format!("{:#x}", block * block_size);
            fs::write(memory.join("probe"), &address)
                .map_err(AgentError::io(format!("add the memory at {address}")))?;
            self.blocks += 1;
            if self.blocks == wanted {
                return Ok(());
            }
        }
        Err(AgentError::Invalid {
            field: "memory_mib",
            value: mib.to_string(),
        })
    }
}

/// Where the machine has memory, ascending.
fn firmware_map(dir: &Path) -> io::Result<Vec<Range<u64>>> {
    let mut map = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?.path();
        let read = |name| fs::read_to_string(entry.join(name));
        if read("type")?.trim() == "System RAM" {
            // The end is the last byte.
            map.push(hexadecimal(&read("start")?)?..hexadecimal(&read("end")?)? + 1);
        }
    }
    map.sort_by_key(|range| range.start);
    Ok(map)
}

/// The numbers of the blocks that lie in a range with all that they are.
fn whole_blocks(range: &Range<u64>, block_size: u64) -> Range<u64> {
    range.start.div_ceil(block_size)..range.end / block_size
}

/// Hexadecimal, with or without `0x`.
fn hexadecimal(text: &str) -> io::Result<u64> {
    let text = text.trim();
    let digits = text.strip_prefix("0x").unwrap_or(text);
    u64::from_str_radix(digits, 16).map_err(|_| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_whole_or_not_there() {
        assert_eq!(whole_blocks(&(0x10_0000..0x1800_0000), 0x800_0000), 1..3);
        assert_eq!(whole_blocks(&(0x10_0000..0x17ff_ffff), 0x800_0000), 1..2);
        assert_eq!(whole_blocks(&(0..0x9_fc00), 0x800_0000), 0..0);
    }

    #[test]
    fn the_map_is_in_order_and_of_memory_only() {
        let dir = tempfile::tempdir().unwrap();
        for (name, kind, start, end) in [
            ("0", "System RAM", "0x100000", "0xbfffffff"),
            ("1", "Reserved", "0xfeffc000", "0xfeffffff"),
            ("2", "System RAM", "0x0", "0x9fbff"),
        ] {
            let entry = dir.path().join(name);
            fs::create_dir(&entry).unwrap();
            for (file, text) in [("type", kind), ("start", start), ("end", end)] {
                fs::write(entry.join(file), format!("{text}\n")).unwrap();
            }
        }
        let map = firmware_map(dir.path()).unwrap();
        assert_eq!(map, [0..0x9_fc00, 0x10_0000..0xc000_0000]);
    }
}
