//! `create`, and what it has in common with `run`.

use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::SystemTime;

use hull_config::Config;
use hull_sandbox::bundle_spec_and_unknown;
use hull_shim::client::{Monitor, Pod};
use hull_shim::engine::{self, Role};
use hull_shim::pod_request::settings;
use hull_vm::process::ProcessRecord;
use oci_spec::runtime::Spec;

use super::{Context, capabilities, notify};
use crate::arguments::{CreateArgs, NewArgs, ProcessArgs};
use crate::error::RuntimeError;
use crate::monitor::{self, Begin, Cgroup, Network, Order, RootPlan, Terminal};
use crate::place::{Place, network};
use crate::store::{Record, check_id};

/// A bundle that was read.
#[derive(Debug)]
pub(super) struct Bundle {
    dir: PathBuf,
    spec: Spec,
}

/// `create`.
pub(super) async fn create(context: &Context, args: &CreateArgs) -> Result<(), RuntimeError> {
    let bundle = Bundle::read(context, &args.new.bundle)?;
    check_console(&args.new.process, bundle.has_terminal(), true)?;
    create_container(context, &args.new, &args.id, &bundle)
        .await
        .map(drop)
}

/// Makes a container, with its monitor.
pub(super) async fn create_container(
    context: &Context,
    new: &NewArgs,
    id: &str,
    bundle: &Bundle,
) -> Result<(Pod, Child), RuntimeError> {
    check_id(id)?;
    let network = match network(&bundle.spec) {
        Some(path) => Network::At(path),
        None => Network::New,
    };
    let monitor = monitor::begin(&Begin {
        args: bundle.args().cloned().unwrap_or_default(),
        terminal: terminal(&new.process, bundle.has_terminal()),
        network,
    })?;
    let place = register(context, id, bundle, monitor.record)?;
    let joins = matches!(place, Place::Joins(_));
    let made = async {
        let notify_dir = notify::prepare(&context.store, id)?;
        let pod = make(id, bundle, &place, &monitor, notify_dir).await?;
        write_pid(&new.process, monitor.record.pid)?;
        let order = Order {
            pod: place.dir().to_owned(),
            id: id.to_owned(),
            exec_id: String::new(),
            root: Some(RootPlan::new(&bundle.spec, &bundle.dir, bundle.rootfs())),
            cgroup: match bundle.cgroup() {
                None => Cgroup::Same,
                Some(cgroup) if joins => Cgroup::Own(cgroup),
                Some(cgroup) => Cgroup::OfPod(cgroup),
            },
        };
        Ok((pod, monitor.release(&order)?))
    };
    let made = made.await;
    if made.is_err()
        && let Err(clean_up) = super::delete::forget(context, id).await
    {
        // The first counts, and is told by the caller.
        eprintln!(
            "hull-runtime: {}",
            hull_shim::client::report::chain(&clean_up)
        );
    }
    made
}

/// Where a process's terminal comes from.
pub(super) fn terminal(args: &ProcessArgs, wanted: bool) -> Terminal {
    match &args.console_socket {
        Some(socket) => Terminal::For(socket.clone()),
        None if wanted => Terminal::Own,
        None => Terminal::None,
    }
}

/// Makes a container for which `monitor` stands, and its pod if it has none.
async fn make(
    id: &str,
    bundle: &Bundle,
    place: &Place,
    monitor: &monitor::Monitor,
    notify_dir: Option<PathBuf>,
) -> Result<Pod, RuntimeError> {
    let pod = match place {
        Place::Joins(dir) => Pod::connect(dir, id).await?,
        Place::New(dir, role) => start_pod(id, bundle, dir, role, monitor.record).await?,
    };
    let host = Monitor {
        process: Some(monitor.record),
        notify_dir,
    };
    pod.create(&bundle.dir, &[], monitor.stdio.clone(), Some(&host))
        .await
        .map_err(RuntimeError::program(bundle.args()))?;
    Ok(pod)
}

