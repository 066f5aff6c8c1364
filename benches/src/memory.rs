//! Memory on the host, process by process.

use std::fs;

use anyhow::{Context, Result};

use crate::pod::Process;

/// A process's proportional set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Pss {
    /// Its share of guest memory: the VMM and the back ends map the same file, which is the guest's to use
    /// and not what Hull adds.
    pub(crate) guest_kib: u64,
    /// The rest.
    pub(crate) own_kib: u64,
}

pub(crate) fn pss(process: &Process) -> Result<Pss> {
    let path = format!("/proc/{}/smaps", process.pid);
    let smaps = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    Ok(parse(&smaps))
}

fn parse(smaps: &str) -> Pss {
    let mut guest_memory = false;
    let mut pss = Pss::default();
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("Pss:") => {
                let kib = words.next().and_then(|number| number.parse().ok());
                let sum = match guest_memory {
                    true => &mut pss.guest_kib,
                    false => &mut pss.own_kib,
                };
                *sum += kib.unwrap_or(0_u64);
            }
            // A new mapping: addresses, rights, offset, device, inode, path.
            Some(word) if !word.ends_with(':') => guest_memory = line.contains("/memfd:"),
            _ => {}
        }
    }
    pss
}

/// A field of the guest's `/proc/meminfo`, in KiB.
pub(crate) fn meminfo_kib(meminfo: &str, field: &str) -> Result<u64> {
    let mut lines = meminfo.lines();
    let value = lines.find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let number = value.and_then(|value| value.split_whitespace().next());
    let number = number.with_context(|| format!("no {field} in /proc/meminfo"))?;
    Ok(number.parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_memory_is_told_apart() {
        let smaps = "\
00400000-00500000 r-xp 00000000 08:01 1 /usr/bin/x\nSize: 100 kB\nPss:          7 kB\nVmFlags: rd ex\n\
7f000000-7f800000 rw-s 00000000 00:01 2 /memfd:memory-backend-memfd (deleted)\nPss:  9000 kB\nVmFlags: rd\n\
7fff0000-7fff1000 rw-p 00000000 00:00 0\nPss: 5 kB\nPss_Dirty: 5 kB\n";
        let expected = Pss {
            guest_kib: 9000,
            own_kib: 12,
        };
        assert_eq!(parse(smaps), expected);
    }

    #[test]
    fn a_field_is_not_another_that_begins_like_it() {
        let meminfo = "MemAvailableX: 1 kB\nMemAvailable:   97 kB\n";
        assert_eq!(meminfo_kib(meminfo, "MemAvailable").unwrap(), 97);
        assert!(meminfo_kib(meminfo, "MemTotal").is_err());
    }
}
