//! From what a person asks for to an OCI runtime specification, with Docker's defaults.

mod capabilities;
mod mounts;
mod process;
mod resources;
mod seccomp;
mod user;

use std::path::PathBuf;

use oci_spec::runtime::{
    Linux, LinuxNamespace, LinuxNamespaceType, LinuxSeccomp, Mount, PosixRlimit, Root, Spec,
};

pub(crate) use capabilities::{CapabilityChoice, CapabilitySet, parse as parse_capability};
pub(crate) use process::{CommandError, command, environment, rlimit, user};
pub(crate) use user::{Accounts, Identity, UserError};

use crate::values::cpus::Cpus;
use crate::values::security::SeccompChoice;

/// Everything that a specification is made of.
#[derive(Debug)]
pub(crate) struct Request {
    /// Program and arguments.
    pub(crate) args: Vec<String>,
    /// `NAME=VALUE` each.
    pub(crate) env: Vec<String>,
    /// Working directory.
    pub(crate) cwd: PathBuf,
    /// User and groups.
    pub(crate) identity: Identity,
    /// The process gets a terminal.
    pub(crate) terminal: bool,
    /// All capabilities, no system call filter, everything visible and writable: the boundary is the
    /// virtual machine.
    pub(crate) privileged: bool,
    /// Capabilities of the process.
    pub(crate) capabilities: CapabilitySet,
    /// System call filter.
    pub(crate) seccomp: SeccompChoice,
    /// Programs gain nothing from setuid bits.
    pub(crate) no_new_privileges: bool,
    /// Resource limits of the process.
    pub(crate) rlimits: Vec<PosixRlimit>,
    /// Host name of the container.
    pub(crate) hostname: String,
    /// The root cannot be written to.
    pub(crate) read_only: bool,
    /// Memory limit in bytes.
    pub(crate) memory_bytes: Option<u64>,
    /// CPU time limit.
    pub(crate) cpus: Option<Cpus>,
    /// Largest number of processes and threads.
    pub(crate) pids_limit: Option<i64>,
    /// Size of `/dev/shm` in bytes.
    pub(crate) shm_bytes: u64,
    /// Kernel settings of the container's namespaces.
    pub(crate) sysctls: Vec<(String, String)>,
    /// Mounts over and besides the default ones.
    pub(crate) mounts: Vec<Mount>,
}

/// Why a specification cannot be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpecError {
    /// A seccomp profile cannot be read.
    #[error("cannot read the seccomp profile {0}")]
    ReadProfile(PathBuf, #[source] std::io::Error),
    /// A seccomp profile is malformed.
    #[error("{0} is not a seccomp profile in the OCI runtime specification's format")]
    MalformedProfile(PathBuf, #[source] serde_json::Error),
}

/// Version of the OCI runtime specification that is written.
const OCI_VERSION: &str = "1.2.0";

/// Hidden from unprivileged containers: they tell about the machine or let it be driven.
const MASKED_PATHS: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];
/// Read-only to unprivileged containers.
const READ_ONLY_PATHS: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// Makes the specification.
pub(crate) fn build(request: Request) -> Result<Spec, SpecError> {
    let seccomp = seccomp_profile(&request)?;
    let mut linux = Linux::default();
    // The guest's network is the pod's and belongs to the container: no namespace of its own.
    let namespaces = [
        LinuxNamespaceType::Pid,
        LinuxNamespaceType::Ipc,
        LinuxNamespaceType::Uts,
        LinuxNamespaceType::Mount,
        LinuxNamespaceType::Cgroup,
    ];
    let namespaces = namespaces.map(|typ| {
        let mut namespace = LinuxNamespace::default();
        namespace.set_typ(typ);
        namespace
    });
    linux.set_namespaces(Some(namespaces.into()));
    linux.set_resources(Some(resources::resources(&request)));
    linux.set_seccomp(seccomp);
    linux.set_devices(None);
    let paths = |paths: &[&str]| {
        (!request.privileged).then(|| paths.iter().map(|path| (*path).to_owned()).collect())
    };
    linux.set_masked_paths(paths(&MASKED_PATHS));
    linux.set_readonly_paths(paths(&READ_ONLY_PATHS));
    linux.set_rootfs_propagation(Some("private".to_owned()));
    if !request.sysctls.is_empty() {
        linux.set_sysctl(Some(request.sysctls.iter().cloned().collect()));
    }

    let mut root = Root::default();
    root.set_path(PathBuf::from("rootfs"));
    root.set_readonly(Some(request.read_only));
    let mut spec = Spec::default();
    spec.set_version(OCI_VERSION.to_owned());
    spec.set_root(Some(root));
    spec.set_hostname(Some(request.hostname.clone()));
    spec.set_mounts(Some(mounts::all(&request)));
    spec.set_process(Some(process::process(&request)));
    spec.set_linux(Some(linux));
    Ok(spec)
}

