//! containerd's Sandbox API (`containerd.runtime.sandbox.v1.Sandbox`), for its sandboxer `shim`: the pod process
//! is started before anybody has said what the pod shall be, and told then.
//!
//! To everything behind it the sandbox is a container without a process that stands for the pod, as the one of
//! containerd's default sandboxer is; only that nobody calls the Task API for it.

mod cri;
mod files;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};

use async_trait::async_trait;
use containerd_shim_protos::protobuf::MessageField;
use containerd_shim_protos::sandbox_api::{
    CreateSandboxRequest, CreateSandboxResponse, PingRequest, PingResponse, PlatformRequest,
    PlatformResponse, SandboxMetricsRequest, SandboxMetricsResponse, SandboxStatusRequest,
    SandboxStatusResponse, ShutdownSandboxRequest, ShutdownSandboxResponse, StartSandboxRequest,
    StartSandboxResponse, StopSandboxRequest, StopSandboxResponse, WaitSandboxRequest,
    WaitSandboxResponse,
};
use containerd_shim_protos::sandbox_async::Sandbox;
use containerd_shim_protos::types::platform::Platform;
use hull_sandbox::process::now_ns;
use hull_sandbox::state::Status;
use hull_sandbox::stdio::StdioConfig;
use hull_sandbox::{CreateContainer, Pod, PodConfig, Process, SandboxError};
use tokio::sync::{Notify, oneshot, watch};
use ttrpc::r#async::TtrpcContext;

pub use crate::order::PendingPod;
use crate::rpc_status::{invalid, rpc_error};
use crate::service::{Stage, answer, metrics, timestamp, up};

pub use files::directory as files_directory;

type Rpc<T> = ttrpc::Result<T>;

/// The Sandbox API of one pod.
#[derive(Debug)]
pub struct SandboxService {
    pending: PendingPod,
    state_dir: PathBuf,
    /// Where the pod's configuration goes when it is known: once.
    decided: Mutex<Option<oneshot::Sender<PodConfig>>>,
    stage: watch::Receiver<Stage>,
    shutdown: Arc<Notify>,
    /// When the pod was started, nanoseconds since the epoch.
    started: OnceLock<i64>,
}

impl SandboxService {
    /// Serves the pod of `pending`, whose configuration goes to `decided`. `stage` tells how far it is, and
    /// `shutdown` is notified when containerd asks for the end.
    #[must_use]
    pub fn new(
        pending: PendingPod,
        state_dir: PathBuf,
        decided: oneshot::Sender<PodConfig>,
        stage: watch::Receiver<Stage>,
        shutdown: Arc<Notify>,
    ) -> Self {
        Self {
            pending,
            state_dir,
            decided: Mutex::new(Some(decided)),
            stage,
            shutdown,
            started: OnceLock::new(),
        }
    }

    fn check_id(&self, id: &str) -> Rpc<()> {
        match id == self.pending.id {
            true => Ok(()),
            false => Err(rpc_error(&SandboxError::NotFound {
                kind: "sandbox",
                id: id.to_owned(),
            })),
        }
    }

    /// The pod and what stands for it, as soon as its guest is up.
    async fn sandbox(&self) -> Rpc<(Arc<Pod>, Arc<Process>)> {
        let pod = up(&self.stage).await?;
        let container = pod
            .container(&self.pending.id)
            .await
            .map_err(|e| rpc_error(&e))?;
        let init = Arc::clone(container.init());
        Ok((pod, init))
    }

    /// Makes what stands for the pod, in a guest that is up.
    async fn stand_in(&self, pod: &Arc<Pod>) -> Result<Arc<Process>, SandboxError> {
        let request = CreateContainer {
            id: self.pending.id.clone(),
            bundle: self.pending.bundle.clone(),
            rootfs: Vec::new(),
            stdio: StdioConfig::default(),
            pod_files: None,
            monitor: None,
            notify_dir: None,
        };
        let container = pod.create_placeholder(request).await?;
        pod.start_process(&self.pending.id, "").await?;
        Ok(Arc::clone(container.init()))
    }
}

#[async_trait]
impl Sandbox for SandboxService {
    async fn create_sandbox(
        &self,
        _: &TtrpcContext,
        request: CreateSandboxRequest,
    ) -> Rpc<CreateSandboxResponse> {
        self.check_id(&request.sandbox_id)?;
        let config = cri::configure(&self.pending, &self.state_dir, &request)?;
        let decided = {
            let mut decided = self.decided.lock().expect("no holder of this lock panics");
            decided.take()
        };
        let decided = decided.ok_or_else(|| {
            rpc_error(&SandboxError::AlreadyExists {
                kind: "sandbox",
                id: request.sandbox_id,
            })
        })?;
        config.write(&self.state_dir).map_err(|e| rpc_error(&e))?;
        // The guest boots from now on. When nobody takes it, the pod process is ending.
        let _ = decided.send(config);
        Ok(CreateSandboxResponse::default())
    }

