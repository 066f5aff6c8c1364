//! From the command line and an image to a container's bundle.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use hull_config::Config;
use hull_image::Image;
use hull_sandbox::mount::{MountSpec, overlay};
use hull_sandbox::{GuestFiles, NetworkConfig, PodConfig, SandboxError, SingleContainer};
use hull_shim::pod_request;
use hull_vm::MachineSize;

use crate::arguments::{ContainerArgs, Network};
use crate::container::{Container, ContainerDir, Settings, StoreError, create_dir, write_json};
use crate::etc_files::{EtcError, EtcFiles};
use crate::files::{RootView, ViewError};
use crate::id;
use crate::images;
use crate::locations::Locations;
use crate::spec::{self, Accounts, CapabilitySet, CommandError, SpecError, UserError};
use crate::values::environment::{self, EnvFileError};
use crate::values::publish;
use crate::values::security::{SeccompChoice, SecurityOption};
use crate::values::signal;
use crate::volume::{MountOption, VolumeError, VolumeStore, resolve};

/// Why a container cannot be made as asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BundleError {
    #[error(transparent)]
    Command(#[from] CommandError),
    #[error(transparent)]
    User(#[from] UserError),
    #[error(transparent)]
    Spec(#[from] SpecError),
    #[error(transparent)]
    Volume(#[from] VolumeError),
    #[error(transparent)]
    Etc(#[from] EtcError),
    #[error(transparent)]
    EnvFile(#[from] EnvFileError),
    #[error(transparent)]
    View(#[from] ViewError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Guest(#[from] SandboxError),
    /// The image's accounts.
    #[error("cannot read {0} of the image")]
    Accounts(&'static str, #[source] std::io::Error),
    /// The writable layer.
    #[error("cannot prepare the container's writable layer")]
    Upper(#[source] std::io::Error),
    /// A relative working directory.
    #[error("the working directory {0:?} is not absolute")]
    RelativeWorkdir(String),
    /// The working directory cannot be made.
    #[error("cannot make the working directory {0}")]
    Workdir(PathBuf, #[source] std::io::Error),
    /// A port on the host.
    #[error("cannot find a free port on the host")]
    Port(#[source] std::io::Error),
    /// Ports without a network.
    #[error("ports cannot be published with --network none")]
    PublishWithoutNetwork,
    /// What a virtual machine cannot give.
    #[error("not supported: {0}")]
    Unsupported(&'static str),
}

/// Memory of a machine whose container has no limit, MiB.
const DEFAULT_MEMORY_MIB: u32 = 512;
/// Virtual CPUs unless asked otherwise.
const DEFAULT_VCPUS: usize = 2;

/// Refuses what can be refused without looking at anything.
pub(crate) fn check(args: &ContainerArgs) -> Result<(), BundleError> {
    if !args.security.device.is_empty() {
        return Err(BundleError::Unsupported(
            "--device: a guest has no devices of the host",
        ));
    }
    if args.security.init {
        return Err(BundleError::Unsupported(
            "--init: put an init program into the image",
        ));
    }
    if args
        .platform
        .as_deref()
        .is_some_and(|platform| platform != "linux/amd64")
    {
        return Err(BundleError::Unsupported(
            "--platform: the guest runs linux/amd64 only",
        ));
    }
    if args.network.network == Network::None && !args.network.publish.is_empty() {
        return Err(BundleError::PublishWithoutNetwork);
    }
    Ok(())
}

/// Host name of a container.
fn hostname(args: &ContainerArgs, id: &str) -> String {
    args.hostname
        .clone()
        .unwrap_or_else(|| id::short(id).to_owned())
}

/// What the pod is given.
pub(crate) fn pod_config(
    args: &ContainerArgs,
    config: &Config,
    dir: &ContainerDir,
    locations: &Locations,
) -> Result<PodConfig, BundleError> {
    let memory_mib = match args.machine.memory {
        None => DEFAULT_MEMORY_MIB,
        Some(bytes) => {
            // A container that reaches its limit is told so by its own control group, not by a guest
            // that is out of memory.
            let overhead = u64::from(config.vm.memory_overhead.mib());
            let mib = (bytes >> 20).saturating_add(overhead);
            u32::try_from(mib).unwrap_or(u32::MAX)
        }
    };
    let vcpus = match args.machine.cpus {
        Some(cpus) => cpus.vcpus(),
        None => {
            let host = std::thread::available_parallelism().map_or(1, usize::from);
            u32::try_from(host.min(DEFAULT_VCPUS)).unwrap_or(1)
        }
    };
    let size = MachineSize { vcpus, memory_mib };
    let network = match args.network.network {
        Network::None => NetworkConfig::None,
        Network::Nat => NetworkConfig::Nat {
            publish: publish::resolve(&args.network.publish).map_err(BundleError::Port)?,
        },
    };
    Ok(PodConfig {
        id: dir.id().to_owned(),
        namespace: String::new(),
        hostname: hostname(args, dir.id()),
        vmm: args.machine.vmm.unwrap_or(config.vm.vmm),
        acceleration: args.machine.accel.unwrap_or(config.vm.acceleration),
        file_sharing: config.vm.file_sharing,
        templates: pod_request::templates(config, &locations.templates()),
        roots: pod_request::roots(config, &locations.root_images()),
        size,
        // Its only container is there from the start.
        max: size,
        memory_overhead_mib: config.vm.memory_overhead.mib(),
        guest: GuestFiles::choose(
            config.guest.kernel.as_deref(),
            config.guest.initramfs.as_deref(),
        )?,
        network,
        cgroup: None,
        host_limits: None,
        host_memory_overhead_mib: config.vm.host_memory_overhead.mib(),
        sysctls: BTreeMap::new(),
        placeholder: None,
        single: Some(SingleContainer {
            exit_file: dir.exit(),
            remove: args.rm.then(|| dir.data.clone()),
        }),
    })
}

/// Writes the bundle of a container that is being made.
pub(crate) fn write(
    args: &ContainerArgs,
    image: &Image,
    container: &Container,
    pod: PodConfig,
    locations: &Locations,
) -> Result<Settings, BundleError> {
    let dir = &container.dir;
    for path in [dir.upper(), dir.work(), dir.scratch()] {
        create_dir(&path)?;
    }
    images::copy_root_attributes(image, &dir.upper()).map_err(BundleError::Upper)?;
    let rootfs = images::rootfs(image, dir)?;
    let view = RootView::mount(&rootfs, &dir.scratch())?;
    let accounts = accounts(&view)?;
    let config = images::config(image);
    let asked_user = args.user.as_deref();
    let image_user = config.and_then(|config| config.user().as_deref());
    let user = asked_user.or(image_user).unwrap_or_default();
    let identity = accounts.resolve(user, &args.group_add)?;

    let command = args.image_and_command.get(1..).unwrap_or_default();
    let command = spec::command(config, args.entrypoint.as_deref(), command)?;
    let mut variables = Vec::new();
    for file in &args.env_file {
        variables.extend(environment::read_file(file)?);
    }
    variables.extend(args.env.iter().cloned());
    let hostname = pod.hostname.clone();
    let env = spec::environment(config, variables, &hostname, &identity.home, args.tty);
    let cwd = workdir(args, image, &view)?;

    let mounts = mounts(args, image, &view, dir, &hostname, locations)?;
    // The pod mounts the same directories: this view must not be there any more.
    drop(view);
    let request = request(
        args,
        command.clone(),
        env,
        cwd,
        identity,
        hostname,
        mounts.all,
    );
    write_json(&dir.config(), &spec::build(request)?)?;

    Ok(Settings {
        image: image.reference.clone(),
        image_id: image.id.to_string(),
        command,
        labels: labels(args, image),
        tty: args.tty,
        interactive: args.interactive,
        auto_remove: args.rm,
        stop_signal: stop_signal(args, image),
        stop_timeout_seconds: args.stop_timeout,
        volumes: mounts.volumes,
        rootfs: vec![rootfs],
        pod,
    })
}

/// The accounts of an image or container.
pub(crate) fn accounts(view: &RootView) -> Result<Accounts, BundleError> {
    let read = |path| {
        view.read_text(path)
            .map_err(|source| BundleError::Accounts(path, source))
    };
    Ok(Accounts {
        passwd: read("/etc/passwd")?,
        group: read("/etc/group")?,
    })
}

fn workdir(args: &ContainerArgs, image: &Image, view: &RootView) -> Result<PathBuf, BundleError> {
    let of_image = images::config(image).and_then(|config| config.working_dir().as_deref());
    let asked = args
        .workdir
        .as_deref()
        .or(of_image)
        .filter(|dir| !dir.is_empty());
    let cwd = Path::new(asked.unwrap_or("/"));
    if !cwd.is_absolute() {
        return Err(BundleError::RelativeWorkdir(
            cwd.to_string_lossy().into_owned(),
        ));
    }
    view.create_dir_all(cwd)
        .map_err(|source| BundleError::Workdir(cwd.to_owned(), source))?;
    Ok(cwd.to_owned())
}

struct Mounts {
    all: Vec<oci_spec::runtime::Mount>,
    volumes: Vec<String>,
}

fn mounts(
    args: &ContainerArgs,
    image: &Image,
    view: &RootView,
    dir: &ContainerDir,
    hostname: &str,
    locations: &Locations,
) -> Result<Mounts, BundleError> {
    let files = &args.files;
    let options: Vec<MountOption> = files
        .volume
        .iter()
        .chain(&files.mount)
        .chain(&files.tmpfs)
        .cloned()
        .collect();
    let of_image = images::config(image).and_then(|config| config.volumes().clone());
    let named = VolumeStore::new(locations.volumes());
    let anonymous = VolumeStore::new(dir.volumes());
    let resolved = resolve(
        &options,
        &of_image.unwrap_or_default(),
        &named,
        &anonymous,
        view,
    )?;
    let etc = EtcFiles {
        hostname: hostname.to_owned(),
        dns: args.network.dns.clone(),
        hosts: args.network.add_host.clone(),
        network: args.network.network != Network::None,
    };
    let mut all = etc.write(dir)?;
    // A person's own file goes before ours.
    all.retain(|ours| {
        let taken = |other: &oci_spec::runtime::Mount| other.destination() == ours.destination();
        !resolved.mounts.iter().any(taken)
    });
    all.extend(resolved.mounts);
    Ok(Mounts {
        all,
        volumes: resolved.volumes,
    })
}

fn request(
    args: &ContainerArgs,
    command: Vec<String>,
    env: Vec<String>,
    cwd: PathBuf,
    identity: spec::Identity,
    hostname: String,
    mounts: Vec<oci_spec::runtime::Mount>,
) -> spec::Request {
    let security = &args.security;
    let capabilities = match security.privileged {
        true => CapabilitySet::all(),
        false => CapabilitySet::new(&security.cap_add, &security.cap_drop),
    };
    let mut seccomp = SeccompChoice::Builtin;
    let mut no_new_privileges = false;
    for option in &security.security_opt {
        match option {
            SecurityOption::Seccomp(choice) => seccomp = choice.clone(),
            SecurityOption::NoNewPrivileges(value) => no_new_privileges = *value,
        }
    }
    spec::Request {
        args: command,
        env,
        cwd,
        identity,
        terminal: args.tty,
        privileged: security.privileged,
        capabilities,
        seccomp,
        no_new_privileges,
        rlimits: security.ulimit.clone(),
        hostname,
        read_only: args.files.read_only,
        memory_bytes: args.machine.memory,
        cpus: args.machine.cpus,
        pids_limit: args.machine.pids_limit,
        shm_bytes: args.files.shm_size,
        sysctls: security.sysctl.clone(),
        mounts,
    }
}

fn labels(args: &ContainerArgs, image: &Image) -> BTreeMap<String, String> {
    let of_image = images::config(image).and_then(|config| config.labels().clone());
    let mut labels: BTreeMap<_, _> = of_image.unwrap_or_default().into_iter().collect();
    for label in &args.label {
        let (key, value) = label.split_once('=').unwrap_or((label, ""));
        labels.insert(key.to_owned(), value.to_owned());
    }
    labels
}

fn stop_signal(args: &ContainerArgs, image: &Image) -> u32 {
    const SIGTERM: u32 = 15;
    let of_image = images::config(image).and_then(|config| config.stop_signal().as_deref());
    // A signal that the image has wrong is no signal.
    let of_image = of_image.and_then(|text| signal::parse(text).ok());
    args.stop_signal.or(of_image).unwrap_or(SIGTERM)
}

/// The root of a container, to look at and to change while it does not run.
pub(crate) fn stopped_view(
    dir: &ContainerDir,
    rootfs: &[MountSpec],
) -> Result<RootView, BundleError> {
    create_dir(&dir.scratch())?;
    Ok(RootView::mount(root(rootfs), &dir.scratch())?)
}

/// The root of a container, to look at while it runs: what it has written counts as one more layer
/// below, because a second overlay must not write there.
pub(crate) fn running_view(
    dir: &ContainerDir,
    rootfs: &[MountSpec],
) -> Result<RootView, BundleError> {
    let mut root = root(rootfs).clone();
    let mut options = Vec::new();
    for option in root.options {
        if let Some(lower) = option.strip_prefix("lowerdir=") {
            let upper = overlay::option("lowerdir", &[dir.upper()]);
            options.push(format!("{upper}:{lower}"));
        } else if !option.starts_with("upperdir=") && !option.starts_with("workdir=") {
            options.push(option);
        }
    }
    root.options = options;
    create_dir(&dir.scratch())?;
    Ok(RootView::mount(&root, &dir.scratch())?)
}

fn root(rootfs: &[MountSpec]) -> &MountSpec {
    rootfs
        .first()
        .expect("a container's settings name its root")
}
