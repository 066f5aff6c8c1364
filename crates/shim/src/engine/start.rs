//! `start`: a pod process for a new pod, or the address of the one that a container joins.

use std::collections::BTreeMap;
use std::fs::DirBuilder;
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use hull_config::{Config, LogLevel};
use hull_sandbox::{GuestFiles, NetworkConfig, PodConfig, Vmm, bundle_spec, destroy, live_vmm};
use oci_spec::runtime::{LinuxNamespaceType, Spec};

use super::role::Role;
use super::{EngineError, Invocation, host, options};
use crate::client::{self, Engine, PodProcess, Start};

/// Starts the pod process for the container in the working directory, unless its pod has one, and
/// says on the standard output where it listens.
///
/// # Errors
/// When the specification cannot be honoured, or the process not be started.
pub async fn start(invocation: &Invocation) -> Result<(), EngineError> {
    let bundle = std::env::current_dir().map_err(host("find the working directory"))?;
    let spec = bundle_spec(&bundle)?;
    let state_dir = match Role::of(&spec) {
        Role::Member(pod) => {
            let state_dir = invocation.state_dir(&pod);
            if PodProcess::dial(&state_dir).await.is_err() {
                let id = invocation.id.clone();
                return Err(EngineError::NoPod { id, pod });
            }
            state_dir
        }
        role => {
            let state_dir = invocation.state_dir(&invocation.id);
            let settings = settings(&spec)?;
            let config = pod_config(invocation, &settings, &role, &spec)?;
            create_state_dir(&state_dir, &invocation.id).await?;
            config.write(&state_dir)?;
            let engine = Engine {
                namespace: invocation.namespace.clone(),
                events: std::env::var_os("TTRPC_ADDRESS").map(Into::into),
                log: bundle.join("log"),
                log_level: match invocation.debug {
                    true => LogLevel::Debug,
                    false => settings.log.level,
                },
            };
            let start = Start {
                engine: Some(engine),
                ..Start::default()
            };
            if let Err(error) = PodProcess::start(&state_dir, start).await {
                destroy(&state_dir).await?;
                return Err(error.into());
            }
            state_dir
        }
    };
    let address = format!("unix://{}", client::socket(&state_dir).display());
    std::fs::write(bundle.join("address"), &address).map_err(host("write the file `address`"))?;
    tell(&address).map_err(host("answer containerd"))
}

/// From containerd 1.7 on, the answer may say more than the address; earlier ones take nothing else,
/// and know version 2 of the Task API only.
fn tell(address: &str) -> io::Result<()> {
    let answer = match std::env::var_os("MAX_SHIM_VERSION") {
        None => address.to_owned(),
        Some(highest) => {
            let highest = highest.to_str().and_then(|text| text.parse().ok());
            // What containerd 2 calls its highest is the protocol of this call, not of the Task API.
            let version = highest.map_or(2, |highest: u32| highest.clamp(2, 3));
            serde_json::json!({"version": version, "address": address, "protocol": "ttrpc"})
                .to_string()
        }
    };
    let mut stdout = io::stdout();
    stdout.write_all(answer.as_bytes())?;
    stdout.flush()
}

/// What counts for the pod: the operator's files and the pod's annotations.
fn settings(spec: &Spec) -> Result<Config, EngineError> {
    let file = options::config_path(io::stdin().lock()).map_err(host("read the options"))?;
    let annotations = spec.annotations().iter().flatten();
    let (config, ignored) = Config::load(file.as_deref())?.with_annotations(annotations)?;
    for name in ignored {
        tracing::warn!("the annotation {name} is ignored");
    }
    Ok(config)
}

/// Makes the state directory. One that a pod left which is gone is removed.
async fn create_state_dir(state_dir: &Path, id: &str) -> Result<(), EngineError> {
    if state_dir.exists() {
        let alive = live_vmm(state_dir).is_some() || PodProcess::dial(state_dir).await.is_ok();
        if alive {
            return Err(EngineError::Runs(id.to_owned()));
        }
        destroy(state_dir).await?;
    }
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(state_dir)
        .map_err(host(format!("create {}", state_dir.display())))
}

fn pod_config(
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
        vcpus: limits.vcpus.unwrap_or(vm.vcpus),
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
