//! From a configuration to a guest that takes calls.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hull_agent_api::agent;
use hull_vm::{
    Accelerator, Boot, Device, Exit, FileSharing, FileTransport, MachineSize, Vm, VmConfig,
};
use tokio::sync::{Mutex, watch};

use super::template::Template;
use super::{Machine, Pod, follow, forward, record, size};
use crate::config::PodConfig;
use crate::error::SandboxError;
use crate::guest::{Guest, ReadyListener, promptly};
use crate::network::{Interfaces, PendingNetwork};
use crate::process::{now_ns, random_bytes};
use crate::share::{self, Share};

/// A guest that has not said a word for so long never will: it hangs.
const BOOT_DEADLINE_KVM: Duration = Duration::from_secs(60);
/// The same where every instruction is translated.
const BOOT_DEADLINE_TCG: Duration = Duration::from_secs(180);
/// How long a machine that has hung up may take to end, which says more than that it hung up.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Where the VMM's sockets are, below the pod's state directory.
pub(super) fn vm_dir(state_dir: &Path) -> std::path::PathBuf {
    state_dir.join("vm")
}

/// The hybrid vsock socket. Its directory holds nothing else: it is all that the vsock back end sees
/// of the file system.
pub(super) fn vsock(state_dir: &Path) -> std::path::PathBuf {
    vm_dir(state_dir).join("vsock/guest.sock")
}

impl Pod {
    /// Starts a pod. When it fails, everything that was started has ended.
    ///
    /// # Errors
    /// What could not be prepared or started, or how the guest failed to come up.
    pub async fn start(config: PodConfig, state_dir: &Path) -> Result<Arc<Self>, SandboxError> {
        let driver = config.vmm.driver()?;
        let template = Template::of(&config, driver.as_ref(), state_dir)?;
        let files = match (config.file_sharing, &template) {
            // A snapshot has nothing of a file server's.
            (FileSharing::VirtioFs, Some(_)) => {
                return Err(SandboxError::Unsupported(
                    "virtio-fs in a guest that goes on from a template (vm.start)",
                ));
            }
            (FileSharing::Auto | FileSharing::Vsock, Some(_)) => FileTransport::Vsock,
            (wanted, None) => wanted.transport(driver.as_ref())?,
        };
        let vm_dir = vm_dir(state_dir);
        share::create_dir(&vm_dir.join("vsock"))?;
        let ready = ReadyListener::bind(&vsock(state_dir))?;
        let vmm = driver.capabilities();
        let room = vmm.devices - DEVICES;
        let (network, interfaces) = PendingNetwork::new(&config.network, room, vmm.net).await?;
        let vm_config = vm_config(&config, state_dir, files, interfaces);
        let origin = match &template {
            Some(template) => Some(template.prepare(driver.as_ref(), &vm_config).await?),
            None => None,
        };
        let boots = origin.is_none();
        let share = Share::start(state_dir, &vm_dir, files, &vsock(state_dir))?;
        let launch = async {
            match origin {
                Some(origin) => origin.start(driver.as_ref(), vm_config).await,
                None => driver.launch(vm_config).await,
            }
        };
        // The guest boots while its network is made.
        let launched = tokio::join!(launch, network.connect(&vm_dir));
        let (vm, network) = match launched {
            (Ok(vm), Ok(network)) => (vm, network),
            (Ok(vm), Err(error)) => {
                vm.kill().await;
                share.server().kill().await;
                return Err(error.into());
            }
            (Err(error), network) => {
                if let Ok(network) = network {
                    network.stop().await;
                }
                share.server().kill().await;
                return Err(error.into());
            }
        };
        let machine = Machine { vm, share, network };
        // From now on everything is found again, whatever becomes of this process.
        if let Err(error) = record::save(state_dir, &machine, config.size, Vec::new()) {
            machine.kill().await;
            return Err(error);
        }
        let said = boots.then_some(&ready);
        let reached = reach(&config, state_dir, files, &machine, said).await;
        match reached.and_then(|guest| size::limit_cpu_time(&config).map(|()| guest)) {
            Ok(guest) => {
                let size = config.size;
                Ok(Self::with_guest(config, state_dir, machine, guest, size))
            }
            Err(error) => {
                machine.kill().await;
                Err(error)
            }
        }
    }

    pub(super) fn with_guest(
        config: PodConfig,
        state_dir: &Path,
        machine: Machine,
        guest: Guest,
        size: MachineSize,
    ) -> Arc<Self> {
        let pod = Arc::new(Self {
            config,
            state_dir: state_dir.to_owned(),
            machine,
            guest,
            containers: Mutex::default(),
            first: watch::Sender::new(None),
            end: watch::Sender::new(None),
            done_with: watch::Sender::new(false),
            size: Mutex::new(size),
            served_names: Mutex::default(),
        });
        tokio::spawn(Arc::clone(&pod).supervise());
        if let Some(loopback) = pod.machine.network.take_loopback()
            && let Err(error) = forward::start(&pod, loopback)
        {
            tracing::error!(%error, "the pod's ports cannot be forwarded");
        }
        if let Some(follower) = pod.machine.network.take_follower() {
            follow::start(&pod, follower);
        }
        pod
    }
}

