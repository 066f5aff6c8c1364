//! Limits, scheduling and execution domain of a process.

use nix::unistd::Pid;

use super::error::{Context, SetupError};
use crate::spec::{CpuAffinity, IoPriority, Personality, Rlimit, Scheduler};
use crate::sys::check;

const PER_LINUX: libc::c_ulong = 0;
const PER_LINUX32: libc::c_ulong = 8;

/// This process, for calls that take a pid.
pub(super) const SELF: Pid = Pid::from_raw(0);

/// Sets a process's limits.
pub(super) fn set_rlimits(pid: Pid, limits: &[Rlimit]) -> Result<(), SetupError> {
    for limit in limits {
        let resource = rlimit_number(&limit.kind).ok_or_else(|| SetupError::Invalid {
            field: "process.rlimits type",
            value: limit.kind.clone(),
        })?;
        let value = libc::rlimit {
            rlim_cur: limit.soft,
            rlim_max: limit.hard,
        };
        let none = std::ptr::null_mut();
        // SAFETY: prlimit reads an rlimit, which lives through the call, and is asked for no old
        // value.
        check(unsafe { libc::prlimit(pid.as_raw(), resource, &raw const value, none) }.into())
            .when("set a resource limit")?;
    }
    Ok(())
}

fn rlimit_number(kind: &str) -> Option<u32> {
    Some(match kind {
        "RLIMIT_CPU" => libc::RLIMIT_CPU,
        "RLIMIT_FSIZE" => libc::RLIMIT_FSIZE,
        "RLIMIT_DATA" => libc::RLIMIT_DATA,
        "RLIMIT_STACK" => libc::RLIMIT_STACK,
        "RLIMIT_CORE" => libc::RLIMIT_CORE,
        "RLIMIT_RSS" => libc::RLIMIT_RSS,
        "RLIMIT_NPROC" => libc::RLIMIT_NPROC,
        "RLIMIT_NOFILE" => libc::RLIMIT_NOFILE,
        "RLIMIT_MEMLOCK" => libc::RLIMIT_MEMLOCK,
        "RLIMIT_AS" => libc::RLIMIT_AS,
        "RLIMIT_LOCKS" => libc::RLIMIT_LOCKS,
        "RLIMIT_SIGPENDING" => libc::RLIMIT_SIGPENDING,
        "RLIMIT_MSGQUEUE" => libc::RLIMIT_MSGQUEUE,
        "RLIMIT_NICE" => libc::RLIMIT_NICE,
        "RLIMIT_RTPRIO" => libc::RLIMIT_RTPRIO,
        "RLIMIT_RTTIME" => libc::RLIMIT_RTTIME,
        _ => return None,
    })
}

/// As sched_setattr(2) takes it, in its first version.
#[repr(C)]
struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

const SCHED_ATTR_SIZE: u32 = 48;
const _: () = assert!(size_of::<SchedAttr>() == SCHED_ATTR_SIZE as usize);

/// Sets this process's scheduling policy.
pub(super) fn set_scheduler(scheduler: &Scheduler) -> Result<(), SetupError> {
    let attr = scheduler_attributes(scheduler)?;
    // SAFETY: the structure says its own size and lives through the call.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) })
        .when("set the scheduler")?;
    Ok(())
}

fn scheduler_attributes(scheduler: &Scheduler) -> Result<SchedAttr, SetupError> {
    let policy = match scheduler.policy.as_str() {
        "SCHED_OTHER" => libc::SCHED_OTHER,
        "SCHED_FIFO" => libc::SCHED_FIFO,
        "SCHED_RR" => libc::SCHED_RR,
        "SCHED_BATCH" => libc::SCHED_BATCH,
        // Reserved in the kernel under this number, and refused by it.
        "SCHED_ISO" => 4,
        "SCHED_IDLE" => libc::SCHED_IDLE,
        "SCHED_DEADLINE" => libc::SCHED_DEADLINE,
        _ => {
            return Err(SetupError::Invalid {
                field: "process.scheduler.policy",
                value: scheduler.policy.clone(),
            });
        }
    };
    let mut flags = 0;
    for flag in &scheduler.flags {
        flags |= match flag.as_str() {
            "SCHED_FLAG_RESET_ON_FORK" => 0x01,
            "SCHED_FLAG_RECLAIM" => 0x02,
            "SCHED_FLAG_DL_OVERRUN" => 0x04,
            "SCHED_FLAG_KEEP_POLICY" => 0x08,
            "SCHED_FLAG_KEEP_PARAMS" => 0x10,
            "SCHED_FLAG_UTIL_CLAMP_MIN" => 0x20,
            "SCHED_FLAG_UTIL_CLAMP_MAX" => 0x40,
            _ => {
                return Err(SetupError::Invalid {
                    field: "process.scheduler.flags",
                    value: flag.clone(),
                });
            }
        };
    }
    Ok(SchedAttr {
        size: SCHED_ATTR_SIZE,
        policy: policy.cast_unsigned(),
        flags,
        nice: scheduler.nice,
        priority: u32::try_from(scheduler.priority).map_err(|_| SetupError::Invalid {
            field: "process.scheduler.priority",
            value: scheduler.priority.to_string(),
        })?,
        runtime: scheduler.runtime,
        deadline: scheduler.deadline,
        period: scheduler.period,
    })
}

