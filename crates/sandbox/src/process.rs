//! A process in the guest: a container's init, or one that was added to it.

mod streams;

use std::sync::{Arc, Mutex};

use hull_agent_api::agent;
use hull_vm::process::ProcessRecord;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::anchor::Anchor;
use crate::error::SandboxError;
use crate::guest::{Guest, promptly, whenever};
use crate::state::{Status, Transition};
use crate::stdio::{Destination, Owner, StdioConfig};
use streams::Streams;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitStatus {
    /// Exit code, or 128 plus the number of a signal.
    pub code: u32,
    /// Nanoseconds since the epoch.
    pub at_ns: i64,
    /// The guest's kernel killed it for want of memory.
    pub oom_killed: bool,
}

impl ExitStatus {
    /// As if by SIGKILL, now: what becomes of a process whose virtual machine is gone.
    #[must_use]
    pub fn killed() -> Self {
        Self {
            code: 137,
            at_ns: now_ns(),
            oom_killed: false,
        }
    }
}

/// What becomes known of a [single container's](crate::SingleContainer) pod at its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// How the container ended; nothing when it never was.
    pub exit: Option<ExitStatus>,
    /// Why the pod ended, when that is not the container's own end.
    pub failure: Option<String>,
    /// Last lines of the guest's console, when the pod failed.
    pub console: Vec<String>,
}

/// Nanoseconds since the epoch.
#[must_use]
pub fn now_ns() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    i64::try_from(now.unwrap_or_default().as_nanos()).unwrap_or(i64::MAX)
}

/// The tokens that name a process's stdio connections; empty for a stream that it does not have.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Tokens {
    stdin: String,
    stdout: String,
    stderr: String,
}

/// What a process leaves in the state file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct TaskRecord {
    exec_id: String,
    stdio: StdioConfig,
    tokens: Tokens,
    status: Status,
    exit: Option<ExitStatus>,
    /// For a process that was added and not started yet.
    process: Option<String>,
    placeholder: bool,
    /// The front end's process that stands for it on the host.
    pub(crate) monitor: Option<ProcessRecord>,
}

/// A process in the guest, or one that stands for none.
#[derive(Debug)]
pub struct Process {
    container_id: String,
    exec_id: String,
    /// Stands for it on the host, or for its container.
    anchor: Arc<Anchor>,
    /// Init of a container that only holds a pod together for its engine: the guest does that by
    /// itself, so there is no such process, only its states.
    placeholder: bool,
    stdio: StdioConfig,
    tokens: Tokens,
    /// The OCI `process` object of an added process.
    pub(crate) process: Option<String>,
    status: Mutex<Status>,
    exit: watch::Sender<Option<ExitStatus>>,
    streams: Streams,
}

const SIGINT: u32 = 2;
const SIGKILL: u32 = 9;
const SIGTERM: u32 = 15;

impl Process {
    /// Init of a container without a program.
    pub(crate) fn placeholder(container_id: &str, stdio: StdioConfig, anchor: Arc<Anchor>) -> Self {
        let made = TaskRecord {
            exec_id: String::new(),
            stdio,
            tokens: Tokens::default(),
            status: Status::Created,
            exit: None,
            process: None,
            placeholder: true,
            monitor: anchor.record(),
        };
        Self::from_record(container_id, made, anchor)
    }

    /// A process that is not in the guest yet.
    pub(crate) fn new(
        container_id: &str,
        exec_id: &str,
        stdio: StdioConfig,
        process: Option<String>,
        anchor: Arc<Anchor>,
    ) -> Result<Self, SandboxError> {
        let token = |destination: &str| match Destination::parse(destination)? {
            Destination::Nowhere => Ok(String::new()),
            _ => random_token(),
        };
        let tokens = Tokens {
            stdin: token(&stdio.stdin)?,
            stdout: token(&stdio.stdout)?,
            stderr: if stdio.terminal {
                String::new()
            } else {
                token(&stdio.stderr)?
            },
        };
        let made = TaskRecord {
            exec_id: exec_id.to_owned(),
            stdio,
            tokens,
            status: Status::Created,
            exit: None,
            process,
            placeholder: false,
            monitor: anchor.record(),
        };
        Ok(Self::from_record(container_id, made, anchor))
    }

    pub(crate) fn from_record(container_id: &str, record: TaskRecord, anchor: Arc<Anchor>) -> Self {
        Self {
            container_id: container_id.to_owned(),
            anchor,
            exec_id: record.exec_id,
            placeholder: record.placeholder,
            stdio: record.stdio,
            tokens: record.tokens,
            process: record.process,
            status: Mutex::new(record.status),
            exit: watch::Sender::new(record.exit),
            streams: Streams::default(),
        }
    }

