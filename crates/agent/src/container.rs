//! A container: its state, its processes, its cgroup.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;

use crate::cgroup::Cgroup;
use crate::error::AgentError;
use crate::helper::{ExecRequest, Failure, Filter, HookState, Reason, Request, TerminalSize};
use crate::launch::Launcher;
use crate::process::{Membership, Process, Streams};
use crate::spec::{self, Hook, IdMapping, NamespaceKind, Personality, Resources, Spec};
use crate::storage::Storages;

mod state;

pub(crate) use state::State;

/// A container that was made.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) cgroup: Cgroup,
    pub(crate) init: Arc<Process>,
    storages: Mutex<Storages>,
    keep: Keep,
    launcher: Arc<Launcher>,
    state: Mutex<State>,
    /// Init waits on the other end until it is told to start.
    start: Mutex<Option<StdUnixStream>>,
    execs: Mutex<HashMap<String, Exec>>,
}

/// A further process, or the place of one that is being made.
#[derive(Debug)]
enum Exec {
    Starting,
    Started(Arc<Process>),
}

/// What is needed of the specification after creation.
#[derive(Debug)]
struct Keep {
    uid_mappings: Vec<IdMapping>,
    cgroup_namespace: bool,
    personality: Option<Personality>,
    filter: Option<Filter>,
    poststart: Vec<Hook>,
    poststop: Vec<Hook>,
    hook_state: HookState,
}