/// What the guest's kernel is told besides what its VMM needs: a container finds no interface that
/// nobody asked for.
pub(super) const KERNEL_ARGUMENTS: [&str; 1] = ["dummy.numdummies=0"];

/// How many devices every pod has at most, beside its interfaces.
const DEVICES: usize = 3;

pub(super) fn vm_config(
    config: &PodConfig,
    state_dir: &Path,
    files: FileTransport,
    interfaces: Interfaces,
) -> VmConfig {
    let vm_dir = vm_dir(state_dir);
    let share = (files == FileTransport::VirtioFs).then(|| Device::Fs {
        tag: share::TAG.to_owned(),
        socket: Share::socket(&vm_dir),
    });
    let own = share.into_iter().chain([Device::Rng, Device::Balloon]);
    let devices = own.chain(interfaces.devices).collect();
    VmConfig {
        id: config.id.clone(),
        boot: Boot {
            kernel: config.guest.kernel.clone(),
            initramfs: config.guest.initramfs.clone(),
            arguments: KERNEL_ARGUMENTS.map(str::to_owned).into(),
        },
        size: config.size,
        max: config.max,
        acceleration: config.acceleration,
        vsock: vsock(state_dir),
        devices,
        network_namespace: interfaces.namespace,
        run_dir: vm_dir,
    }
}

/// Waits for the guest, to say that it is `ready` if it boots, and prepares it for containers.
async fn reach(
    config: &PodConfig,
    state_dir: &Path,
    files: FileTransport,
    machine: &Machine,
    ready: Option<&ReadyListener>,
) -> Result<Guest, SandboxError> {
    let configured = async {
        if let Some(ready) = ready {
            let hello = ready.ready().await?;
            tracing::debug!(?hello, "the guest is ready");
            machine.vm.booted()?;
        }
        let guest = Guest::connect(&vsock(state_dir)).await?;
        configure(config, files, machine, &guest).await?;
        Ok(guest)
    };
    in_time(machine.vm.as_ref(), machine.wait(), configured).await
}

/// What comes of `work` with a guest that has just been started, unless its machine ends or it takes too long.
pub(super) async fn in_time<T>(
    vm: &dyn Vm,
    ended: impl Future<Output = Exit>,
    work: impl Future<Output = Result<T, SandboxError>>,
) -> Result<T, SandboxError> {
    let deadline = match vm.accelerator() {
        Accelerator::Kvm => BOOT_DEADLINE_KVM,
        Accelerator::Tcg => BOOT_DEADLINE_TCG,
    };
    let failed = |cause: String| SandboxError::Boot {
        cause,
        console: vm.console_tail(),
    };
    let mut ended = std::pin::pin!(ended);
    let done = tokio::select! {
        exit = &mut ended => return Err(failed(exit.cause)),
        done = tokio::time::timeout(deadline, work) => done,
    };
    match done {
        // Its connections end before it does.
        Ok(Err(error)) if error.is_silence() => {
            match tokio::time::timeout(LAST_WORDS, ended).await {
                Ok(exit) => Err(failed(exit.cause)),
                Err(_) => Err(error),
            }
        }
        Ok(done) => done,
        Err(_) => Err(failed(format!(
            "no word from it in {} s",
            deadline.as_secs()
        ))),
    }
}

/// The network's and the pod's own, which win.
fn sysctls(config: &PodConfig, machine: &Machine) -> HashMap<String, String> {
    let mut all = machine.network.sysctls();
    all.extend(config.sysctls.clone());
    all
}

async fn configure(
    config: &PodConfig,
    files: FileTransport,
    machine: &Machine,
    guest: &Guest,
) -> Result<(), SandboxError> {
    let request = agent::ConfigureSandboxRequest {
        sandbox_id: config.id.clone(),
        hostname: config.hostname.clone(),
        storages: vec![agent::Storage {
            driver: match files {
                FileTransport::VirtioFs => agent::storage::Driver::VIRTIO_FS.into(),
                FileTransport::Vsock => agent::storage::Driver::FUSE.into(),
            },
            source: share::TAG.to_owned(),
            target: share::GUEST_DIR.to_owned(),
            ..Default::default()
        }],
        sysctls: sysctls(config, machine),
        network: Some(machine.network.guest()).into(),
        realtime_ns: now_ns(),
        entropy: random_bytes::<64>()?.to_vec(),
        ..Default::default()
    };
    let answer = guest.agent().configure_sandbox(promptly(), &request).await;
    answer.map(drop).map_err(|source| SandboxError::Agent {
        action: "prepare itself",
        source,
    })
}