/// Decides which pod the container is in, and makes it known.
fn register(
    context: &Context,
    id: &str,
    bundle: &Bundle,
    monitor: ProcessRecord,
) -> Result<Place, RuntimeError> {
    let spec = &bundle.spec;
    let lock = context.store.lock()?;
    let place = Place::find(&context.store, &context.state, spec, id)?;
    let record = Record {
        id: id.to_owned(),
        pod: place.dir().to_owned(),
        monitor,
        bundle: bundle.dir.clone(),
        rootfs: bundle.rootfs(),
        created: humantime::format_rfc3339_nanos(SystemTime::now()).to_string(),
        oci_version: spec.version().clone(),
        annotations: spec.annotations().clone().unwrap_or_default(),
        process: spec.process().clone(),
        cgroup: match &place {
            // The pod's own goes with the pod.
            Place::New(..) => None,
            Place::Joins(_) => bundle.cgroup(),
        },
        execs: Vec::new(),
        deleting: false,
    };
    context.store.add(&lock, &record)?;
    Ok(place)
}

/// Starts the pod process of a new pod.
async fn start_pod(
    id: &str,
    bundle: &Bundle,
    dir: &Path,
    role: &Role,
    monitor: ProcessRecord,
) -> Result<Pod, RuntimeError> {
    let annotations = bundle.spec.annotations().iter().flatten();
    let settings: Config = settings(None, annotations)?;
    let mut request = engine::request(id, "", role, &bundle.spec)?;
    // Where the engine has made none the monitor has, and the engine may fill it until `start`.
    request
        .network_namespace
        .get_or_insert_with(|| format!("/proc/{}/ns/net", monitor.pid).into());
    let config = request.config(&settings)?;
    if dir.exists() {
        // Of a command that was killed: no container is in it.
        engine::clean_up(dir).await?;
    }
    std::os::unix::fs::DirBuilderExt::mode(std::fs::DirBuilder::new().recursive(true), 0o700)
        .create(dir)
        .map_err(RuntimeError::host(format!("create {}", dir.display())))?;
    config.write(dir)?;
    Ok(Pod::start(dir, id, None).await?)
}

/// Engines read it when the command has ended, and others may at any time.
pub(super) fn write_pid(args: &ProcessArgs, pid: i32) -> Result<(), RuntimeError> {
    let Some(path) = &args.pid_file else {
        return Ok(());
    };
    let mut new = path.clone().into_os_string();
    new.push(".new");
    std::fs::write(&new, pid.to_string())
        .and_then(|()| std::fs::rename(&new, path))
        .map_err(RuntimeError::host(format!("write {}", path.display())))
}

/// Checks that a terminal has somebody who takes it, and the other way round.
pub(super) fn check_console(
    args: &ProcessArgs,
    terminal: bool,
    detached: bool,
) -> Result<(), RuntimeError> {
    let invalid = |text: &str| Err(RuntimeError::Invalid(text.to_owned()));
    if args.preserve_fds > 0 {
        return Err(RuntimeError::Unsupported(
            "to preserve descriptors: a virtual machine cannot have any of the host's",
        ));
    }
    match (terminal, detached, args.console_socket.is_some()) {
        (true, true, false) => invalid(
            "cannot allocate tty if hull-runtime will detach without setting console socket",
        ),
        (false, _, true) | (_, false, true) => {
            invalid("cannot use console socket if hull-runtime will not detach or allocate tty")
        }
        _ => Ok(()),
    }
}

impl Bundle {
    /// Reads a bundle's specification, and warns of what of it will not be.
    ///
    /// # Errors
    /// When there is none, or it is malformed.
    pub(super) fn read(context: &Context, dir: &Path) -> Result<Self, RuntimeError> {
        let dir = dir
            .canonicalize()
            .map_err(RuntimeError::host(format!("find {}", dir.display())))?;
        let (spec, unknown) = bundle_spec_and_unknown(&dir)?;
        capabilities::warn_of_unknown(&context.log, &unknown);
        if let Some(process) = spec.process() {
            capabilities::warn_of_ambient(&context.log, process);
        }
        Ok(Self { dir, spec })
    }

    /// Whether its program has a terminal.
    pub(super) fn has_terminal(&self) -> bool {
        let process = self.spec.process().as_ref();
        process.is_some_and(|process| process.terminal().unwrap_or(false))
    }

    /// Its program and arguments.
    pub(super) fn args(&self) -> Option<&Vec<String>> {
        self.spec.process().as_ref()?.args().as_ref()
    }

    /// Its root's directory.
    fn rootfs(&self) -> PathBuf {
        hull_sandbox::spec::bundle_rootfs(&self.dir, &self.spec)
    }

    /// The control group that the engine wants.
    fn cgroup(&self) -> Option<String> {
        engine::cgroup(&self.spec)
    }
}
