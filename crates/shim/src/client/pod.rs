//! Calls to a pod process, with errors that say what was asked.

use std::os::fd::OwnedFd;
use std::path::Path;

use containerd_shim_protos::api::{self, Status as TaskStatus};
use containerd_shim_protos::protobuf::MessageField;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::shim_async::TaskClient;
use containerd_shim_protos::types::mount::Mount;
use hull_agent_api::failure::{self, Reason};
use hull_sandbox::mount::MountSpec;
use hull_sandbox::state::Status;
use hull_sandbox::stdio::StdioConfig;
use hull_vm::process::ProcessRecord;
use ttrpc::context::{self, Context};

use super::{ClientError, PodProcess, Start};
use crate::monitor::{self, Monitor};

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum PodError {
    /// The pod process cannot be started or reached.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The pod process refused.
    #[error("{}", message(.0))]
    Refused(ttrpc::Error),
}

/// The text of a status; ttrpc's own has its fields in it.
fn message(error: &ttrpc::Error) -> String {
    match error {
        ttrpc::Error::RpcStatus(status) => status.message().to_owned(),
        other => format!("the pod process does not answer: {other}"),
    }
}

impl PodError {
    /// Whether the pod process itself has said so, and did not break off.
    #[must_use]
    pub fn is_answer(&self) -> bool {
        matches!(self, Self::Refused(ttrpc::Error::RpcStatus(_)))
    }

    /// Why a program cannot be run, where the guest says so.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        match self {
            Self::Refused(error) => failure::reason(error),
            Self::Client(_) => None,
        }
    }

    /// The exit code with which a shell would report the same, where there is one.
    #[must_use]
    pub fn exit_code(&self) -> Option<u8> {
        self.reason().and_then(failure::exit_code)
    }

    /// The container or process is not there, or not any more.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        match self {
            Self::Refused(ttrpc::Error::RpcStatus(status)) => {
                status.code() == ttrpc::Code::NOT_FOUND
            }
            Self::Client(ClientError::NotRunning(_)) => true,
            Self::Refused(_) | Self::Client(_) => false,
        }
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// Exit code, or 128 plus a signal's number.
    pub code: u32,
}

/// A connection to the pod process of one container.
#[derive(Debug, Clone)]
pub struct Pod {
    process: PodProcess,
    id: String,
}

type Result<T> = std::result::Result<T, PodError>;

/// Ends what may run in a state directory, and waits for its end.
pub async fn end(state_dir: &Path) {
    // A pod that cannot be reached has ended.
    if let Ok(process) = PodProcess::connect(state_dir).await {
        let pod = Pod {
            process,
            id: String::new(),
        };
        pod.shutdown().await;
    }
}

/// Calls that may take as long as they take: a boot, a person's program.
fn whenever() -> Context {
    context::with_timeout(0)
}

impl Pod {
    /// Starts the pod process for the `pod.json` in `state_dir`.
    pub async fn start(state_dir: &Path, id: &str, lifeline: Option<OwnedFd>) -> Result<Self> {
        let start = Start {
            lifeline,
            ..Start::default()
        };
        let process = PodProcess::start(state_dir, start).await?;
        Ok(Self {
            process,
            id: id.to_owned(),
        })
    }

    /// Connects to a running pod.
    pub async fn connect(state_dir: &Path, id: &str) -> Result<Self> {
        let process = PodProcess::connect(state_dir).await?;
        Ok(Self {
            process,
            id: id.to_owned(),
        })
    }

    fn task(&self) -> &TaskClient {
        self.process.task()
    }

    /// Makes the container; answers when its guest is up and its program was found. `monitor` is what
    /// stands for it on the host.
    pub async fn create(
        &self,
        bundle: &Path,
        rootfs: &[MountSpec],
        stdio: StdioConfig,
        monitor: Option<&Monitor>,
    ) -> Result<()> {
        let rootfs = rootfs.iter().map(|mount| Mount {
            type_: mount.kind.clone(),
            source: mount.source.clone(),
            options: mount.options.clone(),
            ..Mount::default()
        });
        let request = api::CreateTaskRequest {
            id: self.id.clone(),
            bundle: bundle.to_string_lossy().into_owned(),
            rootfs: rootfs.collect(),
            terminal: stdio.terminal,
            stdin: stdio.stdin,
            stdout: stdio.stdout,
            stderr: stdio.stderr,
            options: monitor.map(monitor::to_options).into(),
            ..Default::default()
        };
        let created = self.task().create(whenever(), &request).await;
        created.map(drop).map_err(PodError::Refused)
    }

    /// Lets a process run: init for the empty id.
    pub async fn start_process(&self, exec_id: &str) -> Result<()> {
        let request = api::StartRequest {
            id: self.id.clone(),
            exec_id: exec_id.to_owned(),
            ..Default::default()
        };
        let started = self.task().start(whenever(), &request).await;
        started.map(drop).map_err(PodError::Refused)
    }

    /// The state of a process: init for the empty id.
    ///
    /// # Errors
    /// When there is none.
    pub async fn status(&self, exec_id: &str) -> Result<Status> {
        let request = api::StateRequest {
            id: self.id.clone(),
            exec_id: exec_id.to_owned(),
            ..Default::default()
        };
        let answer = self.task().state(whenever(), &request).await;
        Ok(
            match answer.map_err(PodError::Refused)?.status.enum_value() {
                Ok(TaskStatus::CREATED) => Status::Created,
                Ok(TaskStatus::PAUSED | TaskStatus::PAUSING) => Status::Paused,
                Ok(TaskStatus::STOPPED) => Status::Stopped,
                Ok(TaskStatus::RUNNING | TaskStatus::UNKNOWN) | Err(_) => Status::Running,
            },
        )
    }

