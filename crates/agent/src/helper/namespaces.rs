//! Namespaces: which are made, which are joined, and their id mappings.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::unistd::Pid;

use super::Made;
use super::error::{Context, SetupError};
use crate::spec::{IdMapping, Linux, NamespaceKind};
use crate::sys::clone::{Cloned, clone_sibling, exit_now};

const CLONE_NEWTIME: CloneFlags = CloneFlags::from_bits_retain(libc::CLONE_NEWTIME);

fn flag(kind: NamespaceKind) -> CloneFlags {
    match kind {
        NamespaceKind::Mount => CloneFlags::CLONE_NEWNS,
        NamespaceKind::Pid => CloneFlags::CLONE_NEWPID,
        NamespaceKind::Network => CloneFlags::CLONE_NEWNET,
        NamespaceKind::Ipc => CloneFlags::CLONE_NEWIPC,
        NamespaceKind::Uts => CloneFlags::CLONE_NEWUTS,
        NamespaceKind::User => CloneFlags::CLONE_NEWUSER,
        NamespaceKind::Cgroup => CloneFlags::CLONE_NEWCGROUP,
        NamespaceKind::Time => CLONE_NEWTIME,
    }
}

/// The namespaces that init is cloned into. The cgroup namespace is not among them: its root is the
/// cgroup that a process is in when it makes it, so init makes it once it is in its own. Nor is the
/// time namespace, which is for the maker's children.
pub(super) fn to_clone(linux: &Linux, joins_pid_namespace: bool) -> CloneFlags {
    linux
        .namespaces
        .iter()
        .filter(|ns| ns.path.is_none())
        .map(|ns| ns.kind)
        .filter(|kind| !matches!(kind, NamespaceKind::Cgroup | NamespaceKind::Time))
        .filter(|kind| !(joins_pid_namespace && *kind == NamespaceKind::Pid))
        .map(flag)
        // Mounts are changed in any case, and never the guest's own.
        .fold(CloneFlags::CLONE_NEWNS, CloneFlags::union)
}

/// Joins the namespaces that the specification names by path, for this process or its children.
pub(super) fn join(linux: &Linux) -> Result<(), SetupError> {
    // The user namespace first: it gives the rights for those that it owns.
    let mut named: Vec<_> = linux
        .namespaces
        .iter()
        .filter_map(|ns| ns.path.as_deref().map(|path| (ns.kind, path)))
        .collect();
    named.sort_by_key(|(kind, _)| *kind != NamespaceKind::User);
    let opened = named
        .into_iter()
        .map(|(kind, path)| Ok((kind, path, File::open(path).at("open the namespace", path)?)))
        .collect::<Result<Vec<_>, SetupError>>()?;
    for (kind, path, file) in opened {
        if kind == NamespaceKind::Mount {
            return Err(SetupError::Unsupported(
                "a mount namespace by path".to_owned(),
            ));
        }
        setns(&file, flag(kind)).at("join the namespace", path)?;
    }
    Ok(())
}

/// Joins the PID namespace of a process, for this process's children.
pub(super) fn join_pid_namespace(pid: i32) -> Result<(), SetupError> {
    let path = format!("/proc/{pid}/ns/pid");
    let path = Path::new(&path);
    let file = File::open(path).at("open the namespace", path)?;
    setns(&file, CloneFlags::CLONE_NEWPID).at("join the namespace", path)
}

/// Makes the time namespace that this process's children will be in.
pub(super) fn make_time_namespace(linux: &Linux) -> Result<(), SetupError> {
    if !linux.creates(NamespaceKind::Time) {
        return Ok(());
    }
    unshare(CLONE_NEWTIME).when("make a time namespace")?;
    let path = Path::new("/proc/self/timens_offsets");
    let mut text = String::new();
    for (clock, offset) in &linux.time_offsets {
        if !matches!(clock.as_str(), "monotonic" | "boottime") {
            return Err(SetupError::Invalid {
                field: "linux.timeOffsets",
                value: clock.clone(),
            });
        }
        text.push_str(&format!("{clock} {} {}\n", offset.secs, offset.nanosecs));
    }
    if text.is_empty() {
        return Ok(());
    }
    // One write: the kernel takes all offsets at once.
    fs::write(path, text).at("write", path)
}

/// Maps ids of the user namespace that `pid` made.
pub(super) fn write_id_mappings(
    pid: Pid,
    uids: &[IdMapping],
    gids: &[IdMapping],
) -> Result<(), SetupError> {
    for (file, mappings) in [("uid_map", uids), ("gid_map", gids)] {
        let path = format!("/proc/{pid}/{file}");
        let path = Path::new(&path);
        let mut out = File::options().write(true).open(path).at("open", path)?;
        out.write_all(mapping_text(mappings).as_bytes())
            .at("write", path)?;
    }
    Ok(())
}

fn mapping_text(mappings: &[IdMapping]) -> String {
    mappings
        .iter()
        .map(|m| format!("{} {} {}\n", m.container_id, m.host_id, m.size))
        .collect()
}

