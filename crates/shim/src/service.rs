//! containerd's Task API for one pod.

mod told;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use containerd_shim_protos::api::{
    self, CheckpointTaskRequest, CloseIORequest, ConnectRequest, ConnectResponse,
    CreateTaskRequest, CreateTaskResponse, DeleteRequest, DeleteResponse, ExecProcessRequest,
    KillRequest, PauseRequest, PidsRequest, PidsResponse, ResizePtyRequest, ResumeRequest,
    ShutdownRequest, StartRequest, StartResponse, StateRequest, StateResponse, StatsRequest,
    StatsResponse, Status as TaskStatus, UpdateTaskRequest, WaitRequest, WaitResponse,
};
use containerd_shim_protos::protobuf::MessageField;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::well_known_types::timestamp::Timestamp;
use containerd_shim_protos::shim_async::Task;
use hull_sandbox::mount::MountSpec;
use hull_sandbox::state::Status;
use hull_sandbox::stdio::StdioConfig;
use hull_sandbox::{CreateContainer, ExitStatus, Pod, Process, Roots, SandboxError};
use tokio::sync::{Notify, watch};
use ttrpc::r#async::TtrpcContext;

use crate::events::Events;
use crate::monitor;
use crate::order::Order;
use crate::rpc_status::rpc_error;
use crate::sandboxer;
use told::Told;

pub use told::tell_of_ooms;

/// How far the pod is: calls wait for its guest.
#[derive(Debug, Clone)]
pub enum Stage {
    /// The guest boots.
    Booting,
    /// The guest takes calls.
    Up(Arc<Pod>),
    /// The guest did not come up.
    Failed(Arc<SandboxError>),
}

impl Stage {
    /// The pod whose guest takes calls.
    pub(crate) fn pod(&self) -> Option<Arc<Pod>> {
        match self {
            Self::Up(pod) => Some(Arc::clone(pod)),
            Self::Booting | Self::Failed(_) => None,
        }
    }
}

/// The Task API of one pod.
#[derive(Debug, Clone)]
pub struct TaskService {
    stage: watch::Receiver<Stage>,
    shutdown: Arc<Notify>,
    told: Arc<Told>,
    state_dir: PathBuf,
    /// The container that stands for the pod.
    placeholder: Option<String>,
    /// How containers get their roots, as far as that is known before the pod is.
    roots: Option<Roots>,
    /// Files for containers that bring none: see [`CreateContainer::pod_files`].
    pod_files: Option<PathBuf>,
    /// Whether somebody counts on the pod: a container was asked for, or it is a sandbox by itself.
    is_used: Arc<AtomicBool>,
}

type Rpc<T> = ttrpc::Result<T>;

impl TaskService {
    /// Serves the pod that `order` asked for and `stage` tells of; `shutdown` is notified when a client asks for the end.
    pub(crate) fn new(
        stage: watch::Receiver<Stage>,
        shutdown: Arc<Notify>,
        events: Events,
        order: &Order,
        state_dir: &Path,
    ) -> Self {
        let (placeholder, roots, pod_files) = match order {
            Order::Given(config) => (config.placeholder.clone(), Some(config.roots.clone()), None),
            Order::Pending(_) => (None, None, Some(sandboxer::files_directory(state_dir))),
        };
        Self {
            state_dir: state_dir.to_owned(),
            roots,
            stage,
            shutdown,
            told: Arc::new(Told::new(events)),
            placeholder,
            is_used: Arc::new(AtomicBool::new(pod_files.is_some())),
            pod_files,
        }
    }

    async fn pod(&self) -> Rpc<Arc<Pod>> {
        up(&self.stage).await
    }
}

/// The pod, as soon as its guest is up.
pub(crate) async fn up(stage: &watch::Receiver<Stage>) -> Rpc<Arc<Pod>> {
    let mut stage = stage.clone();
    let stage = stage
        .wait_for(|stage| !matches!(stage, Stage::Booting))
        .await;
    match stage.as_deref() {
        Ok(Stage::Up(pod)) => Ok(Arc::clone(pod)),
        Ok(Stage::Failed(error)) => Err(rpc_error(error)),
        Ok(Stage::Booting) | Err(_) => Err(ttrpc::Error::RpcStatus(ttrpc::get_status(
            ttrpc::Code::UNAVAILABLE,
            "the pod process is ending",
        ))),
    }
}

