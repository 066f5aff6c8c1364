//! The ids that an ordinary user may use besides their own.

use std::fs;

use nix::unistd::{Uid, User};

/// Consecutive ids on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) start: u32,
    pub(crate) count: u32,
}

/// The ranges of a user in `/etc/subuid` and `/etc/subgid`; nothing unless there are both.
pub(crate) fn own_ranges(uid: Uid) -> Option<(Vec<Range>, Vec<Range>)> {
    // A user without a name may still have ranges by number.
    let name = User::from_uid(uid).ok().flatten().map(|user| user.name);
    let of = |path: &str| {
        let text = fs::read_to_string(path).unwrap_or_default();
        let ranges = parse(&text, name.as_deref(), uid.as_raw());
        (!ranges.is_empty()).then_some(ranges)
    };
    Some((of("/etc/subuid")?, of("/etc/subgid")?))
}

fn parse(text: &str, name: Option<&str>, uid: u32) -> Vec<Range> {
    let number = uid.to_string();
    let ranges = text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let owner = fields.next()?;
        if owner != number && Some(owner) != name {
            return None;
        }
        let start = fields.next()?.parse().ok()?;
        let count = fields.next()?.parse().ok().filter(|count| *count > 0)?;
        Some(Range { start, count })
    });
    ranges.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_found_by_name_and_number() {
        let text = "other:1:2\nann:100000:65536\n# ann:5:5\n1000:300000:10\nann:x:1\nann:7:0\n";
        let range = |start, count| Range { start, count };
        assert_eq!(
            parse(text, Some("ann"), 1000),
            [range(100_000, 65_536), range(300_000, 10)]
        );
        assert_eq!(parse(text, None, 1000), [range(300_000, 10)]);
        assert!(parse(text, Some("bob"), 1001).is_empty());
    }
}
