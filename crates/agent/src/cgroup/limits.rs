//! From the specification's resources to cgroup v2 files.

use std::path::Path;

use super::{CgroupError, read};
use crate::spec::{BlockIo, Cpu, Memory, Resources, ThrottleDevice};

/// One value for one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setting {
    pub(super) file: String,
    pub(super) value: String,
}

impl Setting {
    /// Whether a guest whose kernel has no such file honours the limit anyway: where there is no
    /// swap, or no page of that size, none can be used.
    pub(super) fn holds_without_file(&self) -> bool {
        self.file == "memory.swap.max" || self.file.starts_with("hugetlb.")
    }
}

fn setting(file: &str, value: impl ToString) -> Setting {
    Setting {
        file: file.to_owned(),
        value: value.to_string(),
    }
}

/// Microseconds; the kernel's own default.
const DEFAULT_PERIOD: u64 = 100_000;

/// All that has to be written, in this order. `path` is looked at for which files there are.
pub(super) fn settings(path: &Path, resources: &Resources) -> Result<Vec<Setting>, CgroupError> {
    let mut settings = memory(&resources.memory)?;
    settings.extend(cpu(&resources.cpu));
    if let Some(limit) = resources.pids.limit {
        settings.push(setting("pids.max", limit_or_max(limit.max(-1), 1)));
    }
    settings.extend(block_io(path, &resources.block_io));
    for limit in &resources.hugepage_limits {
        let size = &limit.page_size;
        if size.is_empty() || size.contains('/') {
            return Err(CgroupError::Invalid {
                field: "hugepageLimits pageSize",
                value: size.clone(),
            });
        }
        settings.push(setting(&format!("hugetlb.{size}.max"), limit.limit));
        let reserved = format!("hugetlb.{size}.rsvd.max");
        if path.join(&reserved).exists() {
            settings.push(setting(&reserved, limit.limit));
        }
    }
    for (device, limit) in &resources.rdma {
        let mut value = device.clone();
        if let Some(handles) = limit.hca_handles {
            value.push_str(&format!(" hca_handle={handles}"));
        }
        if let Some(objects) = limit.hca_objects {
            value.push_str(&format!(" hca_object={objects}"));
        }
        settings.push(setting("rdma.max", value));
    }
    for (file, value) in &resources.unified {
        if file.contains('/') || !file.contains('.') {
            return Err(CgroupError::Invalid {
                field: "unified",
                value: file.clone(),
            });
        }
        settings.push(setting(file, value));
    }
    Ok(settings)
}

/// "max" below `least`.
fn limit_or_max(limit: i64, least: i64) -> String {
    if limit < least {
        "max".to_owned()
    } else {
        limit.to_string()
    }
}

fn memory(memory: &Memory) -> Result<Vec<Setting>, CgroupError> {
    let mut settings = Vec::new();
    if let Some(swap) = swap_alone(memory)? {
        settings.push(setting("memory.swap.max", limit_or_max(swap, 0)));
    }
    // A limit of 0 says nothing, as in version 1.
    if let Some(limit) = memory.limit.filter(|&limit| limit != 0) {
        settings.push(setting("memory.max", limit_or_max(limit, 0)));
    }
    if let Some(reservation) = memory.reservation.filter(|&r| r != 0) {
        settings.push(setting("memory.low", limit_or_max(reservation, 0)));
    }
    Ok(settings)
}

/// The specification counts memory and swap together, the kernel swap alone.
fn swap_alone(memory: &Memory) -> Result<Option<i64>, CgroupError> {
    let limit = memory.limit.unwrap_or(0);
    let Some(both) = memory.swap.filter(|&swap| swap != 0) else {
        // Unlimited memory with no word on swap.
        return Ok((limit == -1).then_some(-1));
    };
    if both == -1 {
        return Ok(Some(-1));
    }
    if limit <= 0 || both < limit {
        return Err(CgroupError::Invalid {
            field: "memory.swap",
            value: both.to_string(),
        });
    }
    Ok(Some(both - limit))
}

/// Refuses a limit below what is in use, where that is asked for, as the kernel would rather kill.
pub(super) fn check_memory(path: &Path, memory: &Memory) -> Result<(), CgroupError> {
    let Some(limit) = memory.limit.filter(|&limit| limit > 0) else {
        return Ok(());
    };
    if !memory.check_before_update {
        return Ok(());
    }
    let current = read(&path.join("memory.current"))?;
    if current
        .trim()
        .parse::<i64>()
        .is_ok_and(|current| current > limit)
    {
        return Err(CgroupError::Invalid {
            field: "memory.limit",
            value: limit.to_string(),
        });
    }
    Ok(())
}

fn cpu(cpu: &Cpu) -> Vec<Setting> {
    let mut settings = Vec::new();
    if let Some(idle) = cpu.idle {
        settings.push(setting("cpu.idle", idle));
    }
    if let Some(shares) = cpu.shares.filter(|&shares| shares != 0) {
        settings.push(setting("cpu.weight", weight_of_shares(shares)));
    }
    // The quota may not be less than the burst: a larger quota goes first, a smaller burst too.
    if let Some(burst) = cpu.burst {
        settings.push(setting("cpu.max.burst", burst));
    }
    if cpu.quota.is_some() || cpu.period.is_some() {
        let quota = limit_or_max(cpu.quota.unwrap_or(-1), 1);
        let period = cpu.period.filter(|&p| p != 0).unwrap_or(DEFAULT_PERIOD);
        let at = settings.iter().position(|s| s.file == "cpu.max.burst");
        let max = setting("cpu.max", format!("{quota} {period}"));
        settings.insert(at.unwrap_or(settings.len()), max);
    }
    if !cpu.cpus.is_empty() {
        settings.push(setting("cpuset.cpus", &cpu.cpus));
    }
    if !cpu.mems.is_empty() {
        settings.push(setting("cpuset.mems", &cpu.mems));
    }
    if cpu.realtime_runtime.is_some() || cpu.realtime_period.is_some() {
        log::warn!("resources: realtime CPU time is ignored: cgroup v2 has none");
    }
    settings
}

