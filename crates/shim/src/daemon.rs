//! The pod process: from its start to the last trace of its pod.

use std::collections::HashMap;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use containerd_shim_protos::sandbox_async::create_sandbox;
use containerd_shim_protos::shim_async::create_task;
use hull_sandbox::cgroup::HostCgroup;
use hull_sandbox::{ExitRecord, ExitStatus, Pod, PodConfig, SandboxError, SingleContainer};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use tokio::io::AsyncReadExt;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, oneshot, watch};
use ttrpc::asynchronous::transport::Listener;
use ttrpc::asynchronous::{Server, Service};

use crate::client::report::chain;
use crate::events::{self, Events};
use crate::order::Order;
use crate::sandboxer::SandboxService;
use crate::service::{self, Stage, TaskService};

/// What a pod process is started with.
#[derive(Debug)]
pub struct Options {
    /// The pod's state directory, with `pod.json`.
    pub state_dir: PathBuf,
    /// A listening Unix socket for the Task API.
    pub socket: RawFd,
    /// Read end of a pipe. When its writer is gone before a byte came, so is whoever wanted the pod.
    pub lifeline: Option<RawFd>,
    /// Take over the pod of a pod process that is gone.
    pub attach: bool,
    /// Who is told of events.
    pub events: Option<events::Address>,
}

/// Why a pod process failed.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// A system call failed.
    #[error("cannot {action}")]
    Host {
        /// What was tried.
        action: String,
        /// Why it failed.
        source: io::Error,
    },
    /// The pod failed.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The Task API could not be served.
    #[error("cannot serve the Task API")]
    Serve(#[source] ttrpc::Error),
    /// The VMM of the pod to take over is gone.
    #[error("the virtual machine in {} does not run", .0.display())]
    Gone(PathBuf),
}

fn host<E: Into<io::Error>>(action: impl Into<String>) -> impl FnOnce(E) -> DaemonError {
    let action = action.into();
    move |source| DaemonError::Host {
        action,
        source: source.into(),
    }
}

/// Gives this process a mount namespace of its own, so that a pod's mounts are nobody else's and
/// vanish with it; or the one of the pod that is taken over. Called before any thread is started.
///
/// # Errors
/// When the kernel refuses, or the pod to take over is gone.
pub fn enter_mount_namespace(options: &Options) -> Result<(), DaemonError> {
    hull_sandbox::mount::origin::remember().map_err(host("open the host's mount namespace"))?;
    if options.attach {
        let vmm = hull_sandbox::live_vmm(&options.state_dir)
            .ok_or_else(|| DaemonError::Gone(options.state_dir.clone()))?;
        let path = format!("/proc/{}/ns/mnt", vmm.pid);
        let namespace = std::fs::File::open(&path).map_err(host(format!("open {path}")))?;
        return setns(namespace, CloneFlags::CLONE_NEWNS)
            .map_err(host("enter the pod's mount namespace"));
    }
    unshare(CloneFlags::CLONE_NEWNS).map_err(host("make a mount namespace"))?;
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_SLAVE | MsFlags::MS_REC,
        None::<&str>,
    )
    .map_err(host("detach the mount namespace from the host's"))
}