/// Sets this process's I/O priority.
pub(super) fn set_io_priority(io_priority: &IoPriority) -> Result<(), SetupError> {
    let class: u64 = match io_priority.class.as_str() {
        "IOPRIO_CLASS_RT" => 1,
        "IOPRIO_CLASS_BE" => 2,
        "IOPRIO_CLASS_IDLE" => 3,
        _ => {
            return Err(SetupError::Invalid {
                field: "process.ioPriority.class",
                value: io_priority.class.clone(),
            });
        }
    };
    const WHO_PROCESS: u64 = 1;
    let value = class << 13 | u64::from(io_priority.priority);
    // SAFETY: no memory is passed.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0_u64, value) })
        .when("set the I/O priority")?;
    Ok(())
}

/// Sets this process's execution domain.
pub(super) fn set_personality(personality: &Personality) -> Result<(), SetupError> {
    if !personality.flags.is_empty() {
        return Err(SetupError::Unsupported(
            "flags in linux.personality".to_owned(),
        ));
    }
    let domain = match personality.domain.as_str() {
        "LINUX" => PER_LINUX,
        "LINUX32" => PER_LINUX32,
        _ => {
            return Err(SetupError::Invalid {
                field: "linux.personality.domain",
                value: personality.domain.clone(),
            });
        }
    };
    // SAFETY: no memory is passed.
    check(unsafe { libc::personality(domain) }.into()).when("set the personality")?;
    Ok(())
}

/// Binds this process to the CPUs of a list; an empty list changes nothing.
pub(super) fn set_affinity(list: &str) -> Result<(), SetupError> {
    if list.is_empty() {
        return Ok(());
    }
    let invalid = || SetupError::Invalid {
        field: "process.execCPUAffinity",
        value: list.to_owned(),
    };
    let mut set = nix::sched::CpuSet::new();
    for cpu in parse_cpu_list(list).ok_or_else(invalid)? {
        set.set(cpu).map_err(|_| invalid())?;
    }
    nix::sched::sched_setaffinity(SELF, &set).when("set the CPU affinity")
}

/// CPU numbers of a list such as "0-3,7".
fn parse_cpu_list(list: &str) -> Option<Vec<usize>> {
    let mut cpus = Vec::new();
    for part in list.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if first > last || last >= nix::sched::CpuSet::count() {
            return None;
        }
        cpus.extend(first..=last);
    }
    Some(cpus)
}

impl CpuAffinity {
    /// The list while a process enters its container.
    pub(super) fn on_entry(affinity: Option<&Self>) -> &str {
        affinity.map_or("", |affinity| affinity.initial.as_str())
    }

    /// The list once it runs.
    pub(super) fn at_last(affinity: Option<&Self>) -> &str {
        affinity.map_or("", |affinity| affinity.last.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_lists_are_ranges_and_numbers() {
        assert_eq!(parse_cpu_list("0-2, 5"), Some(vec![0, 1, 2, 5]));
        assert_eq!(parse_cpu_list("2-1"), None);
        assert_eq!(parse_cpu_list("x"), None);
        assert_eq!(parse_cpu_list("0-99999999"), None);
    }

    #[test]
    fn unknown_limits_are_refused() {
        let limit = Rlimit {
            kind: "RLIMIT_PATIENCE".to_owned(),
            soft: 1,
            hard: 1,
        };
        assert!(matches!(
            set_rlimits(SELF, &[limit]),
            Err(SetupError::Invalid { .. })
        ));
    }

    #[test]
    fn a_scheduler_is_checked() {
        let scheduler = Scheduler {
            policy: "SCHED_FIFO".to_owned(),
            priority: 3,
            flags: vec!["SCHED_FLAG_RESET_ON_FORK".to_owned()],
            ..Scheduler::default()
        };
        let attr = scheduler_attributes(&scheduler).unwrap();
        assert_eq!((attr.policy, attr.priority, attr.flags), (1, 3, 1));
        let bad = Scheduler {
            policy: "SCHED_LUCKY".to_owned(),
            ..Scheduler::default()
        };
        assert!(scheduler_attributes(&bad).is_err());
    }
}
