//! How large the machine is, and has to be for its containers.

use hull_agent_api::agent;
use hull_vm::MachineSize;
use oci_spec::runtime::LinuxResources;
use serde::{Deserialize, Serialize};

use super::Pod;
use crate::error::SandboxError;
use crate::guest::promptly;

/// What a container may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Limits {
    /// Bytes.
    memory: Option<u64>,
    /// Thousandths of a CPU.
    cpu_millis: Option<u64>,
}

impl Limits {
    /// Of a specification or an update; what either does not say is not limited, or not changed.
    pub(crate) fn of(resources: Option<&LinuxResources>) -> Self {
        const PERIOD: u64 = 100_000;
        let positive = |value: i64| u64::try_from(value).ok().filter(|value| *value > 0);
        let memory = resources.and_then(|all| all.memory().as_ref()?.limit());
        let cpu = resources.and_then(|all| all.cpu().as_ref());
        let period = cpu
            .and_then(|cpu| cpu.period())
            .filter(|period| *period > 0);
        let quota = cpu.and_then(|cpu| positive(cpu.quota()?));
        Self {
            memory: memory.and_then(positive),
            cpu_millis: quota.map(|quota| {
                quota
                    .saturating_mul(1000)
                    .div_ceil(period.unwrap_or(PERIOD))
            }),
        }
    }

    /// After an update.
    pub(crate) fn updated(self, update: Self) -> Self {
        Self {
            memory: update.memory.or(self.memory),
            cpu_millis: update.cpu_millis.or(self.cpu_millis),
        }
    }
}

/// The size at which each of the containers can have all that it may use. Those without a limit share with the
/// others.
fn needed(containers: impl Iterator<Item = Limits>, overhead_mib: u32) -> MachineSize {
    let (mut memory, mut cpu_millis) = (0_u64, 0_u64);
    for limits in containers {
        memory = memory.saturating_add(limits.memory.unwrap_or(0));
        cpu_millis = cpu_millis.saturating_add(limits.cpu_millis.unwrap_or(0));
    }
    let number = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    MachineSize {
        vcpus: number(cpu_millis.div_ceil(1000)),
        memory_mib: number(memory.div_ceil(1 << 20)).saturating_add(overhead_mib),
    }
}

impl Pod {
    /// Grows the machine, as far as it may, so that it is large enough for these containers.
    ///
    /// # Errors
    /// When the guest cannot take into use what it has.
    pub(super) async fn grow_for(
        &self,
        containers: impl Iterator<Item = Limits>,
    ) -> Result<(), SandboxError> {
        let needed = needed(containers, self.config.memory_overhead_mib);
        let mut size = self.size.lock().await;
        let wanted = size.max(needed.min(self.config.max));
        if wanted == *size {
            return Ok(());
        }
        let request = agent::GrowRequest {
            vcpus: wanted.vcpus,
            added_memory_mib: wanted.memory_mib - self.config.size.memory_mib,
            ..Default::default()
        };
        let grown = self.guest.agent().grow(promptly(), &request).await;
        grown.map_err(|source| SandboxError::Agent {
            action: "grow",
            source,
        })?;
        *size = wanted;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(json: &str) -> Limits {
        Limits::of(Some(&serde_json::from_str(json).unwrap()))
    }

    #[test]
    fn limits_add_up_and_are_rounded_up() {
        let one =
            limits(r#"{"memory": {"limit": 1048577}, "cpu": {"quota": 150000, "period": 100000}}"#);
        let two = limits(r#"{"memory": {"limit": 1048576}, "cpu": {"quota": 60000}}"#);
        let none = limits(r#"{"memory": {"limit": -1}, "cpu": {"quota": 0}}"#);
        assert_eq!(none, Limits::default());
        let size = needed([one, two, none].into_iter(), 64);
        assert_eq!((size.vcpus, size.memory_mib), (3, 67));
    }

    #[test]
    fn an_update_changes_what_it_names() {
        let both = limits(r#"{"memory": {"limit": 1048576}, "cpu": {"quota": 60000}}"#);
        let more = both.updated(limits(r#"{"memory": {"limit": 2097152}}"#));
        let size = needed([more].into_iter(), 0);
        assert_eq!((size.vcpus, size.memory_mib), (1, 2));
    }
}
