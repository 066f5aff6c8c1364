//! How front ends start a pod process, reach one and call it.

mod pod;
pub mod report;
pub mod signals;
pub mod terminal;

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use command_fds::CommandFdExt;
use containerd_shim_protos::api::ConnectRequest;
use containerd_shim_protos::shim_async::TaskClient;
use hull_config::LogLevel;
use hull_vm::VmError;
use hull_vm::process::{Process, ProcessRecord, listen, require_program};
use nix::fcntl::{Flock, FlockArg};
use tokio::net::UnixStream;
use tokio::process::Command;
use ttrpc::asynchronous::Client;
use ttrpc::asynchronous::transport::Socket;
use ttrpc::context::with_timeout;

pub use crate::monitor::Monitor;
pub use pod::{Exit, Pod, PodError, end};

/// File name of the pod process's program.
pub const PROGRAM: &str = "containerd-shim-hull-v2";

/// Why a pod process could not be reached.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// A socket or process operation failed.
    #[error("cannot {action}")]
    Host {
        /// What was tried.
        action: String,
        /// Why it failed.
        source: io::Error,
    },
    /// A program or socket of ours.
    #[error(transparent)]
    Vm(#[from] VmError),
    /// Neither the pod process nor its virtual machine runs.
    #[error("no pod runs in {}", .0.display())]
    NotRunning(PathBuf),
}

fn host(action: impl Into<String>) -> impl FnOnce(io::Error) -> ClientError {
    let action = action.into();
    move |source| ClientError::Host { action, source }
}

/// How a pod process is started.
#[derive(Debug, Default)]
pub struct Start {
    /// The read end of a pipe whose writer's end ends the pod, unless a byte was written.
    pub lifeline: Option<OwnedFd>,
    /// The engine that wants the pod.
    pub engine: Option<Engine>,
}

/// The engine that a pod process works for.
#[derive(Debug)]
pub struct Engine {
    /// Its namespace.
    pub namespace: String,
    /// Socket of its Events service.
    pub events: Option<PathBuf>,
    /// FIFO from which it reads the pod process's log.
    pub log: PathBuf,
    /// How much of it.
    pub log_level: LogLevel,
}

/// A connection to a pod process.
#[derive(Clone)]
pub struct PodProcess {
    socket: PathBuf,
    task: TaskClient,
    /// Not known when it was gone before it could say so.
    process: Option<Arc<Process>>,
}

impl std::fmt::Debug for PodProcess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PodProcess")
            .field("socket", &self.socket)
            .finish_non_exhaustive()
    }
}

/// The Task API's socket of the pod in `state_dir`.
#[must_use]
pub fn socket(state_dir: &Path) -> PathBuf {
    state_dir.join("task.sock")
}

impl PodProcess {
    /// Starts a pod process for the `pod.json` in `state_dir` and connects to it. It lives on when
    /// this process ends, unless a lifeline says otherwise.
    ///
    /// # Errors
    /// When the program is missing or cannot be started.
    pub async fn start(state_dir: &Path, start: Start) -> Result<Self, ClientError> {
        let pid = spawn(state_dir, start, false)?;
        Self::reach(state_dir, Some(pid)).await
    }

    /// Connects to the pod process of `state_dir`; when it is gone and its virtual machine is not,
    /// starts it again first.
    ///
    /// # Errors
    /// [`ClientError::NotRunning`] when there is no pod any more.
    pub async fn connect(state_dir: &Path) -> Result<Self, ClientError> {
        match Self::dial(state_dir).await {
            Ok(pod) => Ok(pod),
            Err(_) if hull_sandbox::live_vmm(state_dir).is_some() => {
                Self::start_again(state_dir).await
            }
            Err(_) => Err(ClientError::NotRunning(state_dir.to_owned())),
        }
    }

    /// Of several who find it gone at a time, the first starts it: two would take the same machine over.
    async fn start_again(state_dir: &Path) -> Result<Self, ClientError> {
        let failed = || host(format!("lock {}", state_dir.display()));
        let gone = || ClientError::NotRunning(state_dir.to_owned());
        let dir = match std::fs::File::open(state_dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(gone()),
            dir => dir.map_err(failed())?,
        };
        let lock = tokio::task::spawn_blocking(|| Flock::lock(dir, FlockArg::LockExclusive)).await;
        let _held = lock
            .map_err(|error| failed()(error.into()))?
            .map_err(|(_, error)| failed()(error.into()))?;
        if let Ok(pod) = Self::dial(state_dir).await {
            return Ok(pod);
        }
        if hull_sandbox::live_vmm(state_dir).is_none() {
            return Err(gone());
        }
        let pid = spawn(state_dir, Start::default(), true)?;
        Self::reach(state_dir, Some(pid)).await
    }