/// containerd's cgroup v2 figures, from the encoded message.
pub(crate) fn metrics(encoded: Vec<u8>) -> Any {
    Any {
        type_url: "io.containerd.cgroups.v2.Metrics".to_owned(),
        value: encoded,
        ..Default::default()
    }
}

/// From nanoseconds since the epoch.
pub(crate) fn timestamp(at_ns: i64) -> MessageField<Timestamp> {
    MessageField::some(Timestamp {
        seconds: at_ns.div_euclid(1_000_000_000),
        nanos: i32::try_from(at_ns.rem_euclid(1_000_000_000)).unwrap_or_default(),
        ..Default::default()
    })
}

fn stdio(stdin: String, stdout: String, stderr: String, terminal: bool) -> StdioConfig {
    StdioConfig {
        stdin,
        stdout,
        stderr,
        terminal,
    }
}

/// Does what a client has asked for. A call is dropped when its connection ends, as it does when containerd is
/// killed: what changes a container must not be left half done by that.
async fn to_its_end<T: Send + 'static>(
    change: impl Future<Output = Rpc<T>> + Send + 'static,
) -> Rpc<T> {
    match tokio::spawn(change).await {
        Ok(outcome) => outcome,
        Err(error) => Err(ttrpc::Error::Others(error.to_string())),
    }
}

/// The answer to a call that needed the guest: that the machine has ended, if it has.
pub(crate) async fn answer<T>(pod: &Pod, outcome: Result<T, SandboxError>) -> Rpc<T> {
    pod.explain(outcome).await.map_err(|e| rpc_error(&e))
}

async fn process(pod: &Pod, id: &str, exec_id: &str) -> Rpc<Arc<Process>> {
    let container = pod.container(id).await.map_err(|e| rpc_error(&e))?;
    container.process(exec_id).map_err(|e| rpc_error(&e))
}

fn create_container(
    request: &CreateTaskRequest,
    pod_files: Option<PathBuf>,
) -> Rpc<CreateContainer> {
    let rootfs = request.rootfs.iter().map(|mount| MountSpec {
        kind: mount.type_.clone(),
        source: mount.source.clone(),
        options: mount.options.clone(),
    });
    let monitor = monitor::from_options(request.options.as_ref())?;
    Ok(CreateContainer {
        id: request.id.clone(),
        bundle: Path::new(&request.bundle).to_owned(),
        rootfs: rootfs.collect(),
        stdio: stdio(
            request.stdin.clone(),
            request.stdout.clone(),
            request.stderr.clone(),
            request.terminal,
        ),
        pod_files,
        monitor: monitor.process,
        notify_dir: monitor.notify_dir,
    })
}

#[async_trait]
impl Task for TaskService {
    async fn state(&self, _: &TtrpcContext, request: StateRequest) -> Rpc<StateResponse> {
        let pod = self.pod().await?;
        let container = pod
            .container(&request.id)
            .await
            .map_err(|e| rpc_error(&e))?;
        let process = container
            .process(&request.exec_id)
            .map_err(|e| rpc_error(&e))?;
        let status = match process.status() {
            Status::Created => TaskStatus::CREATED,
            Status::Running => TaskStatus::RUNNING,
            Status::Paused => TaskStatus::PAUSED,
            Status::Stopped => TaskStatus::STOPPED,
        };
        let stdio = process.stdio();
        let mut response = StateResponse {
            id: request.id,
            exec_id: request.exec_id,
            bundle: container.bundle().to_string_lossy().into_owned(),
            pid: process.pid(),
            status: status.into(),
            stdin: stdio.stdin.clone(),
            stdout: stdio.stdout.clone(),
            stderr: stdio.stderr.clone(),
            terminal: stdio.terminal,
            ..Default::default()
        };
        if let Some(exit) = process.exit() {
            response.exit_status = exit.code;
            response.exited_at = timestamp(exit.at_ns);
        }
        Ok(response)
    }