/// A user namespace that exists only to say how the ids of a mount are mapped.
pub(super) fn id_mapping_namespace(
    uids: &[IdMapping],
    gids: &[IdMapping],
) -> Result<OwnedFd, SetupError> {
    // SAFETY: helpers are single-threaded.
    let cloned = unsafe { clone_sibling(CloneFlags::CLONE_NEWUSER, None) };
    match cloned.when("make a user namespace")? {
        Cloned::Child => loop {
            nix::unistd::pause();
        },
        Cloned::Parent(pid) => {
            let opened = write_id_mappings(pid, uids, gids).and_then(|()| {
                let path = format!("/proc/{pid}/ns/user");
                let path = Path::new(&path);
                File::open(path).at("open the namespace", path)
            });
            nix::sys::signal::kill(pid, Signal::SIGKILL).when("end the namespace's holder")?;
            Ok(opened?.into())
        }
    }
}

/// Makes a process that is the first of a PID namespace, reaps what is orphaned in it, and lasts
/// until it is killed.
pub(super) fn hold_pid_namespace() -> Result<Made, SetupError> {
    // SAFETY: helpers are single-threaded.
    let cloned = unsafe { clone_sibling(CloneFlags::CLONE_NEWPID, None) };
    match cloned.when("make a PID namespace")? {
        Cloned::Child => {
            // SAFETY: ignoring a signal installs no handler. With SIGCHLD ignored the kernel
            // reaps for us.
            if unsafe { signal(Signal::SIGCHLD, SigHandler::SigIgn) }.is_err() {
                exit_now(1);
            }
            // The sockets to the agent would otherwise stay open.
            // SAFETY: no descriptor is used in this process from here on.
            unsafe { libc::close_range(0, u32::MAX, 0) };
            loop {
                nix::unistd::pause();
            }
        }
        Cloned::Parent(pid) => Ok(Made::process(pid)),
    }
}

/// The namespaces that a further process joins before it is cloned.
const BEFORE_CLONE: CloneFlags = CloneFlags::CLONE_NEWNS
    .union(CloneFlags::CLONE_NEWPID)
    .union(CloneFlags::CLONE_NEWNET)
    .union(CloneFlags::CLONE_NEWIPC)
    .union(CloneFlags::CLONE_NEWUTS)
    .union(CLONE_NEWTIME);

/// A container's init, as the owner of its namespaces.
#[derive(Debug)]
pub(super) struct Owner(OwnedFd);

impl Owner {
    pub(super) fn new(pidfd: OwnedFd) -> Self {
        Self(pidfd)
    }

    /// Joins the namespaces but that of cgroups; the PID namespace is for this process's children.
    pub(super) fn join(&self, user_namespace: bool) -> Result<(), SetupError> {
        let flags = if user_namespace {
            BEFORE_CLONE | CloneFlags::CLONE_NEWUSER
        } else {
            BEFORE_CLONE
        };
        setns(&self.0, flags).when("join the container's namespaces")
    }

    /// Joins the cgroup namespace. From inside it no process can be moved in from outside, so this
    /// comes after the clone into the container's cgroup.
    pub(super) fn join_cgroup_namespace(&self) -> Result<(), SetupError> {
        setns(&self.0, CloneFlags::CLONE_NEWCGROUP).when("join the container's cgroup namespace")
    }
}

/// The id outside a user namespace; without mappings there is none.
pub(super) fn outside(id: u32, mappings: &[IdMapping]) -> Option<u32> {
    if mappings.is_empty() {
        return Some(id);
    }
    mappings.iter().find_map(|mapping| {
        let offset = id.checked_sub(mapping.container_id)?;
        (offset < mapping.size).then(|| mapping.host_id.checked_add(offset))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Namespace;

    fn linux(kinds: &[NamespaceKind]) -> Linux {
        Linux {
            namespaces: kinds
                .iter()
                .map(|&kind| Namespace { kind, path: None })
                .collect(),
            ..Linux::default()
        }
    }

    #[test]
    fn a_mount_namespace_is_always_made() {
        assert_eq!(to_clone(&linux(&[]), false), CloneFlags::CLONE_NEWNS);
    }

    #[test]
    fn a_shared_pid_namespace_replaces_a_new_one() {
        let linux = linux(&[NamespaceKind::Pid, NamespaceKind::Uts]);
        assert!(to_clone(&linux, false).contains(CloneFlags::CLONE_NEWPID));
        assert!(!to_clone(&linux, true).contains(CloneFlags::CLONE_NEWPID));
    }

    #[test]
    fn cgroup_and_time_namespaces_are_made_elsewhere() {
        let linux = linux(&[NamespaceKind::Cgroup, NamespaceKind::Time]);
        assert_eq!(to_clone(&linux, false), CloneFlags::CLONE_NEWNS);
    }

    #[test]
    fn mappings_are_written_one_a_line() {
        let mapping = IdMapping {
            container_id: 0,
            host_id: 1000,
            size: 10,
        };
        assert_eq!(mapping_text(&[mapping, mapping]), "0 1000 10\n0 1000 10\n");
    }

    #[test]
    fn ids_are_mapped_to_those_outside() {
        let mapping = |container_id, host_id| IdMapping {
            container_id,
            host_id,
            size: 10,
        };
        let mappings = [mapping(0, 1000), mapping(100, 5000)];
        assert_eq!(outside(3, &mappings), Some(1003));
        assert_eq!(outside(109, &mappings), Some(5009));
        assert_eq!(outside(10, &mappings), None);
        assert_eq!(outside(42, &[]), Some(42));
    }
}
