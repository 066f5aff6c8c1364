//! From a bundle to a running container, and to its end.

use std::io::{self, PipeWriter, Write};
use std::path::{Path, PathBuf};

use hull_sandbox::stdio::StdioConfig;
use hull_sandbox::{ExitRecord, ExitStatus, PodConfig, SandboxError};
use hull_vm::process::ProcessRecord;

use crate::container::{
    Container, ContainerDir, ContainerLock, Phase, StoreError, create_dir, read_json, write_json,
};
use crate::stdio::{AttachError, Attached, Ended, Fifos, Signals, Streams};
use crate::timestamp::Timestamp;
use hull_shim::client::{self, Pod, PodError};

/// Why a container did not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LaunchError {
    #[error(transparent)]
    Pod(#[from] PodError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Attach(#[from] AttachError),
    #[error(transparent)]
    Config(#[from] SandboxError),
    /// A pipe or FIFO.
    #[error("cannot prepare the container's streams")]
    Streams(#[source] io::Error),
    /// A signal came before the command ran.
    #[error("interrupted by signal {0} before the command ran")]
    Interrupted(u32),
    /// The virtual machine ended, not the command.
    #[error("{}", failure(.0))]
    Failed(ExitRecord),
}

fn failure(record: &ExitRecord) -> String {
    let mut text = record
        .failure
        .clone()
        .unwrap_or_else(|| "the pod ended".to_owned());
    for line in &record.console {
        text.push_str("\n  | ");
        text.push_str(line);
    }
    text
}

impl LaunchError {
    /// The exit code that says it best; nothing for hull's own failures.
    pub(crate) fn exit_code(&self) -> Option<u8> {
        match self {
            Self::Pod(error) => error.exit_code(),
            Self::Interrupted(signal) => u8::try_from(128 + signal).ok(),
            Self::Store(_)
            | Self::Attach(_)
            | Self::Config(_)
            | Self::Streams(_)
            | Self::Failed(_) => None,
        }
    }
}

/// A pod that boots. When this is dropped before [`Launch::release`], the pod ends.
#[derive(Debug)]
pub(crate) struct Launch {
    pod: Pod,
    lifeline: PipeWriter,
    /// Where the pod process says how the pod ended, when nobody but this process reads it.
    own_exit_file: Option<PathBuf>,
}

/// Ended because its standard output was closed: what a shell reports of a program that SIGPIPE ends.
const OUTPUT_CLOSED: u32 = 128 + 13;

/// Ended by SIGKILL, as the kernel ends what takes too much memory.
const KILLED: u32 = 128 + 9;

fn out_of_memory(record: &ExitRecord) -> bool {
    record.exit.is_some_and(|exit| exit.oom_killed)
}

impl Launch {
    /// Starts the pod process; the guest boots from now on.
    pub(crate) async fn begin(dir: &ContainerDir, config: &PodConfig) -> Result<Self, LaunchError> {
        create_dir(&dir.state)?;
        config.write(&dir.state)?;
        let (held, lifeline) = io::pipe().map_err(LaunchError::Streams)?;
        let pod = Pod::start(&dir.state, dir.id(), Some(held.into())).await?;
        let exit_file = config.single.as_ref().map(|single| &single.exit_file);
        Ok(Self {
            pod,
            lifeline,
            own_exit_file: exit_file.filter(|file| **file != dir.exit()).cloned(),
        })
    }

    /// Ends the pod and waits for it.
    pub(crate) async fn abort(self) -> Result<(), StoreError> {
        self.pod.shutdown().await;
        take_record(self.own_exit_file.as_deref()).map(drop)
    }

    /// Makes and starts the container with this program's streams, and stays until it has ended.
    /// Answers with its exit code.
    pub(crate) async fn attached(
        self,
        mut container: Container,
        lock: ContainerLock,
        signals: &mut Signals,
    ) -> Result<u32, LaunchError> {
        let settings = container.settings()?;
        let streams = Streams {
            interactive: settings.interactive,
            terminal: settings.tty,
        };
        let made = Fifos::create(
            &container.dir.state,
            "",
            streams.interactive,
            streams.terminal,
        );
        let prepared = made.map_err(LaunchError::Streams);
        let mut fifos = match prepared {
            Ok(fifos) => fifos,
            Err(error) => return Err(self.fail(&mut container, error).await),
        };
        let started = tokio::select! {
            started = self.start_attached(&container, &mut fifos, streams) => started,
            signal = signals.interrupted() => Err(LaunchError::Interrupted(signal)),
        };
        let attached = match started {
            Ok(attached) => attached,
            Err(error) => return Err(self.fail(&mut container, error).await),
        };
        drop(lock);
        let Self {
            mut pod,
            lifeline,
            own_exit_file,
        } = self;
        let ended = attached
            .wait(&mut pod, &container.dir.state, "", signals)
            .await;
        pod.gone().await;
        drop(lifeline);
        let record = match &own_exit_file {
            Some(file) => take_record(Some(file))?,
            None => read_json(&container.dir.exit())?,
        };
        signals.let_go();
        match (ended?, record) {
            (_, Some(record)) if record.failure.is_some() => Err(LaunchError::Failed(record)),
            (Ended::Exited(code), record) => {
                if code == KILLED && record.is_some_and(|record| out_of_memory(&record)) {
                    eprintln!(
                        "hull: out of memory: the command was killed (--memory gives it more)"
                    );
                }
                Ok(code)
            }
            (Ended::OutputClosed, _) => Ok(OUTPUT_CLOSED),
            (
                Ended::Lost(_),
                Some(ExitRecord {
                    exit: Some(exit), ..
                }),
            ) => Ok(exit.code),
            (Ended::Lost(error), _) => Err(error.into()),
        }
    }

    async fn start_attached(
        &self,
        container: &Container,
        fifos: &mut Fifos,
        streams: Streams,
    ) -> Result<Attached, LaunchError> {
        let rootfs = &container.settings()?.rootfs;
        self.pod
            .create(&container.dir.data, rootfs, fifos.config(), None)
            .await?;
        Attached::resize(streams, &self.pod, "").await;
        // What is removed at its end has no log that anybody could read.
        let log = container.dir.log();
        let log = (!container.settings()?.auto_remove).then_some(log.as_path());
        let attached = Attached::start(fifos, streams, log)?;
        self.pod.start_process("").await?;
        Ok(attached)
    }

    /// Makes and starts the container with its output going to its log, and lets it go.
    pub(crate) async fn detached(
        mut self,
        mut container: Container,
        signals: &mut Signals,
    ) -> Result<(), LaunchError> {
        let started = tokio::select! {
            started = self.start_detached(&container) => started,
            signal = signals.interrupted() => Err(LaunchError::Interrupted(signal)),
        };
        if let Err(error) = started {
            return Err(self.fail(&mut container, error).await);
        }
        // The byte says that the pod is to outlive this process.
        self.lifeline.write_all(b".").map_err(LaunchError::Streams)
    }

    async fn start_detached(&self, container: &Container) -> Result<(), LaunchError> {
        let settings = container.settings()?;
        let log = format!("cri-log://{}", container.dir.log().display());
        let stdio = StdioConfig {
            stdin: String::new(),
            stderr: if settings.tty {
                String::new()
            } else {
                log.clone()
            },
            stdout: log,
            terminal: settings.tty,
        };
        self.pod
            .create(&container.dir.data, &settings.rootfs, stdio, None)
            .await?;
        self.pod.start_process("").await?;
        Ok(())
    }

    /// Ends the pod of a container that did not start, and writes down why.
    async fn fail(self, container: &mut Container, error: LaunchError) -> LaunchError {
        let aborted = self.abort().await;
        // A pod process that was killed has ended nothing.
        client::end(&container.dir.state).await;
        let auto_remove = container
            .settings()
            .is_ok_and(|settings| settings.auto_remove);
        let recorded = if auto_remove {
            container.remove()
        } else {
            let mut exit = ExitStatus::killed();
            exit.code = error.exit_code().unwrap_or(125).into();
            let record = ExitRecord {
                exit: Some(exit),
                failure: Some(client::report::chain(&error)),
                console: vec![],
            };
            write_json(&container.dir.exit(), &record)
        };
        match aborted.and(recorded) {
            Ok(()) => error,
            Err(recording) => {
                // Both count; the first is what was asked about.
                eprintln!("hull: {}", client::report::chain(&recording));
                error
            }
        }
    }
}

/// Marks a container as started, before anything of it runs. An attached one belongs to this process
/// and ends with it.
pub(crate) fn mark_started(container: &mut Container, attached: bool) -> Result<(), StoreError> {
    let this = i32::try_from(std::process::id()).expect("process ids are positive `int`s");
    container.record.phase = Phase::Started {
        at: Timestamp::now(),
        // A process can read its own entry in /proc; without /proc the container is nobody's.
        owner: ProcessRecord::of(this).ok().filter(|_| attached),
    };
    container.exit = None;
    container.write()
}

/// Reads and removes a record that is for this process only.
fn take_record(file: Option<&Path>) -> Result<Option<ExitRecord>, StoreError> {
    let Some(file) = file else {
        return Ok(None);
    };
    let record = read_json(file)?;
    match std::fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(StoreError::files("remove", file)(error))
        }
        Ok(()) | Err(_) => Ok(record),
    }
}
