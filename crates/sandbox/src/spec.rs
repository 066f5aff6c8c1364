//! From the engine's OCI specification to the guest's.
//!
//! The engine describes a container of the host. The guest has its own kernel, so host namespaces,
//! host CPU numbers and host labels mean nothing there, and host paths become paths below the share.

pub mod capabilities;
mod devices;
mod guest_root;
mod notify;
mod pod_files;
mod shared_memory;

use std::path::{Path, PathBuf};

use hull_agent_api::agent;
use oci_spec::runtime::{LinuxCpu, LinuxNamespace, LinuxNamespaceType, Mount, Spec};

use crate::error::SandboxError;
use crate::hooks::HostHooks;
use crate::json_file;
use crate::limits::Limits;
use crate::mount::{MountSpec, origin};
use crate::share;

pub(crate) use devices::Disk;
pub(crate) use guest_root::{ROOT_DISK, root_image};
pub use notify::NOTIFY_SOCKET;
pub(crate) use notify::NotifySocket;

/// A container's specification in guest terms, and what the host has to mount for it.
#[derive(Debug)]
pub struct GuestSpec {
    /// What the agent gets.
    pub spec: Spec,
    /// Bind mounts that the host makes below the share.
    pub binds: Vec<HostBind>,
    /// Disks of the host, which the guest has by other numbers.
    pub(crate) disks: Vec<Disk>,
    /// File systems that the guest mounts by itself, once for all containers that name them.
    pub storages: Vec<agent::Storage>,
    /// The PID namespace that the container joins, as the engine names it.
    pub joined_pid_namespace: Option<PathBuf>,
    /// The specification's seccomp rules, which it no longer has, compiled.
    pub seccomp: Option<hull_seccomp::Program>,
    /// What runs on the host.
    pub hooks: HostHooks,
    /// Where the container's program says that it is ready.
    pub(crate) notify_socket: Option<NotifySocket>,
}

/// A host file or directory that the container sees.
#[derive(Debug, PartialEq, Eq)]
pub struct HostBind {
    /// How it is mounted on the host.
    pub mount: MountSpec,
    /// Name below the container's directory in the share.
    pub name: String,
}

/// Name of a container's root below its directory in the share.
pub const ROOTFS: &str = "rootfs";

/// Reads `config.json` of a bundle. Capabilities that nobody knows are left out.
///
/// # Errors
/// When it cannot be read or is malformed.
pub fn read_bundle(bundle: &Path) -> Result<Spec, SandboxError> {
    let (spec, unknown) = read_bundle_and_unknown(bundle)?;
    if !unknown.is_empty() {
        tracing::warn!(bundle = %bundle.display(), ?unknown, "capabilities that nobody knows");
    }
    Ok(spec)
}

/// As [`read_bundle`], with the names of those capabilities.
///
/// # Errors
/// As [`read_bundle`].
pub fn read_bundle_and_unknown(bundle: &Path) -> Result<(Spec, Vec<String>), SandboxError> {
    let path = bundle.join("config.json");
    let bytes = json_file::bytes(&path)?;
    capabilities::decode(&bytes, "/process/capabilities")
        .map_err(|source| SandboxError::Malformed { path, source })
}

/// Where a relative root path of a bundle leads.
#[must_use]
pub fn bundle_rootfs(bundle: &Path, spec: &Spec) -> PathBuf {
    let root = spec.root().as_ref().map(|root| root.path().as_path());
    bundle.join(root.unwrap_or_else(|| Path::new(ROOTFS)))
}

