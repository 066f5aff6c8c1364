//! From a container's specification to what it asks of its pod.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use hull_sandbox::Limits;
use hull_sandbox::cgroup::HostLimits;
use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType, LinuxResources, Spec};

use super::EngineError;
use super::role::Role;
use crate::pod_request::{HOST_IPC, HOST_NETWORK, HOST_PID, PodRequest};

/// What the container that is the pod, or stands for it, asks for. `namespace` is the engine's.
///
/// # Errors
/// When it asks for what a guest cannot have.
pub fn request(
    id: &str,
    namespace: &str,
    role: &Role,
    spec: &Spec,
) -> Result<PodRequest, EngineError> {
    if *role == Role::Single {
        refuse_joined_namespaces(spec)?;
    }
    refuse_host_namespaces(spec)?;
    Ok(PodRequest {
        id: id.to_owned(),
        namespace: namespace.to_owned(),
        hostname: spec.hostname().clone().unwrap_or_default(),
        limits: match role {
            Role::Sandbox => limits_of_pod(spec),
            Role::Single | Role::Member(_) => limits_of_container(spec),
        },
        network_namespace: network(spec)?,
        cgroup: cgroup(spec),
        host_limits: match role {
            Role::Single => Some(HostLimits::of(resources(spec))),
            // The kubelet limits the group that the sandbox's is in.
            Role::Sandbox | Role::Member(_) => None,
        },
        sysctls: match role {
            Role::Sandbox => sysctls(spec),
            // A container's own are set in its own namespaces.
            Role::Single | Role::Member(_) => BTreeMap::new(),
        },
        placeholder: *role == Role::Sandbox,
    })
}

/// The control group on the host that the engine wants for a container.
#[must_use]
pub fn cgroup(spec: &Spec) -> Option<String> {
    let path = spec.linux().as_ref()?.cgroups_path().as_ref()?;
    Some(path.to_string_lossy().into_owned()).filter(|path| !path.is_empty())
}

fn sysctls(spec: &Spec) -> BTreeMap<String, String> {
    let linux = spec.linux().as_ref();
    let sysctls = linux.and_then(|linux| linux.sysctl().clone());
    sysctls.into_iter().flatten().collect()
}

/// What the containers of a pod may use together, as containerd's annotations say.
fn limits_of_pod(spec: &Spec) -> Limits {
    let number = |name: &str| -> Option<i64> {
        let name = format!("io.kubernetes.cri.sandbox-{name}");
        spec.annotations().as_ref()?.get(&name)?.parse().ok()
    };
    Limits::new(number("memory"), number("cpu-quota"), number("cpu-period"))
}

/// Of a container that is a pod by itself.
fn limits_of_container(spec: &Spec) -> Limits {
    Limits::of(resources(spec))
}

fn resources(spec: &Spec) -> Option<&LinuxResources> {
    spec.linux().as_ref()?.resources().as_ref()
}

fn namespaces(spec: &Spec) -> impl Iterator<Item = &LinuxNamespace> {
    let linux = spec.linux().as_ref();
    linux
        .and_then(|linux| linux.namespaces().as_ref())
        .into_iter()
        .flatten()
}

/// Those that a container of a pod joins are another's in the same guest. Nobody else is in the guest of a
/// container that is a pod by itself.
fn refuse_joined_namespaces(spec: &Spec) -> Result<(), EngineError> {
    let mut others =
        namespaces(spec).filter(|namespace| namespace.typ() != LinuxNamespaceType::Network);
    match others.any(|namespace| namespace.path().is_some()) {
        true => Err(EngineError::Unsupported(
            "to join a namespace of the host other than its network",
        )),
        false => Ok(()),
    }
}

/// A namespace that a specification leaves out is the host's; CRI-O gives it by a path instead.
fn refuse_host_namespaces(spec: &Spec) -> Result<(), EngineError> {
    for (kind, why) in [
        (LinuxNamespaceType::Pid, HOST_PID),
        (LinuxNamespaceType::Ipc, HOST_IPC),
    ] {
        if !namespaces(spec).any(|namespace| namespace.typ() == kind && !is_hosts(namespace)) {
            return Err(EngineError::Unsupported(why));
        }
    }
    Ok(())
}

/// Whether a namespace is the one that this process is in: the engine's, which is the host's.
fn is_hosts(namespace: &LinuxNamespace) -> bool {
    let name = match namespace.typ() {
        LinuxNamespaceType::Network => "net",
        LinuxNamespaceType::Ipc => "ipc",
        LinuxNamespaceType::Pid => "pid",
        _ => return false,
    };
    let identity = |path: &Path| namespace_identity(path).ok();
    let path = namespace.path().as_deref().and_then(identity);
    // One that cannot be looked at cannot be joined either.
    path.is_some() && path == identity(&Path::new("/proc/self/ns").join(name))
}

