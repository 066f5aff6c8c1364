//! Making a container: what is done outside it, with the agent's rights.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::unistd::Pid;

use super::error::{Context, SetupError};
use super::hooks::HookState;
use super::init::{self, Init};
use super::protocol::{FromInit, Proceed};
use super::{CreateRequest, Made, hooks, mounts, namespaces, process, rootfs, tuning};
use crate::spec::{NamespaceKind, Spec};
use crate::sys::clone::{Cloned, clone_sibling};
use crate::sys::socket;

/// Makes the container; its init waits on the start socket, which comes first among the fds.
pub(super) fn run(
    request: CreateRequest,
    mut fds: Vec<OwnedFd>,
    agent: &UnixStream,
) -> Result<Made, SetupError> {
    let CreateRequest {
        id,
        mut spec,
        cgroup,
        pid_namespace_of,
        filter,
        terminal,
    } = request;
    refuse_unsupported(&spec)?;
    let streams = fds.split_off(1.min(fds.len()));
    let start = fds
        .pop()
        .map(UnixStream::from)
        .ok_or_else(|| SetupError::Invalid {
            field: "descriptors",
            value: "none".to_owned(),
        })?;
    if let Some(score) = spec.process.oom_score_adj {
        set_oom_score(score)?;
    }
    // Nobody in the container may look into the processes that set it up.
    nix::sys::prctl::set_dumpable(false).when("hide this process's memory")?;
    let root = rootfs::open(&spec.root.path)?;
    let prepared = mounts::prepare(spec.mounts.clone(), &spec.linux)?;
    mounts::make_room(root.as_fd(), &prepared, &spec.linux)?;
    process::give_streams(&streams, spec.process.user.uid, &spec.linux.uid_mappings)?;
    let cgroup_fd = File::open(&cgroup).at("open the cgroup", &cgroup)?;
    let hook_state = HookState {
        oci_version: spec.oci_version.clone(),
        id,
        status: "creating".to_owned(),
        pid: 0,
        bundle: bundle(&spec),
        annotations: spec.annotations.clone(),
    };
    namespaces::join(&spec.linux)?;
    if let Some(pid) = pid_namespace_of {
        namespaces::join_pid_namespace(pid)?;
    }
    namespaces::make_time_namespace(&spec.linux)?;
    set_shared_network(&mut spec)?;
    let flags = namespaces::to_clone(&spec.linux, pid_namespace_of.is_some());
    let (helper, to_init) = UnixStream::pair().when("make a socket to init")?;
    // SAFETY: helpers are single-threaded.
    let cloned = unsafe { clone_sibling(flags, Some(cgroup_fd.as_fd())) };
    match cloned.when("make the container's first process")? {
        Cloned::Child => {
            drop(to_init);
            close_in_child(agent);
            let init = Init {
                new_user_namespace: spec.linux.creates(NamespaceKind::User),
                new_network_namespace: spec.linux.creates(NamespaceKind::Network),
                spec,
                root,
                mounts: prepared,
                filter,
                cgroup,
                terminal,
                hook_state,
                helper,
                start,
                streams,
            };
            init.run()
        }
        Cloned::Parent(pid) => {
            drop(helper);
            drop((root, prepared, streams, start));
            let terminal = guide(pid, &spec, hook_state, &to_init)?;
            Ok(Made { pid, terminal })
        }
    }
}

/// The network that a container with users of its own shares is not theirs, so its parameters are set here and taken
/// out of `spec`.
fn set_shared_network(spec: &mut Spec) -> Result<(), SetupError> {
    let linux = &mut spec.linux;
    if !linux.creates(NamespaceKind::User) || linux.creates(NamespaceKind::Network) {
        return Ok(());
    }
    let all = std::mem::take(&mut linux.sysctl);
    let is_network = |name: &str| name.starts_with("net.") || name.starts_with("net/");
    let (network, own): (BTreeMap<_, _>, _) =
        all.into_iter().partition(|(name, _)| is_network(name));
    linux.sysctl = own;
    init::set_sysctls(init::open_sysctls(&network)?)
}

/// The agent must see the socket close when the helper ends, not when the container does.
fn close_in_child(socket: &UnixStream) {
    use std::os::fd::AsRawFd;
    // SAFETY: the child never uses the helper's socket to the agent again, nor drops it: it ends in
    // execve or _exit.
    unsafe { libc::close(socket.as_raw_fd()) };
}

/// Answers init until it is ready; returns its terminal.
fn guide(
    pid: Pid,
    spec: &Spec,
    mut state: HookState,
    init: &UnixStream,
) -> Result<Option<OwnedFd>, SetupError> {
    let result = guide_until_ready(pid, spec, &mut state, init);
    if result.is_err() {
        // It may have ended by itself, which is all that is wanted.
        let _gone = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
    }
    result
}

fn guide_until_ready(
    pid: Pid,
    spec: &Spec,
    state: &mut HookState,
    init: &UnixStream,
) -> Result<Option<OwnedFd>, SetupError> {
    if spec.linux.creates(NamespaceKind::User) {
        let linux = &spec.linux;
        namespaces::write_id_mappings(pid, &linux.uid_mappings, &linux.gid_mappings)?;
    }
    state.pid = pid.as_raw();
    let proceed = Proceed { pid: pid.as_raw() };
    loop {
        socket::send(init, &proceed, &[]).or_else(|_| broken(init))?;
        let message = socket::receive::<FromInit>(init).when("hear from init")?;
        match message {
            None => return Err(SetupError::InitEnded),
            Some((FromInit::Failed(failure), _)) => return Err(SetupError::Relayed(failure)),
            Some((FromInit::RootMounted, _)) => {
                hooks::run("prestart", &spec.hooks.prestart, state, &[])?;
                hooks::run("createRuntime", &spec.hooks.create_runtime, state, &[])?;
            }
            Some((FromInit::Ready, fds)) => {
                // From outside, where the rights to raise limits are.
                tuning::set_rlimits(pid, &spec.process.rlimits)?;
                return Ok(fds.into_iter().next());
            }
        }
    }
}

/// Init closed its socket: what it said before says why.
fn broken(init: &UnixStream) -> Result<(), SetupError> {
    match socket::receive::<FromInit>(init).when("hear from init")? {
        Some((FromInit::Failed(failure), _)) => Err(SetupError::Relayed(failure)),
        _ => Err(SetupError::InitEnded),
    }
}

fn refuse_unsupported(spec: &Spec) -> Result<(), SetupError> {
    let linux = &spec.linux;
    let unsupported = [
        // Its rules come compiled. Were they left out, the container would run without them.
        ("linux.seccomp", linux.seccomp.is_some()),
        ("linux.intelRdt", linux.intel_rdt.is_some()),
        (
            "linux.netDevices",
            linux.net_devices.as_ref().is_some_and(|d| !d.is_empty()),
        ),
        ("linux.memoryPolicy", linux.memory_policy.is_some()),
    ];
    match unsupported.iter().find(|(_, used)| *used) {
        Some((name, _)) => Err(SetupError::Unsupported((*name).to_owned())),
        None => Ok(()),
    }
}

/// Inherited by everything in the container. Lowering it takes rights that a container lacks.
pub(super) fn set_oom_score(score: i32) -> Result<(), SetupError> {
    let path = Path::new("/proc/self/oom_score_adj");
    std::fs::write(path, score.to_string()).at("write", path)
}

/// The directory that holds the root, which is what a bundle is.
fn bundle(spec: &Spec) -> String {
    let path = spec.root.path.parent().unwrap_or(Path::new("/"));
    path.display().to_string()
}