impl GuestSpec {
    /// Rewrites `spec` of a `bundle` for the container `id`; `pod_files` and `notify_dir` as in
    /// [`CreateContainer`](crate::CreateContainer).
    ///
    /// # Errors
    /// [`SandboxError::Unsupported`] for what cannot be honoured in a guest, and what is wrong with the
    /// seccomp rules.
    pub fn new(
        mut spec: Spec,
        id: &str,
        bundle: &Path,
        pod_files: Option<&Path>,
        notify_dir: Option<&Path>,
    ) -> Result<Self, SandboxError> {
        let guest_dir = Path::new(share::GUEST_DIR).join(id);
        let mut root = spec.root().clone().unwrap_or_default();
        root.set_path(guest_dir.join(ROOTFS));
        spec.set_root(Some(root));
        let hooks = HostHooks::take(&mut spec);
        let of_guest = devices::settle_bound(&mut spec, bundle)?;
        let disks = devices::take_disks(&mut spec)?;

        if let Some(dir) = pod_files {
            pod_files::add(&mut spec, dir);
        }
        let mut notify_socket = None;
        let notify_path = notify::path(&spec);
        let mut binds = Vec::new();
        let mut storages = Vec::new();
        let mut mounts = spec.mounts().clone().unwrap_or_default();
        for mount in &mut mounts {
            if let Some(memory) = shared_memory::of_pod(mount, pod_files.is_some())? {
                mount.set_source(Some(memory.target.clone().into()));
                if !is_bind(mount) {
                    // What it says of a file system of its own holds for the pod's already.
                    mount.set_typ(Some("bind".to_owned()));
                    mount.set_options(Some(vec!["bind".to_owned()]));
                }
                storages.push(memory);
            } else if of_guest.contains(mount.destination()) {
                // The guest has it by the same name.
            } else if let Some(socket) = notify::take(mount, notify_path.as_deref(), id, bundle) {
                notify_socket = Some(socket);
            } else if let Some(bind) = host_bind(mount, bundle, binds.len()) {
                refuse_propagation_to_host(mount)?;
                leave_submounts_writable(mount, Path::new(&bind.mount.source))?;
                mount.set_source(Some(guest_dir.join(&bind.name)));
                binds.push(bind);
            }
        }
        spec.set_mounts(Some(mounts));
        if let Some(dir) = notify_dir {
            notify_socket = Some(notify::add(&mut spec, dir, id));
        }
        let seccomp = compile_seccomp(&mut spec)?;
        let joined_pid_namespace = localise(&mut spec, id);
        Ok(Self {
            spec,
            binds,
            disks,
            storages,
            joined_pid_namespace,
            seccomp,
            hooks,
            notify_socket,
        })
    }
}

impl GuestSpec {
    /// What the container may use.
    pub(crate) fn limits(&self) -> Limits {
        let linux = self.spec.linux().as_ref();
        Limits::of(linux.and_then(|linux| linux.resources().as_ref()))
    }

    /// The name of the bind mount that the container has at `destination`.
    pub(crate) fn bind_at(&self, destination: &Path) -> Option<String> {
        let mounts = self.spec.mounts().iter().flatten();
        // Of several the last one covers the others.
        let mut mounts = mounts.filter(|mount| mount.destination() == destination);
        let last = mounts.next_back()?;
        let name = last.source().as_ref()?.file_name()?.to_str()?;
        let is_bound = self.binds.iter().any(|bind| bind.name == name);
        (is_bound && is_bind(last)).then(|| name.to_owned())
    }
}

/// Takes the seccomp rules out of `spec` and compiles them, which takes a guest much longer.
fn compile_seccomp(spec: &mut Spec) -> Result<Option<hull_seccomp::Program>, SandboxError> {
    let Some(mut linux) = spec.linux().clone() else {
        return Ok(None);
    };
    let program = linux.seccomp().as_ref().map(hull_seccomp::compile);
    linux.set_seccomp(None);
    spec.set_linux(Some(linux));
    Ok(program.transpose()?)
}

/// `ro` makes one mount read-only, and those below it stay as they are (`rro` would be for them too). On
/// the host that is so. In the guest all of them are one mount, so the host's word has to do.
fn leave_submounts_writable(mount: &mut Mount, source: &Path) -> Result<(), SandboxError> {
    let options = mount.options().clone().unwrap_or_default();
    let one_only = options.iter().any(|option| option == "ro")
        && options.iter().any(|option| option == "rbind")
        && !options.iter().any(|option| option == "rro");
    if one_only && has_submounts(source)? {
        let kept = options.into_iter().filter(|option| option != "ro");
        mount.set_options(Some(kept.collect()));
    }
    Ok(())
}

/// Whether something is mounted below a directory, where the engine's paths are.
fn has_submounts(dir: &Path) -> Result<bool, SandboxError> {
    const MOUNTS: &str = "/proc/thread-self/mountinfo";
    let (dir, mounts) = origin::there(|| {
        // What cannot be found cannot be mounted, which says why.
        let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
        Ok((dir, std::fs::read_to_string(MOUNTS)?))
    })
    .map_err(SandboxError::host(format!("read {MOUNTS}")))?;
    let mut points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    // The kernel writes spaces and the like as octal numbers.
    let escaped = dir
        .to_string_lossy()
        .replace('\\', r"\134")
        .replace(' ', r"\040");
    let below = format!("{}/", escaped.trim_end_matches('/'));
    Ok(points.any(|point| point.starts_with(&below)))
}

/// What is mounted in a guest is its kernel's, and the host's knows nothing of it.
fn refuse_propagation_to_host(mount: &Mount) -> Result<(), SandboxError> {
    let mut options = mount.options().iter().flatten();
    match options.any(|option| option == "shared" || option == "rshared") {
        true => Err(SandboxError::Unsupported(
            "volumes whose mounts propagate to the host (Bidirectional)",
        )),
        false => Ok(()),
    }
}

