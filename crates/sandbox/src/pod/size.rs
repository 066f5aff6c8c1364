//! How large the machine is, and has to be for its containers.

use hull_agent_api::agent;
use hull_vm::MachineSize;

use super::Pod;
use crate::cgroup::HostLimits;
use crate::config::PodConfig;
use crate::error::SandboxError;
use crate::guest::promptly;
use crate::limits::Limits;

/// The size at which each of the containers can have all that it may use. Those without a limit share with the
/// others.
fn needed(containers: impl Iterator<Item = Limits>, overhead_mib: u32) -> MachineSize {
    let all = containers.fold(Limits::default(), Limits::with);
    MachineSize {
        vcpus: all.vcpus().unwrap_or(0),
        memory_mib: all.memory_mib().unwrap_or(0).saturating_add(overhead_mib),
    }
}

/// Limits the CPU time of a pod that is one container, now that its guest is up.
pub(super) fn limit_cpu_time(config: &PodConfig) -> Result<(), SandboxError> {
    match (&config.host_limits, config.host_group()?) {
        (Some(limits), Some(group)) => group.limit_cpu_time(limits),
        _ => Ok(()),
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
        if self.config.host_limits.is_some()
            && let Some(group) = self.config.host_group()?
        {
            group.make_room(self.config.footprint(wanted))?;
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

    /// Applies an update to the group on the host. `limit` is the container's memory limit by now.
    ///
    /// The group keeps room for the whole machine, which does not become smaller: the host would kill the VMM
    /// for what the guest has not given back.
    ///
    /// # Errors
    /// When a limit makes no sense, or the host cannot keep it.
    pub(super) async fn limit_on_host(
        &self,
        update: HostLimits,
        limit: Option<u64>,
    ) -> Result<(), SandboxError> {
        if self.config.host_limits.is_none() {
            return Ok(());
        }
        let Some(group) = self.config.host_group()? else {
            return Ok(());
        };
        let update = update.with_memory(limit);
        let footprint = self.config.footprint(*self.size.lock().await);
        group.limit(&update, footprint)?;
        group.limit_cpu_time(&update)
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
