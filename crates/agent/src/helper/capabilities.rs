//! Capability sets.

use std::io;

use super::error::{Context, SetupError};
use crate::spec::Capabilities;
use crate::sys::check;

/// By number, as in linux/capability.h.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// _LINUX_CAPABILITY_VERSION_3.
const VERSION: u32 = 0x2008_0522;

/// One bit for each capability.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sets {
    bounding: u64,
    effective: u64,
    inheritable: u64,
    permitted: u64,
    ambient: u64,
}

impl Sets {
    /// The sets that a specification names; all empty when it names none.
    pub(super) fn of(capabilities: Option<&Capabilities>) -> Self {
        let Some(capabilities) = capabilities else {
            return Self::default();
        };
        Self {
            bounding: bits(&capabilities.bounding),
            effective: bits(&capabilities.effective),
            inheritable: bits(&capabilities.inheritable),
            permitted: bits(&capabilities.permitted),
            ambient: bits(&capabilities.ambient),
        }
    }

    /// Takes what is not in the bounding set out of this process's. Done before the user is
    /// changed, while the right to do so is there.
    pub(super) fn bound(self) -> Result<(), SetupError> {
        for capability in 0..64_u64 {
            if self.bounding & (1 << capability) != 0 {
                continue;
            }
            // SAFETY: no memory is passed.
            match check(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) }.into()) {
                // Past the last capability of this kernel.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return Ok(()),
                other => other.when("drop a capability from the bounding set")?,
            };
        }
        Ok(())
    }

    /// Sets the other sets, once the user is changed.
    pub(super) fn apply(self) -> Result<(), SetupError> {
        let header = Header {
            version: VERSION,
            pid: 0,
        };
        let half = |word: u32| Data {
            effective: word_of(self.effective, word),
            permitted: word_of(self.permitted, word),
            inheritable: word_of(self.inheritable, word),
        };
        let data = [half(0), half(1)];
        // SAFETY: header and data are laid out as the kernel has them (capget(2)) and live through
        // the call.
        check(unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) })
            .when("set the capabilities")?;
        let clear = libc::PR_CAP_AMBIENT_CLEAR_ALL.cast_unsigned();
        ambient(clear, 0).when("clear the ambient capabilities")?;
        for capability in (0..64).filter(|bit| self.ambient & (1 << bit) != 0) {
            let raise = libc::PR_CAP_AMBIENT_RAISE.cast_unsigned();
            // One that is not permitted and inheritable cannot be ambient: it is left out, as a
            // capability that this kernel does not know.
            if let Err(error) = ambient(raise, capability) {
                log::warn!("capability {capability} cannot be ambient: {error}");
            }
        }
        Ok(())
    }
}

fn ambient(operation: u32, capability: u64) -> io::Result<()> {
    let operation = u64::from(operation);
    // SAFETY: no memory is passed.
    check(unsafe { libc::prctl(libc::PR_CAP_AMBIENT, operation, capability, 0, 0) }.into())?;
    Ok(())
}

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

const _: () = assert!(size_of::<Header>() == 8 && size_of::<Data>() == 12);

/// Word 0 or 1 of a set.
#[expect(
    clippy::cast_possible_truncation,
    reason = "a word of the set is wanted"
)]
fn word_of(set: u64, word: u32) -> u32 {
    (set >> (32 * word)) as u32
}

fn bits(names: &[String]) -> u64 {
    names
        .iter()
        .map(|name| bit(name))
        .fold(0, |set, bit| set | bit)
}

fn bit(name: &str) -> u64 {
    let short = name.to_ascii_uppercase();
    let short = short.strip_prefix("CAP_").unwrap_or(&short);
    match NAMES.iter().position(|known| *known == short) {
        Some(number) => 1 << number,
        None => {
            log::warn!("capability {name} is unknown: left out");
            0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_their_bits() {
        let names = ["CAP_CHOWN", "cap_sys_admin", "CAP_CHECKPOINT_RESTORE"];
        let names: Vec<String> = names.iter().map(|&n| n.to_owned()).collect();
        assert_eq!(bits(&names), 1 | 1 << 21 | 1 << 40);
    }

    #[test]
    fn unknown_names_are_left_out() {
        assert_eq!(bits(&["CAP_OF_INVISIBILITY".to_owned()]), 0);
    }

    #[test]
    fn sets_are_split_into_words() {
        assert_eq!(word_of(1 << 40 | 5, 0), 5);
        assert_eq!(word_of(1 << 40 | 5, 1), 1 << 8);
    }

    #[test]
    fn no_capabilities_means_none() {
        assert_eq!(Sets::of(None), Sets::default());
    }
}