/// Names a namespace for as long as it exists: device and inode of its file (namespaces(7)).
///
/// # Errors
/// When there is no such file, or it cannot be looked at.
pub fn namespace_identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = std::fs::metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// A container's network namespace; without one it has the host's. The engine has made it if it has a path.
#[must_use]
pub fn network_namespace(spec: &Spec) -> Option<&LinuxNamespace> {
    namespaces(spec).find(|namespace| namespace.typ() == LinuxNamespaceType::Network)
}

/// The network that the engine has made, or none where it wants a new one of its own.
fn network(spec: &Spec) -> Result<Option<PathBuf>, EngineError> {
    match network_namespace(spec) {
        Some(namespace) if !is_hosts(namespace) => Ok(namespace.path().clone()),
        None | Some(_) => Err(EngineError::Unsupported(HOST_NETWORK)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec(linux: serde_json::Value) -> Spec {
        serde_json::from_value(json!({"ociVersion": "1.0.2", "linux": linux})).unwrap()
    }

    #[test]
    fn limits_are_rounded_up() {
        let limits = limits_of_container(&spec(json!({
            "resources": {"memory": {"limit": 1_048_577}, "cpu": {"quota": 150_000, "period": 100_000}},
        })));
        assert_eq!((limits.vcpus(), limits.memory_mib()), (Some(2), Some(2)));
        let none = json!({"resources": {"memory": {"limit": 0}, "cpu": {"quota": -1}}});
        assert_eq!(limits_of_container(&spec(none)), Limits::default());
    }

    #[test]
    fn a_pods_limits_are_in_its_annotations() {
        let spec = json!({
            "ociVersion": "1.0.2",
            "annotations": {
                "io.kubernetes.cri.sandbox-memory": "268435456",
                "io.kubernetes.cri.sandbox-cpu-quota": "50000",
                "io.kubernetes.cri.sandbox-cpu-period": "100000",
            },
            "linux": {"resources": {"memory": {"limit": 1_048_576}}},
        });
        let limits = limits_of_pod(&serde_json::from_value(spec).unwrap());
        assert_eq!((limits.vcpus(), limits.memory_mib()), (Some(1), Some(256)));
    }

    #[test]
    fn the_network_is_the_engines() {
        let path = json!({"namespaces": [{"type": "network", "path": "/run/netns/x"}]});
        assert_eq!(network(&spec(path)).unwrap(), Some("/run/netns/x".into()));
        let new = json!({"namespaces": [{"type": "network"}]});
        assert_eq!(network(&spec(new)).unwrap(), None);
        assert!(matches!(
            network(&spec(json!({"namespaces": [{"type": "pid"}]}))),
            Err(EngineError::Unsupported(_))
        ));
    }
    #[test]
    fn only_the_network_of_the_host_can_be_joined() {
        let joined = |kind: &str| {
            let namespace = json!({"namespaces": [{"type": kind, "path": "/proc/1/ns/x"}]});
            refuse_joined_namespaces(&spec(namespace))
        };
        assert!(joined("network").is_ok());
        for kind in ["pid", "ipc", "uts", "mount", "user"] {
            assert!(matches!(joined(kind), Err(EngineError::Unsupported(_))));
        }
        let own = json!({"namespaces": [{"type": "pid"}]});
        assert!(refuse_joined_namespaces(&spec(own)).is_ok());
    }

    #[test]
    fn the_hosts_processes_and_ipc_are_refused() {
        let left_out = |kept: &str| {
            let namespaces = json!({"namespaces": [{"type": kept}]});
            refuse_host_namespaces(&spec(namespaces))
        };
        for (kept, why) in [("ipc", HOST_PID), ("pid", HOST_IPC)] {
            let refused = left_out(kept);
            assert!(matches!(refused, Err(EngineError::Unsupported(said)) if said == why));
        }
        let own = json!({"namespaces": [{"type": "pid"}, {"type": "ipc"}]});
        assert!(refuse_host_namespaces(&spec(own)).is_ok());
    }

    #[test]
    fn the_hosts_namespaces_are_known_by_any_path() {
        let with = |network: &str, ipc: &str| {
            spec(json!({"namespaces": [
                {"type": "pid"},
                {"type": "network", "path": network},
                {"type": "ipc", "path": ipc},
            ]}))
        };
        let hosts = with("/proc/thread-self/ns/net", "/proc/thread-self/ns/ipc");
        let refused = refuse_host_namespaces(&hosts);
        assert!(matches!(refused, Err(EngineError::Unsupported(why)) if why == HOST_IPC));
        let refused = network(&hosts);
        assert!(matches!(refused, Err(EngineError::Unsupported(why)) if why == HOST_NETWORK));
        // Others: of another kind, and one that is not there.
        let others = with("/proc/self/ns/uts", "/no/such/namespace");
        assert!(refuse_host_namespaces(&others).is_ok());
        assert!(network(&others).is_ok());
    }
}
