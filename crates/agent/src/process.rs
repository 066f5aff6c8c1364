//! A process of a container, seen from the agent: its pid, its end, its streams.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::SystemTime;

use hull_agent_api::agent::Stdio;
use tokio::sync::{oneshot, watch};

use crate::cgroup::{Cgroup, OomCounter};
use crate::error::AgentError;
use crate::helper::{Request, TerminalSize};
use crate::launch::Launcher;
use crate::reaper::Exit;
use crate::stdio::Parked;
use crate::sys::check;
use crate::sys::clone::pidfd_open;

mod streams;

pub(crate) use streams::Streams;
use streams::{Outputs, Plumbing};

/// How a process ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Exited {
    /// The exit code, or 128 plus the signal's number.
    pub(crate) status: u32,
    pub(crate) at: SystemTime,
    pub(crate) stdout_bytes: u64,
    pub(crate) stderr_bytes: u64,
    /// The OOM killer hit the process's container.
    pub(crate) oom_killed: bool,
}

/// A process that was made, and may have ended.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    /// `None` when it had ended before it was known.
    pidfd: Option<OwnedFd>,
    exited: watch::Receiver<Option<Exited>>,
    plumbing: Plumbing,
}

/// What the end of a process means for its container.
#[derive(Debug)]
pub(crate) struct Membership {
    pub(crate) cgroup: Cgroup,
    /// Whether all others are to end with it.
    pub(crate) ends_container: bool,
}

impl Process {
    /// Has a helper make the process. `fds` go before its streams.
    pub(crate) async fn launch(
        request: Request,
        mut fds: Vec<OwnedFd>,
        streams: Streams,
        membership: Membership,
        launcher: &Arc<Launcher>,
    ) -> Result<Arc<Self>, AgentError> {
        let (mut plumbing, streams) = if streams.is_terminal() {
            (Plumbing::default(), Some(streams))
        } else {
            let (plumbing, ends) = Plumbing::pipes(streams)?;
            fds.extend(ends);
            (plumbing, None)
        };
        let expectation = launcher.reaper.expect();
        let launched = match launcher.run(request, fds).await {
            Ok(launched) => launched,
            Err(failure) => {
                plumbing.close();
                return Err(failure.into());
            }
        };
        let pid = launched.pid;
        let mut exit = expectation.watch(pid);
        // The reaper runs on this thread: between these lines nothing is reaped.
        let (ended, pidfd) = match exit.try_recv() {
            Ok(exit) => (Some(exit), None),
            Err(_) => (None, pidfd_open(nix::unistd::Pid::from_raw(pid)).ok()),
        };
        drop(expectation);
        if let Some(streams) = streams {
            let main = launched.terminal.ok_or_else(|| AgentError::Invalid {
                field: "the helper's terminal",
                value: "none".to_owned(),
            })?;
            plumbing = Plumbing::terminal(streams, main)?;
        }
        let (sender, exited) = watch::channel(None);
        let end = End {
            outputs: plumbing.outputs(),
            input: plumbing.end_input(),
            membership,
            sender,
        };
        tokio::spawn(end.follow(ended, exit));
        let process = Self {
            pid,
            pidfd,
            exited,
            plumbing,
        };
        Ok(Arc::new(process))
    }

    /// A handle on the process for others; an error when it has ended.
    pub(crate) fn handle(&self) -> Result<OwnedFd, AgentError> {
        match &self.pidfd {
            Some(pidfd) => pidfd
                .try_clone()
                .map_err(AgentError::io("share a process's descriptor")),
            None => Err(AgentError::NotFound {
                kind: "running process",
                id: self.pid.to_string(),
            }),
        }
    }

    pub(crate) fn exited(&self) -> Option<Exited> {
        *self.exited.borrow()
    }

    /// Waits for its end.
    pub(crate) async fn wait(&self) -> Result<Exited, AgentError> {
        let mut exited = self.exited.clone();
        let lost = || AgentError::NotFound {
            kind: "process",
            id: self.pid.to_string(),
        };
        let exited = exited.wait_for(Option::is_some).await.map_err(|_| lost())?;
        exited.ok_or_else(lost)
    }

    /// Signals it; `false` when it has ended.
    pub(crate) fn signal(&self, signal: i32) -> Result<bool, AgentError> {
        let (Some(pidfd), None) = (&self.pidfd, self.exited()) else {
            return Ok(false);
        };
        let info = std::ptr::null::<libc::siginfo_t>();
        // SAFETY: no information is passed with the signal.
        let sent = check(unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                pidfd.as_raw_fd(),
                signal,
                info,
                0,
            )
        });
        match sent {
            Ok(_) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(false),
            Err(error) => Err(AgentError::io(format!("signal process {}", self.pid))(
                error,
            )),
        }
    }

    pub(crate) fn resize(&self, size: TerminalSize) -> Result<(), AgentError> {
        match self.plumbing.resize(size) {
            Some(resized) => resized.map_err(AgentError::io("resize the terminal")),
            None => Err(AgentError::Unsupported(
                "resize the terminal of a process without one".to_owned(),
            )),
        }
    }

    /// Gives streams whose connections broke new ones.
    pub(crate) fn attach(&self, stdio: &Stdio, parked: &Parked) -> Result<(), AgentError> {
        self.plumbing.attach(stdio, parked)
    }

    /// Lets go of all streams.
    pub(crate) fn close(&self) {
        self.plumbing.close();
    }
}

/// What is done when a process ends.
struct End {
    outputs: Outputs,
    input: Option<tokio::task::AbortHandle>,
    membership: Membership,
    sender: watch::Sender<Option<Exited>>,
}

impl End {
    async fn follow(self, ended: Option<Exit>, exit: oneshot::Receiver<Exit>) {
        let exit = match ended {
            Some(exit) => exit,
            None => match exit.await {
                Ok(exit) => exit,
                // The reaper is gone, and with it the agent.
                Err(_) => return,
            },
        };
        let Membership {
            cgroup,
            ends_container,
        } = self.membership;
        if ends_container && let Err(error) = cgroup.kill() {
            log::error!("{}", crate::helper::chain(&error));
        }
        if let Some(input) = self.input {
            input.abort();
        }
        let (stdout_bytes, stderr_bytes) = self.outputs.written();
        self.sender.send_replace(Some(Exited {
            status: exit.status,
            at: exit.at,
            stdout_bytes,
            stderr_bytes,
            oom_killed: OomCounter::ever(&cgroup),
        }));
    }
}