/// What [`Container::new`] is made of.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) id: String,
    pub(crate) cgroup: Cgroup,
    pub(crate) init: Arc<Process>,
    pub(crate) storages: Storages,
    pub(crate) spec: Spec,
    pub(crate) start: StdUnixStream,
    pub(crate) filter: Option<Filter>,
    pub(crate) launcher: Arc<Launcher>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while one of them is held.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Container {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts {
            id,
            cgroup,
            init,
            storages,
            spec,
            start,
            filter,
            launcher,
        } = parts;
        let linux = spec.linux;
        let cgroup_namespace = linux.namespace(NamespaceKind::Cgroup).is_some();
        let bundle = spec.root.path.parent().map(|p| p.display().to_string());
        let keep = Keep {
            uid_mappings: linux.uid_mappings,
            cgroup_namespace,
            personality: linux.personality,
            filter,
            poststart: spec.hooks.poststart,
            poststop: spec.hooks.poststop,
            hook_state: HookState {
                oci_version: spec.oci_version,
                id: id.clone(),
                status: String::new(),
                pid: init.pid,
                bundle: bundle.unwrap_or_default(),
                annotations: spec.annotations,
            },
        };
        Self {
            id,
            cgroup,
            init,
            storages: Mutex::new(storages),
            keep,
            launcher,
            state: Mutex::new(State::Created),
            start: Mutex::new(Some(start)),
            execs: Mutex::default(),
        }
    }

    /// The state, which is "stopped" as soon as init has ended.
    pub(crate) fn state(&self) -> State {
        let mut state = lock(&self.state);
        if self.init.exited().is_some() {
            *state = State::Stopped;
        }
        *state
    }

    fn set_state(&self, state: State) {
        *lock(&self.state) = state;
    }

    /// Once: what has to be let go with the container.
    pub(crate) fn take_storages(&self) -> Storages {
        std::mem::take(&mut lock(&self.storages))
    }

    /// Init's process id, for others to join its PID namespace.
    pub(crate) fn running_init(&self) -> Result<i32, AgentError> {
        match self.state() {
            State::Stopped => Err(self.wrong_state("join its PID namespace")),
            State::Created | State::Running | State::Paused => Ok(self.init.pid),
        }
    }

    fn wrong_state(&self, action: &'static str) -> AgentError {
        AgentError::WrongState {
            id: self.id.clone(),
            state: self.state().name(),
            action,
        }
    }

    /// Lets init run the container's program.
    pub(crate) async fn start(&self) -> Result<(), AgentError> {
        let start = match (self.state().can_start(), lock(&self.start).take()) {
            (true, Some(start)) => start,
            _ => return Err(self.wrong_state("start it")),
        };
        start
            .set_nonblocking(true)
            .map_err(AgentError::io("prepare the start"))?;
        let start = UnixStream::from_std(start).map_err(AgentError::io("prepare the start"))?;
        if let Some(failure) = tell_to_start(start).await? {
            return Err(failure.into());
        }
        self.set_state(State::Running);
        self.run_hooks("poststart", &self.keep.poststart, "running")
            .await;
        Ok(())
    }

    pub(crate) async fn run_poststop_hooks(&self) {
        self.run_hooks("poststop", &self.keep.poststop, "stopped")
            .await;
    }

    /// Hooks that can no longer change anything: each runs, whatever becomes of the others.
    async fn run_hooks(&self, kind: &str, hooks: &[Hook], status: &str) {
        for (index, hook) in hooks.iter().enumerate() {
            let request = Request::Hook {
                kind: kind.to_owned(),
                index,
                hook: hook.clone(),
                state: Box::new(HookState {
                    status: status.to_owned(),
                    ..self.keep.hook_state.clone()
                }),
            };
            if let Err(failure) = self.launcher.run(request, Vec::new()).await {
                log::warn!("container {}: {failure}", self.id);
            }
        }
    }

    /// Makes and starts a further process.
    pub(crate) async fn exec(
        &self,
        exec_id: &str,
        process: spec::Process,
        streams: Streams,
    ) -> Result<Arc<Process>, AgentError> {
        if !self.state().can_exec() {
            return Err(self.wrong_state("start a process in it"));
        }
        let reserved = match lock(&self.execs).entry(exec_id.to_owned()) {
            std::collections::hash_map::Entry::Occupied(_) => {
                return Err(AgentError::Exists {
                    kind: "process",
                    id: exec_id.to_owned(),
                });
            }
            std::collections::hash_map::Entry::Vacant(entry) => {
                entry.insert(Exec::Starting);
                Reserved {
                    container: self,
                    exec_id,
                }
            }
        };
        let terminal = streams.new_terminal(&process);
        let request = Request::Exec(Box::new(ExecRequest {
            id: self.id.clone(),
            process,
            cgroup: self.cgroup.for_new_process(self.init.pid)?,
            uid_mappings: self.keep.uid_mappings.clone(),
            cgroup_namespace: self.keep.cgroup_namespace,
            personality: self.keep.personality.clone(),
            filter: self.keep.filter.clone(),
            terminal,
        }));
        let membership = Membership {
            cgroup: self.cgroup.clone(),
            ends_container: false,
        };
        let process = Process::launch(
            request,
            vec![self.init.handle()?],
            streams,
            membership,
            &self.launcher,
        )
        .await?;
        reserved.fill(Arc::clone(&process));
        Ok(process)
    }

    /// The process of an exec id; init's is empty.
    pub(crate) fn process(&self, exec_id: &str) -> Result<Arc<Process>, AgentError> {
        if exec_id.is_empty() {
            return Ok(Arc::clone(&self.init));
        }
        match lock(&self.execs).get(exec_id) {
            Some(Exec::Started(process)) => Ok(Arc::clone(process)),
            Some(Exec::Starting) | None => Err(AgentError::NotFound {
                kind: "process",
                id: exec_id.to_owned(),
            }),
        }
    }

    /// Forgets a further process that has ended.
    pub(crate) fn remove_process(&self, exec_id: &str) -> Result<(), AgentError> {
        let process = self.process(exec_id)?;
        if exec_id.is_empty() || process.exited().is_none() {
            return Err(self.wrong_state("remove a process that has not ended"));
        }
        process.close();
        lock(&self.execs).remove(exec_id);
        Ok(())
    }

    /// Signals every process.
    pub(crate) fn signal_all(&self, signal: i32) -> Result<(), AgentError> {
        if signal == libc::SIGKILL {
            return Ok(self.cgroup.kill()?);
        }
        for pid in self.cgroup.pids()? {
            let Ok(pid) = i32::try_from(pid) else {
                continue;
            };
            // SAFETY: no memory is passed.
            let sent = crate::sys::check(unsafe { libc::kill(pid, signal) }.into());
            match sent {
                // It ended meanwhile.
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                other => {
                    other.map_err(AgentError::io(format!("signal process {pid}")))?;
                }
            }
        }
        Ok(())
    }

    pub(crate) async fn pause(&self) -> Result<(), AgentError> {
        if !self.state().can_pause() {
            return Err(self.wrong_state("pause it"));
        }
        self.cgroup.freeze(true)?;
        self.settle(true).await?;
        self.set_state(State::Paused);
        Ok(())
    }

    pub(crate) async fn resume(&self) -> Result<(), AgentError> {
        if !self.state().can_resume() {
            return Err(self.wrong_state("resume it"));
        }
        self.cgroup.freeze(false)?;
        self.settle(false).await?;
        self.set_state(State::Running);
        Ok(())
    }

    async fn settle(&self, frozen: bool) -> Result<(), AgentError> {
        let cgroup = &self.cgroup;
        crate::watch::until(&cgroup.events_file(), || Ok(cgroup.is_frozen()? == frozen)).await
    }

    pub(crate) async fn update(&self, resources: Resources) -> Result<(), AgentError> {
        if !self.state().can_update() {
            return Err(self.wrong_state("update it"));
        }
        let cgroup = self.cgroup.clone();
        // Lowering a memory limit takes as long as it takes to reclaim the memory.
        let updated = tokio::task::spawn_blocking(move || {
            cgroup.update(&resources)?;
            if resources.devices.is_empty() {
                Ok(())
            } else {
                cgroup.restrict_devices(&resources)
            }
        });
        match updated.await {
            Ok(result) => Ok(result?),
            Err(panicked) => Err(Failure {
                reason: Reason::Internal,
                message: panicked.to_string(),
            }
            .into()),
        }
    }

    /// Ends every process and waits until the last is gone.
    pub(crate) async fn kill_and_wait(&self) -> Result<(), AgentError> {
        self.cgroup.kill()?;
        self.init.wait().await?;
        empty(&self.cgroup).await
    }

    /// Lets go of all streams.
    pub(crate) fn close(&self) {
        self.init.close();
        for exec in lock(&self.execs).values() {
            if let Exec::Started(process) = exec {
                process.close();
            }
        }
    }
}

