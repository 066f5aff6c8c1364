//! The container's control group inside the guest.

use oci_spec::runtime::{
    LinuxCpu, LinuxDeviceCgroup, LinuxDeviceType, LinuxMemory, LinuxPids, LinuxResources,
};

use super::Request;

/// Character devices that every container may use: null, zero, full, random, urandom, tty, console,
/// ptmx and all pseudo terminals.
const DEVICES: [(i64, Option<i64>); 9] = [
    (1, Some(3)),
    (1, Some(5)),
    (1, Some(7)),
    (1, Some(8)),
    (1, Some(9)),
    (5, Some(0)),
    (5, Some(1)),
    (5, Some(2)),
    (136, None),
];

pub(super) fn resources(request: &Request) -> LinuxResources {
    let mut resources = LinuxResources::default();
    resources.set_devices(Some(devices(request.privileged)));
    if let Some(bytes) = request.memory_bytes {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        let mut memory = LinuxMemory::default();
        memory.set_limit(Some(bytes));
        // Memory and swap together: the guest has no swap.
        memory.set_swap(Some(bytes));
        resources.set_memory(Some(memory));
    }
    if let Some((quota, period)) = request.cpus.and_then(|cpus| cpus.quota_us()) {
        let mut cpu = LinuxCpu::default();
        cpu.set_quota(Some(quota));
        cpu.set_period(Some(period));
        resources.set_cpu(Some(cpu));
    }
    if let Some(limit) = request.pids_limit {
        let mut pids = LinuxPids::default();
        pids.set_limit(limit);
        resources.set_pids(Some(pids));
    }
    resources
}

fn devices(privileged: bool) -> Vec<LinuxDeviceCgroup> {
    if privileged {
        return vec![rule(true, None, (None, None), "rwm")];
    }
    let character = Some(LinuxDeviceType::C);
    let mut rules = vec![
        rule(false, None, (None, None), "rwm"),
        // Making device nodes is harmless; using them is not.
        rule(true, character, (None, None), "m"),
        rule(true, Some(LinuxDeviceType::B), (None, None), "m"),
    ];
    let usable = DEVICES
        .iter()
        .map(|(major, minor)| rule(true, character, (Some(*major), *minor), "rwm"));
    rules.extend(usable);
    rules
}

fn rule(
    allow: bool,
    typ: Option<LinuxDeviceType>,
    (major, minor): (Option<i64>, Option<i64>),
    access: &str,
) -> LinuxDeviceCgroup {
    let mut rule = LinuxDeviceCgroup::default();
    rule.set_allow(allow);
    rule.set_typ(typ);
    rule.set_major(major);
    rule.set_minor(minor);
    rule.set_access(Some(access.to_owned()));
    rule
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::tests::request;

    #[test]
    fn limits_are_set_only_when_asked_for() {
        let none = resources(&request());
        assert!(none.memory().is_none() && none.cpu().is_none() && none.pids().is_none());
        let all = resources(&Request {
            memory_bytes: Some(64 << 20),
            cpus: Some(crate::values::cpus::parse("0.5").unwrap()),
            pids_limit: Some(7),
            ..request()
        });
        assert_eq!(all.memory().as_ref().unwrap().limit(), Some(64 << 20));
        assert_eq!(all.cpu().as_ref().unwrap().quota(), Some(50_000));
        assert_eq!(all.pids().as_ref().unwrap().limit(), 7);
    }

    #[test]
    fn devices_are_denied_before_some_are_allowed() {
        let rules = devices(false);
        assert!(!rules[0].allow());
        assert!(rules[1..].iter().all(LinuxDeviceCgroup::allow));
        assert!(devices(true)[0].allow());
    }
}