/// Shares of 2 to 262144 on weights of 1 to 10000.
fn weight_of_shares(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

/// Weights of 10 to 1000 on 1 to 10000.
fn io_weight(weight: u16) -> u64 {
    1 + (u64::from(weight).clamp(10, 1000) - 10) * 9999 / 990
}

fn block_io(path: &Path, block_io: &BlockIo) -> Vec<Setting> {
    let mut settings = Vec::new();
    let bfq = path.join("io.bfq.weight").exists();
    let weighted = |prefix: &str, weight: u16| {
        if bfq {
            setting("io.bfq.weight", format!("{prefix}{weight}"))
        } else {
            setting("io.weight", format!("{prefix}{}", io_weight(weight)))
        }
    };
    if let Some(weight) = block_io.weight.filter(|&weight| weight != 0) {
        settings.push(weighted("", weight));
    }
    for device in &block_io.weight_device {
        if let Some(weight) = device.weight {
            let prefix = format!("{}:{} ", device.major, device.minor);
            settings.push(weighted(&prefix, weight));
        }
    }
    let throttles: [(&str, &[ThrottleDevice]); 4] = [
        ("rbps", &block_io.throttle_read_bps_device),
        ("wbps", &block_io.throttle_write_bps_device),
        ("riops", &block_io.throttle_read_iops_device),
        ("wiops", &block_io.throttle_write_iops_device),
    ];
    for (key, devices) in throttles {
        for device in devices {
            // A rate of 0 lifts the limit, as in version 1.
            let rate = match device.rate {
                0 => "max".to_owned(),
                rate => rate.to_string(),
            };
            let value = format!("{}:{} {key}={rate}", device.major, device.minor);
            settings.push(setting("io.max", value));
        }
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Hugepage, Pids};

    fn all(resources: &Resources) -> Vec<(String, String)> {
        settings(Path::new("/nonexistent"), resources)
            .unwrap()
            .into_iter()
            .map(|s| (s.file, s.value))
            .collect()
    }

    fn pair(file: &str, value: &str) -> (String, String) {
        (file.to_owned(), value.to_owned())
    }

    #[test]
    fn swap_is_counted_alone() {
        let resources = Resources {
            memory: Memory {
                limit: Some(100),
                swap: Some(150),
                reservation: Some(50),
                ..Memory::default()
            },
            ..Resources::default()
        };
        assert_eq!(
            all(&resources),
            [
                pair("memory.swap.max", "50"),
                pair("memory.max", "100"),
                pair("memory.low", "50")
            ]
        );
    }

    #[test]
    fn equal_swap_and_memory_means_no_swap() {
        let memory = Memory {
            limit: Some(100),
            swap: Some(100),
            ..Memory::default()
        };
        assert_eq!(swap_alone(&memory).unwrap(), Some(0));
    }

    #[test]
    fn swap_below_memory_is_refused() {
        let memory = Memory {
            limit: Some(100),
            swap: Some(50),
            ..Memory::default()
        };
        assert!(swap_alone(&memory).is_err());
    }

    #[test]
    fn unlimited_is_max() {
        let resources = Resources {
            memory: Memory {
                limit: Some(-1),
                ..Memory::default()
            },
            pids: Pids { limit: Some(-1) },
            cpu: Cpu {
                quota: Some(-1),
                ..Cpu::default()
            },
            ..Resources::default()
        };
        assert_eq!(
            all(&resources),
            [
                pair("memory.swap.max", "max"),
                pair("memory.max", "max"),
                pair("cpu.max", "max 100000"),
                pair("pids.max", "max")
            ]
        );
    }

    #[test]
    fn cpu_shares_span_the_weights() {
        assert_eq!(weight_of_shares(2), 1);
        assert_eq!(weight_of_shares(1024), 39);
        assert_eq!(weight_of_shares(262_144), 10_000);
    }

    #[test]
    fn the_quota_is_written_before_the_burst() {
        let resources = Resources {
            cpu: Cpu {
                quota: Some(50_000),
                period: Some(100_000),
                burst: Some(20_000),
                ..Cpu::default()
            },
            ..Resources::default()
        };
        assert_eq!(
            all(&resources),
            [
                pair("cpu.max", "50000 100000"),
                pair("cpu.max.burst", "20000")
            ]
        );
    }

    #[test]
    fn devices_are_throttled_one_by_one() {
        let device = |rate| ThrottleDevice {
            major: 8,
            minor: 0,
            rate,
        };
        let resources = Resources {
            block_io: BlockIo {
                weight: Some(1000),
                throttle_read_bps_device: vec![device(1024)],
                throttle_write_iops_device: vec![device(0)],
                ..BlockIo::default()
            },
            hugepage_limits: vec![Hugepage {
                page_size: "2MB".to_owned(),
                limit: 4096,
            }],
            ..Resources::default()
        };
        assert_eq!(
            all(&resources),
            [
                pair("io.weight", "10000"),
                pair("io.max", "8:0 rbps=1024"),
                pair("io.max", "8:0 wiops=max"),
                pair("hugetlb.2MB.max", "4096")
            ]
        );
    }

    #[test]
    fn unified_names_stay_in_the_cgroup() {
        let resources = Resources {
            unified: [("../x.y".to_owned(), "1".to_owned())].into(),
            ..Resources::default()
        };
        assert!(settings(Path::new("/nonexistent"), &resources).is_err());
    }
}
