//! Names for containers that nobody named.

use crate::id;

const ADJECTIVES: [&str; 32] = [
    "amber", "bold", "brave", "brisk", "calm", "clear", "crisp", "deep", "eager", "early", "fair",
    "firm", "fresh", "gentle", "glad", "grand", "keen", "kind", "light", "lucid", "mild", "noble",
    "plain", "proud", "quick", "quiet", "sharp", "still", "sunny", "swift", "warm", "wise",
];
const NOUNS: [&str; 32] = [
    "anchor", "barge", "beacon", "bow", "brig", "buoy", "canoe", "clipper", "cutter", "dinghy",
    "dory", "ferry", "frigate", "galley", "harbor", "helm", "jetty", "kayak", "keel", "ketch",
    "lugger", "mast", "oar", "pier", "raft", "rudder", "sail", "schooner", "skiff", "sloop",
    "stern", "yawl",
];

/// A name that `taken` does not know.
pub(super) fn free_name(taken: impl Fn(&str) -> bool) -> String {
    let random = id::random();
    let number = |at: usize| usize::from_str_radix(&random[at..at + 2], 16).unwrap_or(0);
    let pair = format!(
        "{}-{}",
        ADJECTIVES[number(0) % ADJECTIVES.len()],
        NOUNS[number(2) % NOUNS.len()]
    );
    if taken(&pair) {
        format!("{pair}-{}", &random[4..12])
    } else {
        pair
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_valid_even_when_all_pairs_are_taken() {
        let name = free_name(|_| true);
        assert_eq!(crate::values::name::parse(&name).as_ref(), Ok(&name));
        assert_eq!(name.split('-').count(), 3);
    }
}
