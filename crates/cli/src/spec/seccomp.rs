//! Which system calls a container may make when nothing else is asked for.
//!
//! The list follows what Docker documents as its default: what programs commonly need is allowed, and
//! calls that administer the machine come with the capability that the kernel asks of them anyway.

use oci_spec::runtime::{
    Arch, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder,
    LinuxSeccompOperator, LinuxSyscall,
};

use super::capabilities::CapabilitySet;

/// Allowed to everybody.
const ALLOWED: &str = include_str!("seccomp_allowed.txt");

/// Allowed with a capability.
const WITH_CAPABILITY: &[(Capability, &str)] = &[
    (Capability::DacReadSearch, "open_by_handle_at"),
    (
        Capability::SysAdmin,
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount \
         mount_setattr move_mount open_tree perf_event_open quotactl quotactl_fd setdomainname \
         sethostname setns syslog umount umount2 unshare",
    ),
    (Capability::SysBoot, "reboot"),
    (Capability::SysChroot, "chroot"),
    (
        Capability::SysModule,
        "delete_module finit_module init_module query_module",
    ),
    (Capability::SysPacct, "acct"),
    (Capability::SysPtrace, "kcmp pidfd_getfd process_madvise"),
    (Capability::SysRawio, "ioperm iopl"),
    (
        Capability::SysTime,
        "clock_settime clock_settime64 settimeofday stime",
    ),
    (Capability::SysTtyConfig, "vhangup"),
    (
        Capability::SysNice,
        "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
    ),
    (Capability::Syslog, "syslog"),
    (Capability::Bpf, "bpf"),
    (Capability::Perfmon, "perf_event_open"),
];

/// `personality` values that change nothing dangerous: PER_LINUX, UNAME26, PER_LINUX32, both, and the
/// query.
const PERSONALITIES: [u64; 5] = [0, 0x2_0000, 0x8, 0x2_0008, 0xffff_ffff];
/// `clone` flags that make namespaces: CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET.
const NAMESPACE_FLAGS: u64 = 0x7e02_0000;
/// A container has no business with the agent behind the vsock. The agent answers the host only; that
/// containers make no such sockets at all is a second barrier.
///
/// It does not hold for 32-bit programs. `socketcall` has the family behind a pointer, where no filter sees
/// it, and refusing the call would take the network from them: the C library of 32-bit Debian makes every
/// socket by it, and does not try another way when it is told ENOSYS.
const AF_VSOCK: u64 = 40;
/// Bits that an address family's number needs (AF_MAX is 46).
const FAMILY_BITS: u32 = 6;
const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

/// The default profile of a container with these capabilities.
pub(super) fn default_profile(capabilities: &CapabilitySet) -> LinuxSeccomp {
    let mut rules = vec![allow(ALLOWED, vec![])];
    for personality in PERSONALITIES {
        let equal = argument(LinuxSeccompOperator::ScmpCmpEq, personality, None);
        rules.push(allow("personality", vec![equal]));
    }
    rules.extend(not_vsock().map(|family| allow("socket", vec![family])));
    for (capability, names) in WITH_CAPABILITY {
        if capabilities.contains(*capability) {
            rules.push(allow(names, vec![]));
        }
    }
    if !capabilities.contains(Capability::SysAdmin) {
        let no_namespace = argument(
            LinuxSeccompOperator::ScmpCmpMaskedEq,
            NAMESPACE_FLAGS,
            Some(0),
        );
        rules.push(allow("clone", vec![no_namespace]));
        // Its flags are in memory, where no filter sees them. ENOSYS makes the C library use clone.
        let mut clone3 = rule("clone3", vec![]);
        clone3.set_action(LinuxSeccompAction::ScmpActErrno);
        clone3.set_errno_ret(Some(ENOSYS));
        rules.push(clone3);
    }
    let mut profile = LinuxSeccomp::default();
    profile.set_default_action(LinuxSeccompAction::ScmpActErrno);
    profile.set_default_errno_ret(Some(EPERM));
    profile.set_architectures(Some(vec![
        Arch::ScmpArchX86_64,
        Arch::ScmpArchX86,
        Arch::ScmpArchX32,
    ]));
    profile.set_syscalls(Some(rules));
    profile
}