fn seccomp_profile(request: &Request) -> Result<Option<LinuxSeccomp>, SpecError> {
    match &request.seccomp {
        SeccompChoice::Unconfined => Ok(None),
        SeccompChoice::Builtin if request.privileged => Ok(None),
        SeccompChoice::Builtin => Ok(Some(seccomp::default_profile(&request.capabilities))),
        SeccompChoice::File(path) => {
            let text = std::fs::read(path)
                .map_err(|source| SpecError::ReadProfile(path.clone(), source))?;
            serde_json::from_slice(&text)
                .map(Some)
                .map_err(|source| SpecError::MalformedProfile(path.clone(), source))
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn request() -> Request {
        Request {
            args: vec!["true".to_owned()],
            env: vec![],
            cwd: "/".into(),
            identity: Accounts::default().resolve("", &[]).unwrap(),
            terminal: false,
            privileged: false,
            capabilities: CapabilitySet::default(),
            seccomp: SeccompChoice::Builtin,
            no_new_privileges: false,
            rlimits: vec![],
            hostname: "box".to_owned(),
            read_only: false,
            memory_bytes: None,
            cpus: None,
            pids_limit: None,
            shm_bytes: 64 << 20,
            sysctls: vec![],
            mounts: vec![],
        }
    }

    #[test]
    fn a_specification_survives_json() {
        let spec = build(request()).unwrap();
        let json = serde_json::to_string(&spec).unwrap();
        assert_eq!(serde_json::from_str::<Spec>(&json).unwrap(), spec);
    }

    #[test]
    fn a_privileged_container_sees_everything() {
        let spec = build(Request {
            privileged: true,
            capabilities: CapabilitySet::all(),
            ..request()
        })
        .unwrap();
        let linux = spec.linux().as_ref().unwrap();
        assert!(linux.seccomp().is_none());
        assert!(linux.masked_paths().is_none() && linux.readonly_paths().is_none());
        let mounts = spec.mounts().as_ref().unwrap();
        assert!(mounts.iter().all(|mount| {
            !mount
                .options()
                .as_ref()
                .is_some_and(|options| options.contains(&"ro".to_owned()))
        }));
    }

    #[test]
    fn the_network_is_the_guests() {
        let spec = build(request()).unwrap();
        let namespaces = spec.linux().as_ref().unwrap().namespaces().clone().unwrap();
        assert!(
            namespaces
                .iter()
                .all(|n| n.typ() != LinuxNamespaceType::Network)
        );
        assert_eq!(namespaces.len(), 5);
    }

    #[test]
    fn a_profile_that_is_none_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("profile.json");
        let with = || Request {
            seccomp: SeccompChoice::File(path.clone()),
            ..request()
        };
        assert!(matches!(build(with()), Err(SpecError::ReadProfile(..))));
        std::fs::write(&path, "{}").unwrap();
        assert!(matches!(
            build(with()),
            Err(SpecError::MalformedProfile(..))
        ));
    }
}