/// Runs the pod until it ends, and takes away what it left.
///
/// # Errors
/// When the pod could not be started or not be cleaned up.
pub async fn run(options: Options) -> Result<(), DaemonError> {
    let state_dir = options.state_dir.clone();
    let (decide, decided) = oneshot::channel();
    let order = Order::read(&state_dir)?;
    let (stage, stage_seen) = watch::channel(Stage::Booting);
    let shutdown = Arc::new(Notify::new());
    let (events, publisher) = match options.events {
        Some(address) => {
            let (events, publisher) = Events::to(address);
            (events, Some(publisher))
        }
        None => (Events::to_nobody(), None),
    };
    let tasks = TaskService::new(
        stage_seen.clone(),
        Arc::clone(&shutdown),
        events.clone(),
        &order,
        &state_dir,
    );
    let sandboxes = match order {
        Order::Given(config) => {
            // Taken below.
            let _ = decide.send(*config);
            None
        }
        Order::Pending(pending) => Some(SandboxService::new(
            pending,
            state_dir.clone(),
            decide,
            stage_seen.clone(),
            Arc::clone(&shutdown),
        )),
    };
    let mut server = serve(options.socket, tasks, sandboxes).await?;
    let mut terminate = signal(SignalKind::terminate()).map_err(host("watch for SIGTERM"))?;
    let lifeline = Lifeline::new(options.lifeline)?;

    let known = OnceLock::new();
    let entered = OnceLock::new();
    let boot = async {
        let Ok(config) = decided.await else {
            // Only the end of the pod process drops the other side.
            return std::future::pending().await;
        };
        let config = known.get_or_init(|| config);
        let pod = match options.attach {
            true => Pod::attach(config.clone(), &state_dir).await,
            false => match enter_group(config, &entered) {
                Ok(()) => Pod::start(config.clone(), &state_dir).await,
                Err(error) => Err(error),
            },
        };
        match pod {
            Ok(pod) => {
                stage.send_replace(Stage::Up(Arc::clone(&pod)));
                if events.are_heard() {
                    tokio::spawn(service::tell_of_ooms(Arc::clone(&pod), events));
                }
                container_end(config, &pod).await
            }
            Err(error) => {
                tracing::error!(error = chain(&error), "the pod did not start");
                stage.send_replace(Stage::Failed(Arc::new(error)));
                // Whoever asked for it has to be told first, and then says so.
                std::future::pending().await
            }
        }
    };
    let (exit, abandoned) = tokio::select! {
        exit = boot => (Some(exit), false),
        () = shutdown.notified() => (None, false),
        _ = terminate.recv() => (None, false),
        () = lifeline.cut() => (None, true),
    };
    let stage = stage_seen.borrow().clone();
    let outcome = end(&stage, exit).await;
    if options.attach && !matches!(stage, Stage::Up(_)) {
        // Nobody here has started what still runs, so nothing ends it by itself.
        hull_sandbox::abandon(&state_dir).await;
    }
    let single = known.get().and_then(|config| config.single.as_ref());
    if let Some(single) = single {
        // What is removed and was abandoned has nobody left who would read its record.
        if !abandoned || single.remove.is_none() {
            write_exit(single, &outcome.record)?;
        }
    }
    // Before the directory that says which: should this process be killed here, another one leaves it.
    let left = known
        .get()
        .map_or(Ok(()), |config| leave_group(config, &entered));
    let cleaned = clean_up(&state_dir, single);
    if let Some(publisher) = publisher {
        publisher.finish().await;
    }
    // Last: to a client the end of its connection says that nothing is left.
    server.shutdown().await.map_err(DaemonError::Serve)?;
    left?;
    cleaned?;
    outcome.stopped.map_err(DaemonError::from)
}

fn enter_group(config: &PodConfig, entered: &OnceLock<HostCgroup>) -> Result<(), SandboxError> {
    match config.host_group()? {
        None => Ok(()),
        Some(group) => config.enter(entered.get_or_init(|| group)),
    }
}

fn leave_group(config: &PodConfig, entered: &OnceLock<HostCgroup>) -> Result<(), SandboxError> {
    match entered.get() {
        Some(group) => group.leave(),
        // Another process has entered it, whose pod this one has taken over.
        None => config.host_group()?.map_or(Ok(()), |group| group.leave()),
    }
}

/// Completes with the end of what the pod lives for: its only container, or all that a front end has monitors for.
async fn container_end(config: &PodConfig, pod: &Arc<Pod>) -> ExitStatus {
    if config.single.is_none() {
        pod.done_with().await;
        return ExitStatus::killed();
    }
    tokio::select! {
        exit = pod.first_container_end() => exit,
        _ = pod.ended() => ExitStatus::killed(),
    }
}

struct Outcome {
    record: ExitRecord,
    stopped: Result<(), SandboxError>,
}