    async fn create(
        &self,
        _: &TtrpcContext,
        request: CreateTaskRequest,
    ) -> Rpc<CreateTaskResponse> {
        self.is_used.store(true, Ordering::Relaxed);
        let service = self.clone();
        to_its_end(async move {
            let create = create_container(&request, service.pod_files.clone())?;
            let (pod, container) = if service.placeholder.as_deref() == Some(&request.id) {
                let pod = service.pod().await?;
                let made = pod.create_placeholder(create).await;
                (pod, made)
            } else {
                let roots = match &service.roots {
                    Some(roots) => roots.clone(),
                    None => service.pod().await?.config().roots.clone(),
                };
                // While the guest boots.
                let prepared = create.prepare(roots, &service.state_dir).await;
                let prepared = prepared.map_err(|error| rpc_error(&error))?;
                let pod = service.pod().await?;
                let made = pod.create(prepared).await;
                (pod, made)
            };
            let container = answer(&pod, container).await?;
            service.told.created(&container, &request);
            Ok(CreateTaskResponse {
                pid: container.init().pid(),
                ..Default::default()
            })
        })
        .await
    }

    async fn start(&self, _: &TtrpcContext, request: StartRequest) -> Rpc<StartResponse> {
        let service = self.clone();
        to_its_end(async move {
            let pod = service.pod().await?;
            let process = process(&pod, &request.id, &request.exec_id).await?;
            let start = async {
                let started = pod.start_process(&request.id, &request.exec_id).await;
                answer(&pod, started).await
            };
            service.told.starting(&request.id, &process, start).await?;
            Ok(StartResponse {
                pid: process.pid(),
                ..Default::default()
            })
        })
        .await
    }

    async fn delete(&self, _: &TtrpcContext, request: DeleteRequest) -> Rpc<DeleteResponse> {
        let service = self.clone();
        to_its_end(async move {
            let pod = service.pod().await?;
            let process = pod
                .delete(&request.id, &request.exec_id)
                .await
                .map_err(|e| rpc_error(&e))?;
            let exit = process.exit().unwrap_or_else(ExitStatus::killed);
            service.told.deleted(&request.id, &process, &exit).await;
            Ok(DeleteResponse {
                pid: process.pid(),
                exit_status: exit.code,
                exited_at: timestamp(exit.at_ns),
                ..Default::default()
            })
        })
        .await
    }

    async fn pids(&self, _: &TtrpcContext, request: PidsRequest) -> Rpc<PidsResponse> {
        let pod = self.pod().await?;
        let pids = answer(&pod, pod.pids(&request.id).await).await?;
        let processes = pids.into_iter().map(|pid| {
            let mut info = containerd_shim_protos::types::task::ProcessInfo::new();
            info.pid = pid;
            info
        });
        Ok(PidsResponse {
            processes: processes.collect(),
            ..Default::default()
        })
    }

    async fn pause(&self, _: &TtrpcContext, request: PauseRequest) -> Rpc<api::Empty> {
        let service = self.clone();
        to_its_end(async move {
            let pod = service.pod().await?;
            answer(&pod, pod.pause(&request.id).await).await?;
            service.told.paused(&request.id);
            Ok(api::Empty::default())
        })
        .await
    }

    async fn resume(&self, _: &TtrpcContext, request: ResumeRequest) -> Rpc<api::Empty> {
        let service = self.clone();
        to_its_end(async move {
            let pod = service.pod().await?;
            answer(&pod, pod.resume(&request.id).await).await?;
            service.told.resumed(&request.id);
            Ok(api::Empty::default())
        })
        .await
    }

    async fn kill(&self, _: &TtrpcContext, request: KillRequest) -> Rpc<api::Empty> {
        let service = self.clone();
        to_its_end(async move {
            let pod = service.pod().await?;
            pod.kill(&request.id, &request.exec_id, request.signal, request.all)
                .await
                .map_err(|e| rpc_error(&e))?;
            Ok(api::Empty::default())
        })
        .await
    }

