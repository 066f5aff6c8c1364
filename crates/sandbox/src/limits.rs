//! What a container, or all of a pod, may use.

use oci_spec::runtime::LinuxResources;
use serde::{Deserialize, Serialize};

/// Limits; what is not limited has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes.
    pub(crate) memory: Option<u64>,
    /// Thousandths of a CPU.
    pub(crate) cpu_millis: Option<u64>,
}

impl Limits {
    /// A memory limit in bytes, a CPU quota in microseconds of each period. Zero and less are no limit.
    #[must_use]
    pub fn new(memory: Option<i64>, quota: Option<i64>, period: Option<i64>) -> Self {
        const PERIOD: u64 = 100_000;
        let limit = |value: Option<i64>| u64::try_from(value?).ok().filter(|value| *value > 0);
        let period = limit(period).unwrap_or(PERIOD);
        Self {
            memory: limit(memory),
            cpu_millis: limit(quota).map(|quota| quota.saturating_mul(1000).div_ceil(period)),
        }
    }

    /// Of a specification or an update; what either does not say is not limited, or not changed.
    #[must_use]
    pub fn of(resources: Option<&LinuxResources>) -> Self {
        let memory = resources.and_then(|all| all.memory().as_ref());
        let cpu = resources.and_then(|all| all.cpu().as_ref());
        Self::new(
            memory.and_then(|memory| memory.limit()),
            cpu.and_then(|cpu| cpu.quota()),
            cpu.and_then(|cpu| i64::try_from(cpu.period()?).ok()),
        )
    }

    /// Whole CPUs, rounded up.
    #[must_use]
    pub fn vcpus(self) -> Option<u32> {
        self.cpu_millis.map(|millis| rounded_up(millis, 1000))
    }

    /// Whole MiB, rounded up.
    #[must_use]
    pub fn memory_mib(self) -> Option<u32> {
        self.memory.map(|bytes| rounded_up(bytes, 1 << 20))
    }

    /// After an update.
    pub(crate) fn updated(self, update: Self) -> Self {
        Self {
            memory: update.memory.or(self.memory),
            cpu_millis: update.cpu_millis.or(self.cpu_millis),
        }
    }

    /// What both may use together.
    pub(crate) fn with(self, other: Self) -> Self {
        let sum = |one: Option<u64>, two: Option<u64>| match (one, two) {
            (Some(one), Some(two)) => Some(one.saturating_add(two)),
            (one, two) => one.or(two),
        };
        Self {
            memory: sum(self.memory, other.memory),
            cpu_millis: sum(self.cpu_millis, other.cpu_millis),
        }
    }
}

fn rounded_up(value: u64, unit: u64) -> u32 {
    u32::try_from(value.div_ceil(unit)).unwrap_or(u32::MAX)
}
