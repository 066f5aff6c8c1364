//! System call filters.
//!
//! A filter must be in place before the process reads from the guest or starts a thread, so that it
//! covers all of them.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp as Op, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch,
};

use super::Error;

/// What the vsock back end calls, whatever the arguments.
const VSOCK: &[libc::c_long] = &[
    // The event loop.
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    // Sockets, event descriptors and messages.
    libc::SYS_accept4,
    libc::SYS_connect,
    libc::SYS_shutdown,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_close,
    libc::SYS_dup,
    libc::SYS_fcntl,
    libc::SYS_eventfd2,
    // Memory.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_lseek,
    // Threads and the C library's bookkeeping.
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_clock_gettime,
    libc::SYS_restart_syscall,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// What the relay between guest and passt calls, whatever the arguments: it opens nothing.
const NET: &[libc::c_long] = &[
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_shutdown,
    libc::SYS_recvfrom,
    libc::SYS_sendto,
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_close,
    libc::SYS_fcntl,
    // Memory.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    // Threads and the C library's bookkeeping.
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_restart_syscall,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// Everything but what the vsock back end needs ends the process.
///
/// # Errors
/// When the filter cannot be built, or the kernel refuses it.
pub fn confine_vsock() -> Result<(), Error> {
    let unix = rule(&[(0, Op::Eq, number(libc::AF_UNIX))])?;
    allow_only(VSOCK, BTreeMap::from([(libc::SYS_socket, vec![unix])]))
}

/// Everything but what the relay between guest and passt needs ends the process.
///
/// # Errors
/// When the filter cannot be built, or the kernel refuses it.
pub fn confine_net() -> Result<(), Error> {
    allow_only(NET, BTreeMap::new())
}

/// Allows `calls`, what `rules` allow, threads, and memory that is not executed.
fn allow_only(calls: &[libc::c_long], mut rules: Rules) -> Result<(), Error> {
    rules.extend(calls.iter().map(|&call| (call, Vec::new())));
    rules.extend(no_new_code(Sense::Allowed)?);
    rules.extend(threads_only(Sense::Allowed)?);
    rules.insert(
        libc::SYS_prctl,
        vec![rule(&[(0, Op::Eq, number(libc::PR_SET_NAME))])?],
    );
    rules.insert(libc::SYS_tgkill, vec![rule(&[(0, Op::Eq, own_pid())])?]);
    // Its flags are behind a pointer; the filter below makes the C library fall back to clone.
    rules.insert(libc::SYS_clone3, Vec::new());
    refuse_clone3()?;
    install(rules, SeccompAction::KillProcess, SeccompAction::Allow)
}

/// Takes from virtiofsd's filter what a file server does not need: signals to other processes, new
/// processes, and memory that can be executed.
///
/// # Errors
/// When a filter cannot be built, or the kernel refuses it.
pub fn confine_fs() -> Result<(), Error> {
    let mut rules = no_new_code(Sense::Forbidden)?;
    rules.extend(threads_only(Sense::Forbidden)?);
    rules.insert(libc::SYS_tgkill, vec![rule(&[(0, Op::Ne, own_pid())])?]);
    rules.insert(libc::SYS_tkill, Vec::new());
    install(rules, SeccompAction::Allow, SeccompAction::KillProcess)?;
    refuse_clone3()?;
    // Last, as it lets no further filter be installed.
    virtiofsd::seccomp::enable_seccomp(virtiofsd::seccomp::SeccompAction::Kill, false)
        .map_err(Error::FileServerFilter)
}

/// Whether a rule describes what a filter lets through or what it stops.
#[derive(Clone, Copy)]
enum Sense {
    Allowed,
    Forbidden,
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Memory that can be executed.
fn no_new_code(sense: Sense) -> Result<Rules, Error> {
    let exec = number(libc::PROT_EXEC);
    let value = match sense {
        Sense::Allowed => 0,
        Sense::Forbidden => exec,
    };
    let condition = || rule(&[(2, Op::MaskedEq(exec), value)]);
    Ok(BTreeMap::from([
        (libc::SYS_mmap, vec![condition()?]),
        (libc::SYS_mprotect, vec![condition()?]),
    ]))
}

/// Processes, as against threads.
fn threads_only(sense: Sense) -> Result<Rules, Error> {
    let thread = number(libc::CLONE_THREAD);
    let value = match sense {
        Sense::Allowed => thread,
        Sense::Forbidden => 0,
    };
    let condition = rule(&[(0, Op::MaskedEq(thread), value)])?;
    Ok(BTreeMap::from([(libc::SYS_clone, vec![condition])]))
}

/// Makes `clone3` look like a system call that this kernel does not have.
fn refuse_clone3() -> Result<(), Error> {
    let rules = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let missing = SeccompAction::Errno(libc::ENOSYS.cast_unsigned());
    install(rules, SeccompAction::Allow, missing)
}

fn rule(conditions: &[(u8, Op, u64)]) -> Result<SeccompRule, Error> {
    let conditions = conditions
        .iter()
        .map(|(argument, operator, value)| {
            SeccompCondition::new(*argument, Len::Dword, operator.clone(), *value)
        })
        .collect::<Result<Vec<_>, _>>()
        .map_err(Error::CompileFilter)?;
    SeccompRule::new(conditions).map_err(Error::CompileFilter)
}

fn install(rules: Rules, other: SeccompAction, matching: SeccompAction) -> Result<(), Error> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(Error::CompileFilter)?;
    let program: BpfProgram = SeccompFilter::new(rules, other, matching, arch)
        .and_then(BpfProgram::try_from)
        .map_err(Error::CompileFilter)?;
    seccompiler::apply_filter(&program).map_err(Error::InstallFilter)
}

/// A constant of the C library as a filter compares it: 32 bits, zero extended.
fn number(constant: libc::c_int) -> u64 {
    u64::from(constant.cast_unsigned())
}

fn own_pid() -> u64 {
    u64::from(std::process::id())
}