/// Conditions of which every address family but vsock's fulfils one. The kernel reads an `int` where a
/// filter sees 64 bits, so `!= AF_VSOCK` would be fulfilled by vsock's number with a bit above those.
fn not_vsock() -> impl Iterator<Item = LinuxSeccompArg> {
    (0..FAMILY_BITS).map(|bit| {
        let mask = 1 << bit;
        let operator = LinuxSeccompOperator::ScmpCmpMaskedEq;
        argument(operator, mask, Some(!AF_VSOCK & mask))
    })
}

fn allow(names: &str, arguments: Vec<LinuxSeccompArg>) -> LinuxSyscall {
    let mut rule = rule(names, arguments);
    rule.set_action(LinuxSeccompAction::ScmpActAllow);
    rule
}

fn rule(names: &str, arguments: Vec<LinuxSeccompArg>) -> LinuxSyscall {
    let mut rule = LinuxSyscall::default();
    rule.set_names(names.split_whitespace().map(str::to_owned).collect());
    rule.set_args((!arguments.is_empty()).then_some(arguments));
    rule
}

/// A test of the call's first argument.
fn argument(op: LinuxSeccompOperator, value: u64, value_two: Option<u64>) -> LinuxSeccompArg {
    let argument = LinuxSeccompArgBuilder::default()
        .index(0_usize)
        .value(value)
        .op(op);
    let argument = match value_two {
        Some(second) => argument.value_two(second),
        None => argument,
    };
    argument.build().expect("all fields are given")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn names(profile: &LinuxSeccomp) -> HashSet<String> {
        let rules = profile.syscalls().as_ref().unwrap();
        let allowed = rules
            .iter()
            .filter(|rule| rule.action() == LinuxSeccompAction::ScmpActAllow);
        allowed.flat_map(|rule| rule.names().clone()).collect()
    }

    #[test]
    fn no_name_is_allowed_twice() {
        let all: Vec<_> = ALLOWED.split_whitespace().collect();
        let unique: HashSet<_> = all.iter().collect();
        assert_eq!(all.len(), unique.len());
    }

    #[test]
    fn calls_that_administer_the_machine_come_with_their_capability() {
        let plain = names(&default_profile(&CapabilitySet::default()));
        let all = names(&default_profile(&CapabilitySet::all()));
        for name in [
            "mount",
            "reboot",
            "bpf",
            "init_module",
            "settimeofday",
            "clone3",
        ] {
            assert!(!plain.contains(name), "{name}");
            assert!(all.contains(name), "{name}");
        }
        for name in ["openat", "clone", "socket", "chroot"] {
            assert!(plain.contains(name), "{name}");
        }
    }

    #[test]
    fn vsock_is_the_one_family_that_is_refused_however_it_is_written() {
        let conditions: Vec<_> = not_vsock().collect();
        let allowed = |family: u64| {
            let fulfils = |condition: &LinuxSeccompArg| {
                family & condition.value() == condition.value_two().unwrap()
            };
            conditions.iter().any(fulfils)
        };
        for family in 0..46 {
            assert_eq!(allowed(family), family != AF_VSOCK, "{family}");
            assert_eq!(allowed(family | 1 << 32), family != AF_VSOCK, "{family}");
        }
    }

    #[test]
    fn the_profile_survives_json() {
        let profile = default_profile(&CapabilitySet::default());
        let json = serde_json::to_string(&profile).unwrap();
        assert!(json.contains("SCMP_CMP_MASKED_EQ") && json.contains("SCMP_ARCH_X86_64"));
        assert_eq!(
            serde_json::from_str::<LinuxSeccomp>(&json).unwrap(),
            profile
        );
    }
}
