//! What a pod that is one container may use of the host: the container's limits, in the files of its group.
//!
//! Not the number of processes: those of the container are the guest's, which counts them. Not the limits of
//! single disks either, which the guest has other numbers for.

use std::fs;
use std::io;

use oci_spec::runtime::LinuxResources;
use serde::{Deserialize, Serialize};

use super::dbus::Value;
use super::{HostCgroup, Version};
use crate::error::SandboxError;

/// Limits as the specification has them; 0 says nothing, and less is no limit.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostLimits {
    /// Bytes.
    memory: Option<i64>,
    /// Bytes of memory and swap together.
    swap: Option<i64>,
    /// Bytes.
    reservation: Option<i64>,
    shares: Option<u64>,
    /// Microseconds of each period.
    quota: Option<i64>,
    period: Option<u64>,
    cpus: Option<String>,
    memory_nodes: Option<String>,
    io_weight: Option<u16>,
}

/// How much of the host's memory a pod's processes take, the guest's memory among it. Bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Footprint {
    /// At most: all that the guest can use, and what its processes on the host need.
    pub most: u64,
    /// Beside what the container uses.
    pub overhead: u64,
}

impl HostLimits {
    /// Of a specification or an update.
    #[must_use]
    pub fn of(resources: Option<&LinuxResources>) -> Self {
        let memory = resources.and_then(|all| all.memory().as_ref());
        let cpu = resources.and_then(|all| all.cpu().as_ref());
        let io = resources.and_then(|all| all.block_io().as_ref());
        let some = |value: Option<i64>| value.filter(|value| *value != 0);
        let list = |text: Option<&String>| text.filter(|text| !text.is_empty()).cloned();
        Self {
            memory: some(memory.and_then(|memory| memory.limit())),
            swap: some(memory.and_then(|memory| memory.swap())),
            reservation: some(memory.and_then(|memory| memory.reservation())),
            shares: cpu
                .and_then(|cpu| cpu.shares())
                .filter(|shares| *shares > 0),
            quota: some(cpu.and_then(|cpu| cpu.quota())),
            period: cpu
                .and_then(|cpu| cpu.period())
                .filter(|period| *period > 0),
            cpus: list(cpu.and_then(|cpu| cpu.cpus().as_ref())),
            memory_nodes: list(cpu.and_then(|cpu| cpu.mems().as_ref())),
            io_weight: io.and_then(|io| io.weight()).filter(|weight| *weight > 0),
        }
    }

    /// Whether there is none that would have to be kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let unlimited = |value: Option<i64>| value.is_none_or(|value| value < 0);
        let sizes = [self.memory, self.swap, self.reservation, self.quota];
        let others = Self {
            memory: None,
            swap: None,
            reservation: None,
            quota: None,
            period: None,
            ..self.clone()
        };
        sizes.into_iter().all(unlimited) && others == Self::default()
    }

    /// An update that says how much swap there is says it together with the memory, whose limit may be
    /// another's: the one there was.
    pub(crate) fn with_memory(mut self, limit: Option<u64>) -> Self {
        let limit = limit.and_then(|bytes| i64::try_from(bytes).ok());
        if self.swap.is_some_and(|both| both > 0) {
            self.memory = self.memory.or(limit);
        }
        self
    }

    /// What systemd is told, so that it does not take back what is in the files: its properties for them
    /// (systemd.resource-control(5)).
    pub(super) fn properties(
        &self,
        version: Version,
        footprint: Footprint,
    ) -> Result<Vec<(&'static str, Value)>, SandboxError> {
        let bytes = |value: i64| Value::U64(u64::try_from(value).unwrap_or(u64::MAX));
        let most = |limit: i64| match limit < 0 {
            true => Value::U64(u64::MAX),
            false => Value::U64(footprint.most),
        };
        let mut all = Vec::new();
        match version {
            Version::One => {
                all.extend(self.memory.map(|limit| ("MemoryLimit", most(limit))));
                all.extend(self.shares.map(|shares| ("CPUShares", Value::U64(shares))));
            }
            Version::Two => {
                all.extend(self.memory.map(|limit| ("MemoryMax", most(limit))));
                let swap = self.swap_alone()?;
                all.extend(swap.map(|swap| ("MemorySwapMax", bytes(swap))));
                all.extend(self.reservation.map(|reserved| {
                    let reserved = u64::try_from(reserved)
                        .map_or(0, |reserved| reserved.saturating_add(footprint.overhead));
                    ("MemoryLow", Value::U64(reserved))
                }));
                let weight = self.shares.map(weight_of_shares);
                all.extend(weight.map(|weight| ("CPUWeight", Value::U64(weight))));
            }
        }
        Ok(all)
    }

    /// The same of the limit of CPU time.
    fn cpu_time_properties(&self) -> Vec<(&'static str, Value)> {
        const SECOND: u64 = 1_000_000;
        let period = self.period.unwrap_or(100_000);
        let per_second = self.quota.map(|quota| match u64::try_from(quota) {
            Err(_) => u64::MAX,
            // Up to a hundredth of a CPU, as systemd counts.
            Ok(quota) => quota
                .saturating_mul(SECOND)
                .div_ceil(period)
                .next_multiple_of(10_000),
        });
        let mut all = Vec::new();
        all.extend(per_second.map(|quota| ("CPUQuotaPerSecUSec", Value::U64(quota))));
        all.extend(
            self.period
                .map(|period| ("CPUQuotaPeriodUSec", Value::U64(period))),
        );
        all
    }

    /// Bytes of swap alone, less than none for no limit.
    fn swap_alone(&self) -> Result<Option<i64>, SandboxError> {
        match (self.swap, self.memory) {
            // Unlimited memory with no word on swap.
            (None, Some(limit)) if limit < 0 => Ok(Some(-1)),
            (None, _) => Ok(None),
            (Some(both), _) if both < 0 => Ok(Some(-1)),
            (Some(both), Some(limit)) if 0 < limit && limit <= both => Ok(Some(both - limit)),
            (Some(_), _) => Err(SandboxError::Invalid(
                "a limit of memory and swap together is at least as much as one of memory",
            )),
        }
    }
}

