//! What an engine asks of a pod as a whole, whichever way it says so.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use hull_config::{Config, ConfigError, RootKind, Start};
use hull_sandbox::cgroup::HostLimits;
use hull_sandbox::{GuestFiles, Limits, NetworkConfig, PodConfig, Roots, SandboxError, root_image};
use hull_vm::MachineSize;
use hull_vm::config::MAX_VCPUS;

/// Why a pod cannot have what a namespace of its own would keep it from.
pub(crate) const HOST_NETWORK: &str =
    "the host's network: a virtual machine has a kernel and a network of its own";
/// The same of its processes.
pub(crate) const HOST_PID: &str =
    "the host's processes: a virtual machine has a kernel and processes of its own";
/// The same of its System V objects and message queues.
pub(crate) const HOST_IPC: &str =
    "the host's IPC: a virtual machine has a kernel and memory of its own";

/// What the engine decides; the rest is the operator's.
#[derive(Debug)]
pub struct PodRequest {
    /// The pod's id.
    pub id: String,
    /// The engine's namespace.
    pub namespace: String,
    /// Empty where it wants the host's kept.
    pub hostname: String,
    /// What its containers may use together.
    pub limits: Limits,
    /// The network namespace that the engine has made; without one the pod has no network.
    pub network_namespace: Option<PathBuf>,
    /// As in `linux.cgroupsPath`.
    pub cgroup: Option<String>,
    /// Of that group, where the engine has not limited it itself.
    pub host_limits: Option<HostLimits>,
    /// Kernel parameters, names and values.
    pub sysctls: BTreeMap<String, String>,
    /// A container stands for the pod, with the pod's id.
    pub placeholder: bool,
}

impl PodRequest {
    /// What the pod is given.
    ///
    /// # Errors
    /// When there is no guest.
    pub fn config(self, settings: &Config) -> Result<PodConfig, SandboxError> {
        let (vm, guest) = (&settings.vm, &settings.guest);
        let size = MachineSize {
            // More than a guest can have is no limit to it.
            vcpus: self.limits.vcpus().unwrap_or(vm.vcpus).min(MAX_VCPUS),
            memory_mib: self.limits.memory_mib().map_or(vm.memory.mib(), |limit| {
                limit.saturating_add(vm.memory_overhead.mib())
            }),
        };
        Ok(PodConfig {
            namespace: self.namespace,
            hostname: hostname(self.hostname, &self.id),
            vmm: vm.vmm,
            acceleration: vm.acceleration,
            file_sharing: vm.file_sharing,
            templates: templates(settings, Path::new(TEMPLATES)),
            roots: roots(settings, Path::new(root_image::DEFAULT_DIR)),
            size,
            max: MachineSize {
                vcpus: vm.max_vcpus.min(host_cpus()),
                memory_mib: vm.max_memory.mib(),
            }
            .max(size),
            memory_overhead_mib: vm.memory_overhead.mib(),
            guest: GuestFiles::choose(guest.kernel.as_deref(), guest.initramfs.as_deref())?,
            network: match self.network_namespace {
                None => NetworkConfig::None,
                Some(path) => NetworkConfig::Namespace {
                    path,
                    spare_interfaces: settings.network.spare_interfaces,
                },
            },
            cgroup: self.cgroup,
            host_limits: self.host_limits,
            host_memory_overhead_mib: vm.host_memory_overhead.mib(),
            sysctls: self.sysctls,
            placeholder: self.placeholder.then(|| self.id.clone()),
            single: None,
            id: self.id,
        })
    }
}

/// Where templates are of which the engines' pods are made.
const TEMPLATES: &str = "/var/lib/hull/templates";

/// The directory with templates, if pods are to start from them: `dir` unless the settings say otherwise.
#[must_use]
pub fn templates(settings: &Config, dir: &Path) -> Option<PathBuf> {
    match settings.vm.start {
        Start::Boot => None,
        Start::Template => Some(
            settings
                .vm
                .template_dir
                .as_deref()
                .unwrap_or(dir)
                .to_owned(),
        ),
    }
}

/// How containers get their roots. `cache` is where images of them are unless the settings say otherwise.
#[must_use]
pub fn roots(settings: &Config, cache: &Path) -> Roots {
    let root = &settings.root;
    match root.kind {
        RootKind::Shared => Roots::Shared,
        RootKind::Image => Roots::Image {
            cache: root.cache_dir.as_deref().unwrap_or(cache).to_owned(),
            limit: root.cache_size.bytes(),
            disk_size: root.disk_size.bytes(),
        },
    }
}

fn host_cpus() -> u32 {
    let host = std::thread::available_parallelism().map_or(1, usize::from);
    u32::try_from(host).unwrap_or(u32::MAX)
}

/// What counts for the pod: the operator's files and the pod's annotations.
///
/// # Errors
/// What is wrong with them.
pub fn settings<'a>(
    file: Option<&Path>,
    annotations: impl IntoIterator<Item = (&'a String, &'a String)>,
) -> Result<Config, ConfigError> {
    let (settings, ignored) = Config::load(file)?.with_annotations(annotations)?;
    for name in ignored {
        tracing::warn!("the annotation {name} is ignored");
    }
    Ok(settings)
}

/// A guest has no name that could be kept.
fn hostname(named: String, id: &str) -> String {
    /// The kernel's `__NEW_UTS_LEN`.
    const LONGEST: usize = 64;
    match named.is_empty() {
        true => id.chars().take(LONGEST).collect(),
        false => named,
    }
}

#[cfg(test)]
mod tests {
    use super::hostname;

    #[test]
    fn a_guest_has_a_name() {
        let none = String::new;
        assert_eq!(hostname("n".to_owned(), "id"), "n");
        assert_eq!(hostname(none(), "id"), "id");
        assert_eq!(hostname(none(), &"x".repeat(76)).len(), 64);
    }
}