/// Holds an exec id while its process is being made; frees it when that fails.
struct Reserved<'a> {
    container: &'a Container,
    exec_id: &'a str,
}

impl Reserved<'_> {
    fn fill(self, process: Arc<Process>) {
        let started = Exec::Started(process);
        lock(&self.container.execs).insert(self.exec_id.to_owned(), started);
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        let mut execs = lock(&self.container.execs);
        if matches!(execs.get(self.exec_id), Some(Exec::Starting)) {
            execs.remove(self.exec_id);
        }
    }
}

/// Says "start" and hears whether the program runs: the socket closes without a word when it does.
async fn tell_to_start(mut start: UnixStream) -> Result<Option<Failure>, AgentError> {
    use tokio::io::AsyncWriteExt;

    match start.write_all(&[1]).await {
        // Init was killed before: its exit status tells.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(None),
        other => other.map_err(AgentError::io("start the container's init"))?,
    }
    let mut answer = Vec::new();
    match start.read_to_end(&mut answer).await {
        // Killed while the byte was still unread.
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return Ok(None),
        other => other.map_err(AgentError::io("hear from the container's init"))?,
    };
    // The length that comes first is that of the rest.
    let Some(json) = answer.get(4..).filter(|json| !json.is_empty()) else {
        return Ok(None);
    };
    let failure = serde_json::from_slice(json).map_err(|source| AgentError::Json {
        field: "the answer of the container's init",
        source,
    })?;
    Ok(Some(failure))
}

/// Waits until a cgroup has no processes.
pub(crate) async fn empty(cgroup: &Cgroup) -> Result<(), AgentError> {
    crate::watch::until(&cgroup.events_file(), || Ok(!cgroup.is_populated()?)).await
}

/// Both ends of a start socket: ours, and init's.
pub(crate) fn start_socket() -> Result<(StdUnixStream, OwnedFd), AgentError> {
    let (ours, init) = StdUnixStream::pair().map_err(AgentError::io("make the start socket"))?;
    Ok((ours, init.into()))
}

/// A terminal's size as the host sends it.
pub(crate) fn terminal_size(columns: u32, rows: u32) -> Result<TerminalSize, AgentError> {
    let narrow = |field, value: u32| {
        u16::try_from(value).map_err(|_| AgentError::Invalid {
            field,
            value: value.to_string(),
        })
    };
    Ok(TerminalSize {
        columns: narrow("columns", columns)?,
        rows: narrow("rows", rows)?,
    })
}