    async fn start_sandbox(
        &self,
        _: &TtrpcContext,
        request: StartSandboxRequest,
    ) -> Rpc<StartSandboxResponse> {
        self.check_id(&request.sandbox_id)?;
        if self.decided.lock().is_ok_and(|decided| decided.is_some()) {
            return Err(invalid("the sandbox was not created"));
        }
        let pod = up(&self.stage).await?;
        let init = self.stand_in(&pod).await.map_err(|e| rpc_error(&e))?;
        let started = *self.started.get_or_init(now_ns);
        Ok(StartSandboxResponse {
            pid: init.pid(),
            created_at: timestamp(started),
            ..Default::default()
        })
    }

    async fn platform(&self, _: &TtrpcContext, request: PlatformRequest) -> Rpc<PlatformResponse> {
        self.check_id(&request.sandbox_id)?;
        let platform = Platform {
            os: "linux".to_owned(),
            architecture: match std::env::consts::ARCH {
                "x86_64" => "amd64",
                "aarch64" => "arm64",
                other => other,
            }
            .to_owned(),
            ..Default::default()
        };
        Ok(PlatformResponse {
            platform: MessageField::some(platform),
            ..Default::default()
        })
    }

    async fn stop_sandbox(
        &self,
        _: &TtrpcContext,
        request: StopSandboxRequest,
    ) -> Rpc<StopSandboxResponse> {
        self.check_id(&request.sandbox_id)?;
        // One that does not boot has nothing that could be stopped in good order.
        let pod = self.stage.borrow().pod();
        if let Some(pod) = pod {
            pod.end().await;
        }
        Ok(StopSandboxResponse::default())
    }

    async fn wait_sandbox(
        &self,
        _: &TtrpcContext,
        request: WaitSandboxRequest,
    ) -> Rpc<WaitSandboxResponse> {
        self.check_id(&request.sandbox_id)?;
        let (_, init) = self.sandbox().await?;
        let exit = init.wait().await;
        Ok(WaitSandboxResponse {
            exit_status: exit.code,
            exited_at: timestamp(exit.at_ns),
            ..Default::default()
        })
    }

    async fn sandbox_status(
        &self,
        _: &TtrpcContext,
        request: SandboxStatusRequest,
    ) -> Rpc<SandboxStatusResponse> {
        self.check_id(&request.sandbox_id)?;
        let mut response = SandboxStatusResponse {
            sandbox_id: request.sandbox_id,
            state: "SANDBOX_NOTREADY".to_owned(),
            ..Default::default()
        };
        if let Some(started) = self.started.get() {
            response.created_at = timestamp(*started);
            let (pod, init) = self.sandbox().await?;
            response.pid = init.pid();
            if init.status() == Status::Running {
                response.state = "SANDBOX_READY".to_owned();
            }
            if let Some(exit) = init.exit() {
                response.exited_at = timestamp(exit.at_ns);
            }
            if request.verbose {
                let config = serde_json::to_string(pod.config()).expect("plain data encodes");
                response.info.insert("info".to_owned(), config);
            }
        }
        Ok(response)
    }

    async fn ping_sandbox(&self, _: &TtrpcContext, request: PingRequest) -> Rpc<PingResponse> {
        self.check_id(&request.sandbox_id)?;
        Ok(PingResponse::default())
    }

    async fn shutdown_sandbox(
        &self,
        _: &TtrpcContext,
        request: ShutdownSandboxRequest,
    ) -> Rpc<ShutdownSandboxResponse> {
        self.check_id(&request.sandbox_id)?;
        self.shutdown.notify_one();
        Ok(ShutdownSandboxResponse::default())
    }

    async fn sandbox_metrics(
        &self,
        _: &TtrpcContext,
        request: SandboxMetricsRequest,
    ) -> Rpc<SandboxMetricsResponse> {
        self.check_id(&request.sandbox_id)?;
        let (pod, _) = self.sandbox().await?;
        let stats = answer(&pod, pod.stats(&request.sandbox_id).await).await?;
        let mut response = SandboxMetricsResponse::default();
        // Its type has no public name.
        let metric = response.metrics.mut_or_insert_default();
        metric.timestamp = timestamp(now_ns());
        metric.id = request.sandbox_id;
        metric.data = MessageField::some(metrics(stats.metrics));
        Ok(response)
    }
}
