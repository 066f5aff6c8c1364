//! From a container's specification to its pod's configuration.

use std::collections::BTreeMap;

use hull_config::Config;
use hull_sandbox::{GuestFiles, NetworkConfig, PodConfig, Vmm};
use hull_vm::config::MAX_VCPUS;
use oci_spec::runtime::{LinuxNamespaceType, Spec};

use super::role::Role;
use super::{EngineError, Invocation};

/// What the pod is given: what the operator and the engine say.
///
/// # Errors
/// When there is no guest, or the engine asks for what a guest cannot have.
pub(super) fn config(
    invocation: &Invocation,
    settings: &Config,
    role: &Role,
    spec: &Spec,
) -> Result<PodConfig, EngineError> {
    let limits = match role {
        Role::Sandbox => Limits::of_pod(spec),
        Role::Single | Role::Member(_) => Limits::of_container(spec),
    };
    let vm = &settings.vm;
    let guest = &settings.guest;
    Ok(PodConfig {
        id: invocation.id.clone(),
        namespace: invocation.namespace.clone(),
        hostname: spec.hostname().clone().unwrap_or_default(),
        vmm: match vm.vmm {
            hull_config::Vmm::Qemu => Vmm::Qemu,
        },
        acceleration: vm.acceleration,
        // More than a guest can have is no limit to it.
        vcpus: limits.vcpus.unwrap_or(vm.vcpus).min(MAX_VCPUS),
        memory_mib: limits.memory_mib.map_or(vm.memory.mib(), |limit| {
            limit.saturating_add(vm.memory_overhead.mib())
        }),
        guest: GuestFiles::choose(guest.kernel.as_deref(), guest.initramfs.as_deref())?,
        network: network(spec)?,
        cgroup: cgroup(spec),
        sysctls: match role {
            Role::Sandbox => sysctls(spec),
            // A container's own are set in its own namespaces.
            Role::Single | Role::Member(_) => BTreeMap::new(),
        },
        placeholder: (*role == Role::Sandbox).then(|| invocation.id.clone()),
        single: None,
    })
}

fn cgroup(spec: &Spec) -> Option<String> {
    let path = spec.linux().as_ref()?.cgroups_path().as_ref()?;
    Some(path.to_string_lossy().into_owned()).filter(|path| !path.is_empty())
}

fn sysctls(spec: &Spec) -> BTreeMap<String, String> {
    let linux = spec.linux().as_ref();
    let sysctls = linux.and_then(|linux| linux.sysctl().clone());
    sysctls.into_iter().flatten().collect()
}

/// What limits a whole pod.
#[derive(Debug, Default, PartialEq, Eq)]
struct Limits {
    vcpus: Option<u32>,
    memory_mib: Option<u32>,
}

impl Limits {
    /// Of a pod: what its containers may use together, as containerd's annotations say.
    fn of_pod(spec: &Spec) -> Self {
        let number = |name: &str| -> Option<i64> {
            let name = format!("io.kubernetes.cri.sandbox-{name}");
            spec.annotations().as_ref()?.get(&name)?.parse().ok()
        };
        Self::new(number("memory"), number("cpu-quota"), number("cpu-period"))
    }

    /// Of a container that is a pod by itself.
    fn of_container(spec: &Spec) -> Self {
        let linux = spec.linux().as_ref();
        let Some(resources) = linux.and_then(|linux| linux.resources().as_ref()) else {
            return Self::default();
        };
        let cpu = resources.cpu().as_ref();
        Self::new(
            resources
                .memory()
                .as_ref()
                .and_then(|memory| memory.limit()),
            cpu.and_then(|cpu| cpu.quota()),
            cpu.and_then(|cpu| i64::try_from(cpu.period()?).ok()),
        )
    }

    /// A memory limit in bytes, a CPU quota in microseconds of each period. Zero and less are no limit.
    fn new(memory: Option<i64>, quota: Option<i64>, period: Option<i64>) -> Self {
        const PERIOD: i64 = 100_000;
        let limit = |value: Option<i64>| value.filter(|value| *value > 0);
        let rounded_up = |value: i64, unit: i64| {
            u32::try_from(value.saturating_add(unit - 1) / unit).unwrap_or(u32::MAX)
        };
        let period = limit(period).unwrap_or(PERIOD);
        Self {
            vcpus: limit(quota).map(|quota| rounded_up(quota, period)),
            memory_mib: limit(memory).map(|bytes| rounded_up(bytes, 1 << 20)),
        }
    }
}

/// The network that the engine has made, or none where it wants a new one of its own.
fn network(spec: &Spec) -> Result<NetworkConfig, EngineError> {
    let namespaces = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.namespaces().as_ref());
    let namespace = namespaces
        .into_iter()
        .flatten()
        .find(|namespace| namespace.typ() == LinuxNamespaceType::Network);
    match namespace {
        None => Err(EngineError::Unsupported(
            "the host's network: a virtual machine has a kernel and a network of its own",
        )),
        Some(namespace) => Ok(match namespace.path() {
            None => NetworkConfig::None,
            Some(path) => NetworkConfig::Namespace { path: path.clone() },
        }),
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
        let limits = Limits::of_container(&spec(json!({
            "resources": {"memory": {"limit": 1_048_577}, "cpu": {"quota": 150_000, "period": 100_000}},
        })));
        assert_eq!((limits.vcpus, limits.memory_mib), (Some(2), Some(2)));
        let none = json!({"resources": {"memory": {"limit": 0}, "cpu": {"quota": -1}}});
        assert_eq!(Limits::of_container(&spec(none)), Limits::default());
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
        let limits = Limits::of_pod(&serde_json::from_value(spec).unwrap());
        assert_eq!((limits.vcpus, limits.memory_mib), (Some(1), Some(256)));
    }

    #[test]
    fn the_network_is_the_engines() {
        let path = json!({"namespaces": [{"type": "network", "path": "/run/netns/x"}]});
        assert_eq!(
            network(&spec(path)).unwrap(),
            NetworkConfig::Namespace {
                path: "/run/netns/x".into()
            }
        );
        let new = json!({"namespaces": [{"type": "network"}]});
        assert_eq!(network(&spec(new)).unwrap(), NetworkConfig::None);
        assert!(matches!(
            network(&spec(json!({"namespaces": [{"type": "pid"}]}))),
            Err(EngineError::Unsupported(_))
        ));
    }
}