async fn end(stage: &Stage, exit: Option<ExitStatus>) -> Outcome {
    let mut record = ExitRecord {
        exit,
        failure: None,
        console: Vec::new(),
    };
    let stopped = match stage {
        Stage::Up(pod) => {
            if let Some(end) = pod.end_so_far() {
                record.failure = Some(end.cause);
                record.console = end.console;
            }
            let stopped = pod.stop().await;
            record.exit = record.exit.or_else(|| pod.first_exit());
            stopped
        }
        Stage::Failed(error) => {
            record.failure = Some(chain(error.as_ref()));
            Ok(())
        }
        Stage::Booting => {
            record.failure = Some("the start was interrupted".to_owned());
            Ok(())
        }
    };
    Outcome { record, stopped }
}

async fn serve(
    socket: RawFd,
    tasks: TaskService,
    sandboxes: Option<SandboxService>,
) -> Result<Server, DaemonError> {
    let socket = inherited(socket).map_err(host("take over the Task API's socket"))?;
    let listener = std::os::unix::net::UnixListener::from(socket);
    listener
        .set_nonblocking(true)
        .map_err(host("prepare the Task API's socket"))?;
    let listener = UnixListener::from_std(listener).map_err(host("watch the Task API's socket"))?;
    let accept = futures_util::stream::unfold(listener, |listener| async {
        let stream = listener.accept().await.map(|(stream, _)| stream);
        Some((stream, listener))
    });
    let tasks = Arc::new(tasks);
    let mut server = Server::new()
        .register_service(create_task(tasks.clone()))
        .register_service(as_version_2(create_task(tasks)))
        .add_listener(Listener::new(accept));
    if let Some(sandboxes) = sandboxes {
        server = server.register_service(create_sandbox(Arc::new(sandboxes)));
    }
    server.start().await.map_err(DaemonError::Serve)?;
    Ok(server)
}

/// The same calls under the name that containerd before 2.0 knows: only the package's name differs.
fn as_version_2(services: HashMap<String, Service>) -> HashMap<String, Service> {
    let rename = |name: String| name.replace(".task.v3.", ".task.v2.");
    services
        .into_iter()
        .map(|(name, service)| (rename(name), service))
        .collect()
}

/// A descriptor that was handed to this process, and is handed on to none: a helper that outlives the
/// pod process would hold the Task API's socket open, and clients would wait for an answer for ever.
fn inherited(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: whoever starts a pod process hands this descriptor over; nobody else here knows it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    Ok(fd)
}

struct Lifeline(Option<tokio::net::unix::pipe::Receiver>);

impl Lifeline {
    fn new(fd: Option<RawFd>) -> Result<Self, DaemonError> {
        let Some(fd) = fd else {
            return Ok(Self(None));
        };
        let fd = inherited(fd).map_err(host("take over the lifeline"))?;
        let receiver = tokio::net::unix::pipe::Receiver::from_owned_fd(fd);
        Ok(Self(Some(receiver.map_err(host("watch the lifeline"))?)))
    }

    /// Completes when the writer is gone without having let the pod go.
    async fn cut(self) {
        if let Some(mut pipe) = self.0
            && let Ok(0) | Err(_) = pipe.read(&mut [0]).await
        {
            return;
        }
        std::future::pending().await
    }
}

fn write_exit(single: &SingleContainer, record: &ExitRecord) -> Result<(), DaemonError> {
    let path = &single.exit_file;
    let bytes = serde_json::to_vec(record).expect("plain data encodes");
    let new = path.with_extension("new");
    std::fs::write(&new, bytes)
        .and_then(|()| std::fs::rename(&new, path))
        .map_err(host(format!("write {}", path.display())))
}

/// Removes the state directory and, where that was asked for, the container's files.
fn clean_up(state_dir: &Path, single: Option<&SingleContainer>) -> Result<(), DaemonError> {
    // Everything that the pod mounted is below here; it goes before anything is removed.
    let shared = state_dir.join("shared");
    match umount2(&shared, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
        // Not mounted, or not there: the pod did not come so far.
        Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
        Err(error) => return Err(host(format!("unmount {}", shared.display()))(error)),
    }
    if let Some(remove) = single.and_then(|single| single.remove.as_deref()) {
        remove_dir(remove)?;
    }
    remove_dir(state_dir)
}

fn remove_dir(path: &Path) -> Result<(), DaemonError> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(host(format!("remove {}", path.display()))(error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}