impl HostCgroup {
    /// Applies all limits but the one of CPU time.
    ///
    /// # Errors
    /// When a limit makes no sense, or the host cannot keep it.
    pub fn limit(&self, limits: &HostLimits, footprint: Footprint) -> Result<(), SandboxError> {
        if let Some(scope) = &self.scope {
            scope.limit(&limits.properties(self.version, footprint)?)?;
        }
        self.limit_memory(limits, footprint)?;
        if let Some(shares) = limits.shares {
            match self.version {
                Version::One => self.set("cpu", "cpu.shares", shares)?,
                Version::Two => self.set("cpu", "cpu.weight", weight_of_shares(shares))?,
            }
        }
        if let Some(cpus) = &limits.cpus {
            self.set("cpuset", "cpuset.cpus", cpus)?;
        }
        if let Some(nodes) = &limits.memory_nodes {
            self.set("cpuset", "cpuset.mems", nodes)?;
        }
        limits
            .io_weight
            .map_or(Ok(()), |weight| self.weigh_io(weight))
    }

    /// Applies the limit of CPU time. A machine comes up before: its start is not the container's.
    ///
    /// # Errors
    /// When the host cannot keep it.
    pub fn limit_cpu_time(&self, limits: &HostLimits) -> Result<(), SandboxError> {
        let HostLimits { quota, period, .. } = *limits;
        if let Some(scope) = &self.scope {
            scope.limit(&limits.cpu_time_properties())?;
        }
        if self.version == Version::Two {
            let quota = match (quota, period) {
                (None, None) => return Ok(()),
                (Some(quota), _) => unlimited_or(quota, "max"),
                (None, Some(_)) => {
                    let now = self.get("cpu", "cpu.max")?;
                    now.split_whitespace().next().unwrap_or("max").to_owned()
                }
            };
            // The period that there was stays when none is said.
            let period = period.map_or(String::new(), |period| format!(" {period}"));
            return self.set("cpu", "cpu.max", quota + &period);
        }
        let set_period = || {
            period.map_or(Ok(()), |period| {
                self.set("cpu", "cpu.cfs_period_us", period)
            })
        };
        let set_quota = || {
            quota.map_or(Ok(()), |quota| {
                self.set("cpu", "cpu.cfs_quota_us", quota.max(-1))
            })
        };
        match set_period() {
            Ok(()) => set_quota(),
            // With the quota that there was it would be more than what the group is in may use.
            Err(_) => set_quota().and_then(|()| set_period()),
        }
    }

    /// Makes room for a machine that grows. Without a limit there is room.
    ///
    /// # Errors
    /// When the host refuses.
    pub fn make_room(&self, footprint: Footprint) -> Result<(), SandboxError> {
        let Some(limit) = self.memory_limit()?.filter(|limit| *limit < footprint.most) else {
            return Ok(());
        };
        if let Some(scope) = &self.scope {
            let name = match self.version {
                Version::One => "MemoryLimit",
                Version::Two => "MemoryMax",
            };
            scope.limit(&[(name, Value::U64(footprint.most))])?;
        }
        if self.version == Version::Two {
            return self.set("memory", "memory.max", footprint.most);
        }
        // Memory and swap together: as much more.
        let more = footprint.most - limit;
        if let Some(both) = self.number("memory", MEMORY_AND_SWAP)? {
            self.set(
                "memory",
                MEMORY_AND_SWAP,
                both.saturating_add(more).min(MOST),
            )?;
        }
        self.set("memory", "memory.limit_in_bytes", footprint.most)
    }