    async fn exec(&self, _: &TtrpcContext, request: ExecProcessRequest) -> Rpc<api::Empty> {
        let service = self.clone();
        to_its_end(async move {
            let pod = service.pod().await?;
            let spec = request.spec.into_option().unwrap_or_default();
            let (process, monitor) = monitor::from_process_spec(spec)?;
            let stdio = stdio(
                request.stdin,
                request.stdout,
                request.stderr,
                request.terminal,
            );
            pod.exec(&request.id, &request.exec_id, process, stdio, monitor)
                .await
                .map_err(|e| rpc_error(&e))?;
            service.told.exec_added(&request.id, &request.exec_id);
            Ok(api::Empty::default())
        })
        .await
    }

    async fn resize_pty(&self, _: &TtrpcContext, request: ResizePtyRequest) -> Rpc<api::Empty> {
        let pod = self.pod().await?;
        let resized = pod
            .resize(&request.id, &request.exec_id, request.width, request.height)
            .await;
        answer(&pod, resized).await?;
        Ok(api::Empty::default())
    }

    async fn close_io(&self, _: &TtrpcContext, request: CloseIORequest) -> Rpc<api::Empty> {
        let pod = self.pod().await?;
        let process = process(&pod, &request.id, &request.exec_id).await?;
        if request.stdin {
            process.close_stdin();
        }
        Ok(api::Empty::default())
    }

    async fn update(&self, _: &TtrpcContext, request: UpdateTaskRequest) -> Rpc<api::Empty> {
        let pod = self.pod().await?;
        let resources = request.resources.into_option().unwrap_or_default().value;
        answer(&pod, pod.update(&request.id, resources).await).await?;
        Ok(api::Empty::default())
    }

    async fn wait(&self, _: &TtrpcContext, request: WaitRequest) -> Rpc<WaitResponse> {
        let pod = self.pod().await?;
        let process = process(&pod, &request.id, &request.exec_id).await?;
        let exit = process.wait().await;
        Ok(WaitResponse {
            exit_status: exit.code,
            exited_at: timestamp(exit.at_ns),
            ..Default::default()
        })
    }

    async fn stats(&self, _: &TtrpcContext, request: StatsRequest) -> Rpc<StatsResponse> {
        let pod = self.pod().await?;
        let stats = answer(&pod, pod.stats(&request.id).await).await?;
        Ok(StatsResponse {
            stats: MessageField::some(metrics(stats.metrics)),
            ..Default::default()
        })
    }

    async fn checkpoint(&self, _: &TtrpcContext, _: CheckpointTaskRequest) -> Rpc<api::Empty> {
        let unsupported = SandboxError::Unsupported("checkpoints of a container");
        Err(rpc_error(&unsupported))
    }

    /// Who asks this for a container before any was asked for is a containerd that was killed in between and has
    /// come back: it will never ask for one, and 1.6 leaves such a pod alone.
    async fn connect(&self, _: &TtrpcContext, request: ConnectRequest) -> Rpc<ConnectResponse> {
        let pod = self.pod().await?;
        let task_pid = match &*request.id {
            // Who only wants to know whether the guest is up.
            "" => 0,
            _ if self.told.is_heard() && !self.is_used.load(Ordering::Relaxed) => {
                self.shutdown.notify_one();
                0
            }
            id => process(&pod, id, "").await?.pid(),
        };
        Ok(ConnectResponse {
            shim_pid: std::process::id(),
            task_pid,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..Default::default()
        })
    }

    /// containerd asks after every container that it has deleted; the pod ends with the last one.
    async fn shutdown(&self, _: &TtrpcContext, request: ShutdownRequest) -> Rpc<api::Empty> {
        let pod = self.stage.borrow().pod();
        let in_use = match pod {
            Some(pod) => pod.has_containers().await,
            None => false,
        };
        if request.now || !in_use {
            self.shutdown.notify_one();
        }
        Ok(api::Empty::default())
    }
}