    /// Connects to the pod process of `state_dir`.
    ///
    /// # Errors
    /// When there is none.
    pub async fn dial(state_dir: &Path) -> Result<Self, ClientError> {
        Self::reach(state_dir, None).await
    }

    async fn reach(state_dir: &Path, pid: Option<u32>) -> Result<Self, ClientError> {
        let socket = socket(state_dir);
        let stream = UnixStream::connect(&socket)
            .await
            .map_err(host(format!("connect to {}", socket.display())))?;
        let task = TaskClient::new(Client::new(Socket::new(stream)));
        let pid = match pid {
            Some(pid) => Some(pid),
            // The socket's credentials would be those of whoever made it.
            None => {
                let answer = task
                    .connect(with_timeout(0), &ConnectRequest::default())
                    .await;
                match answer {
                    Ok(answer) => Some(answer.shim_pid),
                    // One whose pod did not come up says why to whoever asks for more.
                    Err(ttrpc::Error::RpcStatus(_)) => None,
                    // One that was killed may take a connection before it is gone.
                    Err(error) => {
                        let what = format!("be answered at {}", socket.display());
                        return Err(host(what)(io::Error::other(error)));
                    }
                }
            }
        };
        Ok(Self {
            process: pid.and_then(watch).map(Arc::new),
            task,
            socket,
        })
    }

    /// The Task API.
    #[must_use]
    pub fn task(&self) -> &TaskClient {
        &self.task
    }

    /// Completes when the pod process has ended and left nothing, at once if it has.
    pub async fn gone(&self) {
        if let Some(process) = &self.process {
            process.wait().await;
        }
    }
}

/// A process that has ended already has nothing to watch.
fn watch(pid: u32) -> Option<Process> {
    let record = ProcessRecord::of(i32::try_from(pid).ok()?).ok()?;
    Process::attach(record, PROGRAM).ok()
}

fn spawn(state_dir: &Path, start: Start, attach: bool) -> Result<u32, ClientError> {
    let program = require_program(PROGRAM, "it belongs beside hull: install Hull again")?;
    let listener = listen(&socket(state_dir))?;
    let log_path = state_dir.join("pod.log");
    let log = std::fs::File::options()
        .create(true)
        .append(true)
        .open(&log_path)
        .map_err(host(format!("open {}", log_path.display())))?;
    let mut command = Command::new(program);
    command
        .arg("pod")
        .arg("--state-dir")
        .arg(state_dir)
        .arg("--socket-fd")
        .arg(listener.as_raw_fd().to_string());
    if attach {
        command.arg("--attach");
    }
    if let Some(lifeline) = &start.lifeline {
        command
            .arg("--lifeline-fd")
            .arg(lifeline.as_raw_fd().to_string());
    }
    if let Some(engine) = start.engine {
        command.args(["--namespace", &engine.namespace]);
        if let Some(events) = engine.events {
            command.arg("--events").arg(events);
        }
        command.arg("--log-fifo").arg(engine.log);
        if std::env::var_os("HULL_LOG").is_none() {
            command.env("HULL_LOG", engine.log_level.as_str());
        }
        // The bundle goes before the pod process does.
        command.current_dir("/");
    }
    command.preserved_fds(start.lifeline.into_iter().chain([listener]).collect());
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .map_err(host(format!("start {PROGRAM}")))
        .map(|child| child.id().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[tokio::test]
    async fn a_connection_that_ends_without_an_answer_is_none() {
        let dir = tempfile::tempdir().unwrap();
        // As a process that has been killed: its socket takes connections until it is gone.
        let listener = UnixListener::bind(socket(dir.path())).unwrap();
        let taken = std::thread::spawn(move || {
            for stream in listener.incoming().take(2) {
                drop(stream.unwrap());
            }
        });
        assert!(PodProcess::dial(dir.path()).await.is_err());
        // Nothing of the pod runs, so nothing is started again.
        let connected = PodProcess::connect(dir.path()).await;
        assert!(matches!(connected, Err(ClientError::NotRunning(_))));
        taken.join().unwrap();
    }
}