/// Whether it shows files that are there already, and is no file system of its own.
#[must_use]
pub fn is_bind(mount: &Mount) -> bool {
    let options = mount.options().iter().flatten();
    mount.typ().as_deref() == Some("bind")
        || options
            .into_iter()
            .any(|option| option == "bind" || option == "rbind")
}

/// A relative source is one in the bundle.
fn host_bind(mount: &Mount, bundle: &Path, index: usize) -> Option<HostBind> {
    let options = mount.options().clone().unwrap_or_default();
    let source = mount.source().as_ref().filter(|_| is_bind(mount))?;
    let source = bundle.join(source);
    // Only what restricts the source; everything else happens where the guest mounts it.
    let recursive = options.iter().any(|option| option == "rbind");
    let mut kept = vec![if recursive { "rbind" } else { "bind" }.to_owned()];
    let restricts = |option: &&String| matches!(option.as_str(), "ro" | "rro" | "rrw");
    kept.extend(options.iter().filter(restricts).cloned());
    Some(HostBind {
        mount: MountSpec {
            kind: "bind".to_owned(),
            source: source.to_string_lossy().into_owned(),
            options: kept,
        },
        name: format!("mount-{index}"),
    })
}

/// Takes away what means something on the host only. Says which PID namespace the container joins.
fn localise(spec: &mut Spec, id: &str) -> Option<PathBuf> {
    let mut linux = spec.linux().clone()?;
    linux.set_cgroups_path(Some(PathBuf::from(format!("/hull/{id}"))));
    linux.set_mount_label(None);
    let mut joined_pid_namespace = None;
    let namespaces = linux.namespaces().clone().unwrap_or_default();
    let kept = namespaces.into_iter().filter(|namespace| {
        let joined = namespace.path().is_some();
        match namespace.typ() {
            // The guest has one network; it is the pod's.
            LinuxNamespaceType::Network => false,
            LinuxNamespaceType::Pid => {
                joined_pid_namespace.clone_from(namespace.path());
                !joined
            }
            // Every container's own, see below.
            LinuxNamespaceType::Cgroup => false,
            // A path is a namespace of another container of the pod: in the guest, the guest's own.
            _ => !joined,
        }
    });
    // A host with cgroups of version 1 gives none: there a container's cgroups are mounted one by one. In
    // the guest, whose cgroups are of version 2, it would see those of all.
    let mut cgroup = LinuxNamespace::default();
    cgroup.set_typ(LinuxNamespaceType::Cgroup);
    let kept = kept.chain([cgroup]).collect();
    linux.set_namespaces(Some(kept));
    if let Some(mut resources) = linux.resources().clone() {
        if let Some(cpu) = resources.cpu_mut() {
            without_host_numbers(cpu);
        }
        linux.set_resources(Some(resources));
    }
    spec.set_linux(Some(linux));
    if let Some(mut process) = spec.process().clone() {
        // Profiles of the host's security modules.
        process.set_apparmor_profile(None);
        process.set_selinux_label(None);
        spec.set_process(Some(process));
    }
    joined_pid_namespace
}