    pub(crate) fn record(&self) -> TaskRecord {
        TaskRecord {
            exec_id: self.exec_id.clone(),
            stdio: self.stdio.clone(),
            tokens: self.tokens.clone(),
            status: self.status(),
            exit: *self.exit.borrow(),
            process: self.process.clone(),
            placeholder: self.placeholder,
            monitor: self.anchor.record(),
        }
    }

    /// The process id that engines know it by, on the host: that of its monitor, or where there are none the
    /// container's, for all of its processes. Nothing of the container is in that process; the container's lasts until
    /// the container is deleted.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.anchor.id()
    }

    pub(crate) fn anchor(&self) -> &Arc<Anchor> {
        &self.anchor
    }

    /// Whether it was added and the guest does not know it yet.
    pub(crate) fn waits_for_start(&self) -> bool {
        self.process.is_some() && self.status() == Status::Created
    }

    /// Whether it stands for no process in the guest.
    pub(crate) fn is_placeholder(&self) -> bool {
        self.placeholder
    }

    /// Empty for a container's init.
    #[must_use]
    pub fn exec_id(&self) -> &str {
        &self.exec_id
    }

    /// Where its streams lead.
    #[must_use]
    pub fn stdio(&self) -> &StdioConfig {
        &self.stdio
    }

    /// The state it is in.
    #[must_use]
    pub fn status(&self) -> Status {
        *self.status.lock().expect("no holder of this lock panics")
    }

    /// How it ended, if it has.
    #[must_use]
    pub fn exit(&self) -> Option<ExitStatus> {
        *self.exit.borrow()
    }

    /// Completes when it has ended and its output has been passed on.
    pub async fn wait(&self) -> ExitStatus {
        let mut exit = self.exit.subscribe();
        match exit.wait_for(Option::is_some).await {
            Ok(exit) => exit.unwrap_or_else(ExitStatus::killed),
            // The sender is ours, so it lives.
            Err(_) => ExitStatus::killed(),
        }
    }

    pub(crate) fn transition(&self, transition: Transition) -> Result<(), SandboxError> {
        let mut status = self.status.lock().expect("no holder of this lock panics");
        *status = status.after(transition)?;
        Ok(())
    }

    /// Checks that a transition is allowed, without making it.
    pub(crate) fn check(&self, transition: Transition) -> Result<(), SandboxError> {
        self.status().after(transition)?;
        Ok(())
    }

    pub(crate) fn end(&self, exit: ExitStatus) {
        self.transition(Transition::Exit)
            .expect("every state may end");
        // Whoever was first is right.
        self.exit.send_if_modified(|current| {
            let first = current.is_none();
            *current = current.or(Some(exit));
            first
        });
    }

    /// Opens the streams in the guest and starts to relay them. `namespace` is the engine's.
    pub(crate) async fn open_stdio(
        &self,
        guest: &Guest,
        namespace: &str,
    ) -> Result<(), SandboxError> {
        let owner = Owner {
            container_id: &self.container_id,
            namespace,
        };
        self.streams
            .open(&self.stdio, &self.tokens, guest, owner)
            .await
    }

    /// What the agent is told of the streams.
    pub(crate) fn agent_stdio(&self) -> agent::Stdio {
        agent::Stdio {
            stdin: self.tokens.stdin.clone(),
            stdout: self.tokens.stdout.clone(),
            stderr: self.tokens.stderr.clone(),
            terminal: self.stdio.terminal,
            bare_newlines: self.stdio.has_bare_newlines(),
            ..Default::default()
        }
    }

    /// Gives a process of a guest that was taken over its streams again. What was on its way through
    /// the pod process that is gone is lost; what the process writes meanwhile waits.
    pub(crate) async fn reopen_stdio(
        &self,
        guest: &Guest,
        namespace: &str,
    ) -> Result<(), SandboxError> {
        self.open_stdio(guest, namespace).await?;
        let request = agent::AttachStdioRequest {
            container_id: self.container_id.clone(),
            exec_id: self.exec_id.clone(),
            stdio: Some(self.agent_stdio()).into(),
            ..Default::default()
        };
        let answer = guest.agent().attach_stdio(promptly(), &request).await;
        answer.map(drop).map_err(|source| SandboxError::Agent {
            action: "take new connections for a process's streams",
            source,
        })
    }

    pub(crate) fn request(&self) -> agent::ProcessRequest {
        agent::ProcessRequest {
            container_id: self.container_id.clone(),
            exec_id: self.exec_id.clone(),
            ..Default::default()
        }
    }

    /// Ends the standard input after what was written to it so far.
    pub fn close_stdin(&self) {
        self.streams.close_input();
    }

    /// Waits in the guest for the end, then for the output. Fails when the guest is lost; whoever watches the virtual
    /// machine then ends the process.
    pub(crate) async fn follow(&self, guest: &Guest) -> Result<ExitStatus, SandboxError> {
        let answer = guest
            .agent()
            .wait_process(whenever(), &self.request())
            .await;
        let answer = answer.map_err(|source| SandboxError::Agent {
            action: "wait for a process",
            source,
        })?;
        let written = [answer.stdout_bytes, answer.stderr_bytes];
        // With init all of the container has ended, so its streams end too.
        let to_their_end = self.exec_id.is_empty();
        if !self.streams.passed_on(written, to_their_end).await {
            tracing::warn!(
                container = self.container_id,
                exec = self.exec_id,
                "nobody reads the output of a process that was killed; its end is reported without"
            );
        }
        Ok(ExitStatus {
            code: answer.exit_status,
            at_ns: answer.exited_at_ns,
            oom_killed: answer.oom_killed,
        })
    }

    /// Sends a signal to the process, or to all of its container.
    ///
    /// # Errors
    /// When it has ended, or the guest fails.
    pub(crate) async fn signal(
        &self,
        guest: &Guest,
        signal: u32,
        all: bool,
    ) -> Result<(), SandboxError> {
        if self.placeholder {
            self.signal_placeholder(signal);
            return Ok(());
        }
        if signal == SIGKILL {
            self.streams.hurry();
        }
        if self.streams.process_ended() && !all {
            // Only its output is left, which no other signal concerns.
            return Ok(());
        }
        let request = agent::SignalProcessRequest {
            container_id: self.container_id.clone(),
            exec_id: self.exec_id.clone(),
            signal,
            all,
            ..Default::default()
        };
        let answer = guest.agent().signal_process(promptly(), &request).await;
        answer.map(drop).map_err(|source| SandboxError::Agent {
            action: "signal a process",
            source,
        })
    }

    /// What a program would do that only waits to be told to end.
    fn signal_placeholder(&self, signal: u32) {
        let code = match signal {
            SIGKILL => 128 + SIGKILL,
            SIGINT | SIGTERM => 0,
            _ => return,
        };
        self.end(ExitStatus {
            code,
            at_ns: now_ns(),
            oom_killed: false,
        });
    }

    /// Gives the process's terminal another size, in characters.
    ///
    /// # Errors
    /// When it has no terminal, or the guest fails.
    pub(crate) async fn resize(
        &self,
        guest: &Guest,
        columns: u32,
        rows: u32,
    ) -> Result<(), SandboxError> {
        let request = agent::ResizeTerminalRequest {
            container_id: self.container_id.clone(),
            exec_id: self.exec_id.clone(),
            columns,
            rows,
            ..Default::default()
        };
        let answer = guest.agent().resize_terminal(promptly(), &request).await;
        answer.map(drop).map_err(|source| SandboxError::Agent {
            action: "resize a terminal",
            source,
        })
    }
}

