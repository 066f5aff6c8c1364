//! The short-lived processes in which containers and their processes are made.
//!
//! Entering namespaces and cloning needs a single-threaded process, and what fails half-way must
//! not leave anything behind in PID 1. So the agent, before it has any threads, forks a process that
//! forks a helper for each of these tasks: the request comes in over a Unix socket, the response goes back
//! over it. A new program in each helper would cost more than all that it does.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::sched::CloneFlags;
use nix::unistd::ForkResult;

use crate::sys::clone::{Cloned, clone_sibling};
use crate::sys::{check, socket};

mod capabilities;
mod command;
mod console;
mod create;
mod devices;
mod error;
mod exec;
mod hooks;
mod init;
mod mounts;
mod namespaces;
mod options;
mod process;
mod protocol;
mod rootfs;
mod seccomp;
mod tuning;

pub(crate) use console::{null as null_device, resize as resize_terminal};
pub(crate) use error::SetupError;
pub(crate) use hooks::HookState;
pub(crate) use options::{Bind, MountOptions, parse as parse_mount_options};
pub(crate) use protocol::{
    CreateRequest, ExecRequest, Failure, NewTerminal, Reason, Request, Response, TerminalSize,
    chain,
};
pub(crate) use rootfs::ASSEMBLY_POINT;
pub(crate) use seccomp::Filter;

/// Forks the process that makes helpers: one for each socket that is sent to it over the socket returned.
///
/// # Safety
/// The caller must be single-threaded, else the child may find locks held for ever.
pub(crate) unsafe fn start_server() -> io::Result<UnixStream> {
    let (ours, its) = UnixStream::pair()?;
    // SAFETY: as this function's.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { .. } => Ok(ours),
        ForkResult::Child => {
            drop(ours);
            let code = match prepare_server() {
                Ok(()) => make_helpers(&its),
                Err(error) => {
                    log::error!("helpers: cannot prepare: {error}");
                    1
                }
            };
            std::process::exit(code)
        }
    }
}

fn prepare_server() -> io::Result<()> {
    // SAFETY: the name is NUL-terminated and only read.
    check(unsafe { libc::prctl(libc::PR_SET_NAME, c"hull-helpers".as_ptr()) }.into())?;
    // Standard input stays open, so that no later descriptor takes its number: the standard streams
    // become a container's.
    let null = std::fs::File::open("/dev/null")?;
    nix::unistd::dup2_stdin(null)?;
    Ok(())
}

/// Until the agent is gone.
fn make_helpers(requests: &UnixStream) -> i32 {
    loop {
        let agent = match socket::receive::<()>(requests) {
            Ok(Some(((), fds))) => fds.into_iter().next().map(UnixStream::from),
            Ok(None) => return 0,
            Err(error) => {
                log::error!("helpers: cannot read a request: {error}");
                return 1;
            }
        };
        let Some(agent) = agent else {
            continue;
        };
        // The agent is the helper's parent, and so the parent of what the helper makes.
        // SAFETY: this process is single-threaded.
        match unsafe { clone_sibling(CloneFlags::empty(), None) } {
            Ok(Cloned::Child) => {
                // SAFETY: neither used again nor dropped in here: this process ends in execve or exit.
                unsafe { libc::close(requests.as_raw_fd()) };
                std::process::exit(serve(&agent))
            }
            Ok(Cloned::Parent(_)) => {}
            // The agent sees its socket closed.
            Err(error) => log::error!("helpers: cannot fork: {error}"),
        }
    }
}

/// Does what the agent asks for.
fn serve(agent: &UnixStream) -> i32 {
    let (request, fds) = match socket::receive::<Request>(agent) {
        Ok(Some(request)) => request,
        // The agent went away.
        Ok(None) => return 1,
        Err(error) => {
            log::error!("helper: cannot read the request: {error}");
            return 1;
        }
    };
    let result = match request {
        Request::Create(request) => create::run(*request, fds, agent),
        Request::Exec(request) => exec::run(*request, fds, agent),
        Request::PidNamespace => namespaces::hold_pid_namespace(),
        Request::Hook {
            kind,
            index,
            hook,
            state,
        } => hooks::run_alone(&kind, index, &hook, &state).map(|()| Made::nothing()),
    };
    let (response, terminal) = match result {
        Ok(made) => (
            Response::Made {
                pid: made.pid.as_raw(),
            },
            made.terminal,
        ),
        Err(error) => (Response::Failed(error.into()), None),
    };
    let fds: Vec<_> = terminal.iter().map(|fd| fd.as_fd().as_raw_fd()).collect();
    match socket::send(agent, &response, &fds) {
        Ok(()) => 0,
        Err(error) => {
            log::error!("helper: cannot send the response: {error}");
            1
        }
    }
}

/// A process that a helper made.
#[derive(Debug)]
struct Made {
    pid: nix::unistd::Pid,
    /// The controlling side of its terminal.
    terminal: Option<OwnedFd>,
}

impl Made {
    fn nothing() -> Self {
        Self::process(nix::unistd::Pid::from_raw(0))
    }

    fn process(pid: nix::unistd::Pid) -> Self {
        Self {
            pid,
            terminal: None,
        }
    }
}