/// Numbers of CPUs and memory nodes are the host's.
pub(crate) fn without_host_numbers(cpu: &mut LinuxCpu) {
    cpu.set_cpus(None);
    cpu.set_mems(None);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn guest_spec(spec: &serde_json::Value) -> Result<GuestSpec, SandboxError> {
        GuestSpec::new(
            serde_json::from_value(spec.clone()).unwrap(),
            "c1",
            Path::new("/b"),
            None,
            None,
        )
    }

    #[test]
    fn host_paths_become_paths_below_the_share() {
        let guest = guest_spec(&json!({
            "ociVersion": "1.0.2",
            "root": {"path": "rootfs", "readonly": true},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/data", "type": "bind", "source": "/srv/data", "options": ["rbind", "ro", "rslave"]},
                {"destination": "/etc/hosts", "source": "hosts", "options": ["bind"]},
            ],
        }))
        .unwrap();
        let root = guest.spec.root().as_ref().unwrap();
        assert_eq!(root.path(), Path::new("/run/hull/shared/c1/rootfs"));
        assert_eq!(root.readonly(), Some(true));
        let mounts = guest.spec.mounts().as_ref().unwrap();
        assert_eq!(mounts[0].source().as_deref(), Some(Path::new("proc")));
        assert_eq!(
            mounts[1].source().as_deref(),
            Some(Path::new("/run/hull/shared/c1/mount-0"))
        );
        assert_eq!(guest.binds[0].mount, MountSpec::bind("/srv/data", true));
        assert_eq!(guest.binds[1].mount.source, "/b/hosts");
        let bind_at = |path| guest.bind_at(Path::new(path));
        assert_eq!(bind_at("/etc/hosts").as_deref(), Some("mount-1"));
        assert_eq!(bind_at("/proc"), None);
        assert_eq!(guest.binds[1].mount.options, ["bind"]);
    }

    #[test]
    fn a_volume_that_is_read_only_with_all_below_is_so_on_both_sides() {
        let options = json!(["rbind", "rro", "rnosuid"]);
        let guest = guest_spec(&json!({
            "ociVersion": "1.0.2",
            "mounts": [{"destination": "/v", "type": "bind", "source": "/", "options": options}],
        }))
        .unwrap();
        let mount = &guest.spec.mounts().as_ref().unwrap()[0];
        assert_eq!(json!(mount.options()), options);
        assert_eq!(guest.binds[0].mount.options, ["rbind", "rro"]);
    }

    #[test]
    fn mounts_that_were_to_appear_on_the_host_are_refused() {
        let with = |propagation: &str| {
            guest_spec(&json!({
                "ociVersion": "1.0.2",
                "mounts": [{"destination": "/v", "type": "bind", "source": "/x", "options": ["rbind", propagation]}],
            }))
        };
        for propagation in ["shared", "rshared"] {
            assert!(matches!(
                with(propagation),
                Err(SandboxError::Unsupported(_))
            ));
        }
        with("rslave").unwrap();
    }

    #[test]
    fn what_is_mounted_below_a_read_only_volume_stays_writable() {
        // There is always something below the root, and nothing below /proc/self.
        for (source, kept) in [("/", false), ("/proc/self", true)] {
            let guest = guest_spec(&json!({
                "ociVersion": "1.0.2",
                "mounts": [{"destination": "/v", "type": "bind", "source": source, "options": ["rbind", "ro"]}],
            }))
            .unwrap();
            let mount = &guest.spec.mounts().as_ref().unwrap()[0];
            let options = mount.options().as_ref().unwrap();
            assert_eq!(
                options.iter().any(|option| option == "ro"),
                kept,
                "{source}"
            );
            assert!(
                guest.binds[0]
                    .mount
                    .options
                    .iter()
                    .any(|option| option == "ro")
            );
        }
    }

    #[test]
    fn host_namespaces_cpus_and_labels_are_taken_away() {
        let guest = guest_spec(&json!({
            "ociVersion": "1.0.2",
            "process": {"cwd": "/", "args": ["x"], "user": {"uid": 0, "gid": 0}, "apparmorProfile": "p", "selinuxLabel": "l"},
            "linux": {
                "cgroupsPath": "/k8s.io/abc",
                "namespaces": [
                    {"type": "network", "path": "/run/netns/x"},
                    {"type": "pid", "path": "/proc/1/ns/pid"},
                    {"type": "ipc", "path": "/proc/1/ns/ipc"},
                    {"type": "mount"}, {"type": "cgroup"},
                ],
                "resources": {"cpu": {"cpus": "4-7", "mems": "1", "quota": 50000}},
            },
        }))
        .unwrap();
        assert_eq!(
            guest.joined_pid_namespace.as_deref(),
            Some(Path::new("/proc/1/ns/pid"))
        );
        let linux = guest.spec.linux().as_ref().unwrap();
        let kinds: Vec<_> = linux
            .namespaces()
            .as_ref()
            .unwrap()
            .iter()
            .map(|n| n.typ())
            .collect();
        assert_eq!(
            kinds,
            [LinuxNamespaceType::Mount, LinuxNamespaceType::Cgroup]
        );
        let cpu = linux.resources().as_ref().unwrap().cpu().as_ref().unwrap();
        assert_eq!((cpu.cpus().as_ref(), cpu.quota()), (None, Some(50000)));
        let process = guest.spec.process().as_ref().unwrap();
        assert!(process.apparmor_profile().is_none() && process.selinux_label().is_none());
        assert_eq!(linux.cgroups_path().as_deref(), Some(Path::new("/hull/c1")));
    }

    #[test]
    fn seccomp_rules_become_a_program() {
        let guest = guest_spec(&json!({
            "ociVersion": "1.0.2",
            "linux": {"seccomp": {"defaultAction": "SCMP_ACT_ERRNO"}},
        }))
        .unwrap();
        assert!(guest.seccomp.is_some());
        assert!(guest.spec.linux().as_ref().unwrap().seccomp().is_none());
    }
}