/// 128 random bits, in hexadecimal.
pub(crate) fn random_token() -> Result<String, SandboxError> {
    let bytes = random_bytes::<16>()?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Bytes of the host's random number generator.
pub(crate) fn random_bytes<const N: usize>() -> Result<[u8; N], SandboxError> {
    use std::io::Read;
    let mut bytes = [0; N];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut bytes))
        .map_err(SandboxError::host("read /dev/urandom"))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::NetworkConfig;

    fn anchor() -> Arc<Anchor> {
        Arc::new(Anchor::drop_in(&NetworkConfig::None).unwrap())
    }

    #[test]
    fn the_first_end_counts() {
        let process = Process::new("c", "", StdioConfig::default(), None, anchor()).unwrap();
        let exit = |code| ExitStatus {
            code,
            at_ns: 1,
            oom_killed: false,
        };
        process.end(exit(3));
        process.end(exit(137));
        assert_eq!(process.exit(), Some(exit(3)));
        assert_eq!(process.status(), Status::Stopped);
    }

    #[test]
    fn a_terminal_has_no_stderr_stream() {
        let stdio = StdioConfig {
            stdin: String::new(),
            stdout: "/run/out".to_owned(),
            stderr: "/run/err".to_owned(),
            terminal: true,
        };
        let process = Process::new("c", "e", stdio, None, anchor()).unwrap();
        let stdio = process.agent_stdio();
        assert!(stdio.stdin.is_empty() && stdio.stderr.is_empty());
        assert_eq!(stdio.stdout.len(), 32);
    }
}