    fn limit_memory(&self, limits: &HostLimits, footprint: Footprint) -> Result<(), SandboxError> {
        let most = i64::try_from(footprint.most).unwrap_or(i64::MAX);
        let limit = limits.memory.map(|limit| if limit < 0 { -1 } else { most });
        let swap = limits.swap_alone()?;
        let reservation = limits.reservation.map(|reserved| match reserved {
            reserved if reserved < 0 => -1,
            reserved => reserved.saturating_add_unsigned(footprint.overhead),
        });
        match self.version {
            Version::Two => {
                if let Some(swap) = swap {
                    let written = self.set("memory", "memory.swap.max", unlimited_or(swap, "max"));
                    // A kernel that has no swap gives none.
                    match written {
                        Err(error) if swap <= 0 && is_missing(&error) => {}
                        other => other?,
                    }
                }
                if let Some(limit) = limit {
                    self.set("memory", "memory.max", unlimited_or(limit, "max"))?;
                }
                if let Some(reservation) = reservation {
                    self.set("memory", "memory.low", reservation.max(0))?;
                }
            }
            Version::One => {
                let both = swap.map(|swap| match swap {
                    swap if swap < 0 => -1,
                    swap => most.saturating_add(swap),
                });
                self.limit_memory_and_swap(limit, both)?;
                if let Some(reservation) = reservation {
                    self.set("memory", "memory.soft_limit_in_bytes", reservation)?;
                }
            }
        }
        Ok(())
    }

    /// The kernel has the limit of both never be less than the one of memory.
    fn limit_memory_and_swap(
        &self,
        limit: Option<i64>,
        both: Option<i64>,
    ) -> Result<(), SandboxError> {
        let set = |file, value: Option<i64>| {
            value.map_or(Ok(()), |value| self.set("memory", file, value))
        };
        let unlimited = |value: i64| u64::try_from(value).unwrap_or(MOST);
        let first_both = match (limit, both) {
            (Some(limit), Some(_)) => {
                let now = self.number("memory", MEMORY_AND_SWAP)?;
                now.is_some_and(|now| now < unlimited(limit))
            }
            _ => false,
        };
        if first_both {
            set(MEMORY_AND_SWAP, both)?;
        }
        set("memory.limit_in_bytes", limit)?;
        match first_both {
            true => Ok(()),
            false => set(MEMORY_AND_SWAP, both),
        }
    }

    /// Bytes, if there is a limit.
    fn memory_limit(&self) -> Result<Option<u64>, SandboxError> {
        let file = match self.version {
            Version::One => "memory.limit_in_bytes",
            Version::Two => "memory.max",
        };
        Ok(self.number("memory", file)?.filter(|limit| *limit < MOST))
    }

    /// Only some of the host's schedulers for disks know weights; with another one none would count.
    fn weigh_io(&self, weight: u16) -> Result<(), SandboxError> {
        let (controller, files) = match self.version {
            Version::One => ("blkio", ["blkio.weight", "blkio.bfq.weight"]),
            Version::Two => ("io", ["io.weight", "io.bfq.weight"]),
        };
        let found = files
            .into_iter()
            .find(|file| self.file(controller, file).exists());
        match found {
            None => Ok(()),
            Some("io.weight") => self.set(controller, "io.weight", io_weight(weight)),
            Some(file) => self.set(controller, file, weight),
        }
    }

    fn set(&self, controller: &str, file: &str, value: impl ToString) -> Result<(), SandboxError> {
        let path = self.file(controller, file);
        let value = value.to_string();
        // Not fs::write: it would create a missing file, which the kernel refuses less clearly.
        let opened = fs::File::options().write(true).open(&path);
        opened
            .and_then(|mut file| io::Write::write_all(&mut file, value.as_bytes()))
            .map_err(SandboxError::host(format!(
                "write {value:?} to {}",
                path.display()
            )))
    }

    fn get(&self, controller: &str, file: &str) -> Result<String, SandboxError> {
        let path = self.file(controller, file);
        fs::read_to_string(&path).map_err(SandboxError::host(format!("read {}", path.display())))
    }

    /// What a file holds, if that is a number. One that is not there holds none.
    fn number(&self, controller: &str, file: &str) -> Result<Option<u64>, SandboxError> {
        match self.get(controller, file) {
            Err(error) if is_missing(&error) => Ok(None),
            text => Ok(text?.trim().parse().ok()),
        }
    }
}

const MEMORY_AND_SWAP: &str = "memory.memsw.limit_in_bytes";
/// From here on a number is what version 1 shows where there is no limit.
const MOST: u64 = i64::MAX as u64 & !0xfff;

fn is_missing(error: &SandboxError) -> bool {
    matches!(error, SandboxError::Host { source, .. } if source.kind() == io::ErrorKind::NotFound)
}

fn unlimited_or(value: i64, unlimited: &str) -> String {
    match value < 0 {
        true => unlimited.to_owned(),
        false => value.to_string(),
    }
}

/// Shares of 2 to 262144 on weights of 1 to 10000.
fn weight_of_shares(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

/// Weights of 10 to 1000 on 1 to 10000.
fn io_weight(weight: u16) -> u64 {
    1 + (u64::from(weight).clamp(10, 1000) - 10) * 9999 / 990
}
