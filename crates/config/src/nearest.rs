//! What may have been meant by a key that does not exist.

use strsim::osa_distance;

use crate::schema;

/// The setting that may have been meant.
pub(crate) fn nearest_key(written: &str) -> Option<&'static str> {
    let last = |key: &'_ str| key.rsplit_once('.').map_or(0, |(table, _)| table.len() + 1);
    let name = &written[last(written)..];
    // The right name in the wrong table, or in none.
    let misplaced = schema::keys().find(|key| key[last(key)..] == *name);
    // A beginning. That of a table's name says nothing.
    let begun = || schema::keys().find(|key| key.starts_with(written) && written.len() > last(key));
    misplaced
        .or_else(begun)
        .or_else(|| nearest(written, schema::keys()))
}

/// The table that may have been meant.
pub(crate) fn nearest_table(written: &str) -> Option<&'static str> {
    nearest(written, schema::tables())
}

/// The candidate that the fewest typing errors lead to, unless that is more than a third of it.
fn nearest(written: &str, candidates: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    let distances = candidates.map(|candidate| (osa_distance(written, candidate), candidate));
    let near = distances.filter(|(distance, candidate)| {
        distance * 3 <= candidate.len().max(written.chars().count())
    });
    near.min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_keys_are_found_and_far_ones_are_not() {
        for (written, expected) in [
            ("vm.memroy", Some("vm.memory")),
            ("vm.mem", Some("vm.memory")),
            ("vm.cpus", Some("vm.vcpus")),
            ("vm.memory-overhead", Some("vm.memory_overhead")),
            ("vm.accel", Some("vm.acceleration")),
            ("memory", Some("vm.memory")),
            ("guest.memory", Some("vm.memory")),
            ("log.lvl", Some("log.level")),
            ("guest.initrd", Some("guest.initramfs")),
            ("Vm.Vcpus", Some("vm.vcpus")),
            ("vm.colour", None),
            ("vm.", None),
            ("", None),
            ("ü.ü", None),
        ] {
            assert_eq!(nearest_key(written), expected, "{written}");
        }
    }

    #[test]
    fn near_tables_are_found_and_far_ones_are_not() {
        for (written, expected) in [
            ("vmm", Some("vm")),
            ("annotation", Some("annotations")),
            ("guests", Some("guest")),
            ("storage", None),
        ] {
            assert_eq!(nearest_table(written), expected, "{written}");
        }
    }
}
