//! Seccomp filters, which the host compiles.

use std::io;

use hull_agent_api::agent::SeccompFilter;
use serde::{Deserialize, Serialize};

use super::error::{Context, SetupError};
use crate::error::AgentError;
use crate::sys::check;

/// A program that the kernel can load.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Filter {
    /// Instructions, each as the eight bytes that the kernel has it in.
    program: Vec<u64>,
    flags: u64,
}

const _: () = assert!(size_of::<libc::sock_filter>() == 8 && align_of::<libc::sock_filter>() <= 8);

impl Filter {
    /// What the host sent.
    pub(crate) fn from_host(sent: &SeccompFilter) -> Result<Self, AgentError> {
        match sent.program.as_chunks::<8>() {
            (instructions, []) if !instructions.is_empty() => Ok(Self {
                program: instructions
                    .iter()
                    .map(|bytes| u64::from_ne_bytes(*bytes))
                    .collect(),
                flags: sent.flags,
            }),
            _ => Err(AgentError::Invalid {
                field: "the length of the seccomp filter",
                value: sent.program.len().to_string(),
            }),
        }
    }

    /// Puts this process under the filter.
    pub(super) fn load(&self) -> Result<(), SetupError> {
        let length = u16::try_from(self.program.len())
            .map_err(io::Error::other)
            .when("load the seccomp filter")?;
        let program = libc::sock_fprog {
            len: length,
            filter: self.program.as_ptr().cast_mut().cast(),
        };
        // SAFETY: the instructions have the kernel's size and no stricter alignment, and live through
        // the call, which only reads them.
        check(unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                self.flags,
                &raw const program,
            )
        })
        .when("load the seccomp filter")?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_whole_instructions_and_not_empty() {
        for (length, accepted) in [(0, false), (7, false), (8, true), (12, false), (16, true)] {
            let mut sent = SeccompFilter::new();
            sent.program = vec![0; length];
            assert_eq!(Filter::from_host(&sent).is_ok(), accepted, "{length}");
        }
    }
}