    /// Freezes the container.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn pause(&self) -> Result<()> {
        let request = api::PauseRequest {
            id: self.id.clone(),
            ..Default::default()
        };
        let paused = self.task().pause(whenever(), &request).await;
        paused.map(drop).map_err(PodError::Refused)
    }

    /// Lets a frozen container go on.
    ///
    /// # Errors
    /// When it is not frozen.
    pub async fn resume(&self) -> Result<()> {
        let request = api::ResumeRequest {
            id: self.id.clone(),
            ..Default::default()
        };
        let resumed = self.task().resume(whenever(), &request).await;
        resumed.map(drop).map_err(PodError::Refused)
    }

    /// Changes the container's limits; what is not named stays.
    ///
    /// # Errors
    /// When the guest refuses.
    pub async fn update(&self, resources: &oci_spec::runtime::LinuxResources) -> Result<()> {
        let resources = Any {
            type_url: "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources".to_owned(),
            value: serde_json::to_vec(resources).expect("resources encode"),
            ..Default::default()
        };
        let request = api::UpdateTaskRequest {
            id: self.id.clone(),
            resources: MessageField::some(resources),
            ..Default::default()
        };
        let updated = self.task().update(whenever(), &request).await;
        updated.map(drop).map_err(PodError::Refused)
    }

    /// Adds a process; `process` is an OCI `process` object, and `monitor` what stands for it on the host, if anything
    /// does.
    pub async fn exec(
        &self,
        exec_id: &str,
        process: &oci_spec::runtime::Process,
        stdio: StdioConfig,
        monitor: Option<ProcessRecord>,
    ) -> Result<()> {
        let spec = monitor::to_process_spec(process, monitor);
        let request = api::ExecProcessRequest {
            id: self.id.clone(),
            exec_id: exec_id.to_owned(),
            terminal: stdio.terminal,
            stdin: stdio.stdin,
            stdout: stdio.stdout,
            stderr: stdio.stderr,
            spec: MessageField::some(spec),
            ..Default::default()
        };
        let added = self.task().exec(whenever(), &request).await;
        added.map(drop).map_err(PodError::Refused)
    }

    /// Completes when a process has ended and its output has been passed on.
    pub async fn wait(&self, exec_id: &str) -> Result<Exit> {
        let request = api::WaitRequest {
            id: self.id.clone(),
            exec_id: exec_id.to_owned(),
            ..Default::default()
        };
        let answer = self.task().wait(whenever(), &request).await;
        let answer = answer.map_err(PodError::Refused)?;
        Ok(Exit {
            code: answer.exit_status,
        })
    }

    /// Sends a signal to a process, or to all of the container.
    pub async fn kill(&self, exec_id: &str, signal: u32, all: bool) -> Result<()> {
        let request = api::KillRequest {
            id: self.id.clone(),
            exec_id: exec_id.to_owned(),
            signal,
            all,
            ..Default::default()
        };
        let killed = self.task().kill(whenever(), &request).await;
        killed.map(drop).map_err(PodError::Refused)
    }

    /// Gives a process's terminal its size.
    pub async fn resize(&self, exec_id: &str, columns: u16, rows: u16) -> Result<()> {
        let request = api::ResizePtyRequest {
            id: self.id.clone(),
            exec_id: exec_id.to_owned(),
            width: columns.into(),
            height: rows.into(),
            ..Default::default()
        };
        let resized = self.task().resize_pty(whenever(), &request).await;
        resized.map(drop).map_err(PodError::Refused)
    }

    /// Forgets a process that has ended.
    pub async fn delete(&self, exec_id: &str) -> Result<()> {
        let request = api::DeleteRequest {
            id: self.id.clone(),
            exec_id: exec_id.to_owned(),
            ..Default::default()
        };
        let deleted = self.task().delete(whenever(), &request).await;
        deleted.map(drop).map_err(PodError::Refused)
    }

    /// The container's figures: an encoded `io.containerd.cgroups.v2.Metrics`.
    pub async fn stats(&self) -> Result<Vec<u8>> {
        let request = api::StatsRequest {
            id: self.id.clone(),
            ..Default::default()
        };
        let answer = self.task().stats(whenever(), &request).await;
        let answer = answer.map_err(PodError::Refused)?;
        Ok(answer.stats.into_option().unwrap_or_default().value)
    }

    /// Process id of the pod process on the host.
    pub async fn pod_pid(&self) -> Result<u32> {
        let request = api::ConnectRequest {
            id: self.id.clone(),
            ..Default::default()
        };
        let answer = self.task().connect(whenever(), &request).await;
        answer
            .map(|answer| answer.shim_pid)
            .map_err(PodError::Refused)
    }

    /// Ends the pod and completes when nothing of it is left.
    pub async fn shutdown(&self) {
        let request = api::ShutdownRequest {
            id: self.id.clone(),
            now: true,
            ..Default::default()
        };
        // A pod process that does not answer has ended, or is about to; it is waited for next.
        let _ = self.task().shutdown(whenever(), &request).await;
        self.gone().await;
    }

    /// Completes when the pod process has ended, and so nothing of the pod is left.
    pub async fn gone(&self) {
        self.process.gone().await;
    }
}

impl PodError {
    /// After a connection that broke: connects again, which also starts a pod process again whose
    /// virtual machine lives. An answer of the pod process stays what it is.
    pub async fn reconnect(self, pod: &mut Pod, state_dir: &Path) -> Result<()> {
        if self.is_answer() {
            return Err(self);
        }
        pod.process = PodProcess::connect(state_dir).await?;
        Ok(())
    }
}
