//! The short-lived processes in which containers and their processes are made.
//!
//! Entering namespaces and cloning needs a single-threaded process, and what fails half-way must
//! not leave anything behind in PID 1. So the agent runs its own program again for each of these
//! tasks: the request comes in over a Unix socket on standard input, the response goes back over it.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use crate::sys::socket;

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
    CreateRequest, ExecRequest, Failure, Reason, Request, Response, TerminalSize, chain,
};
pub(crate) use rootfs::ASSEMBLY_POINT;
pub(crate) use seccomp::Filter;

/// The program argument that makes the agent a helper.
pub(crate) const ARGUMENT: &str = "helper";

/// Serves the request on standard input and ends the process.
pub(crate) fn main() -> ! {
    // SAFETY: standard input is the agent's socket, and nothing else in this process uses it: it is
    // owned from here on.
    let agent = UnixStream::from(unsafe {
        use std::os::fd::FromRawFd;
        OwnedFd::from_raw_fd(libc::STDIN_FILENO)
    });
    let code = match keep_off_standard_streams(agent) {
        Ok(agent) => serve(&agent),
        Err(error) => {
            log::error!("helper: cannot move the request socket: {error}");
            1
        }
    };
    std::process::exit(code)
}

/// Moves the socket to a number above the standard streams, which become the container's.
fn keep_off_standard_streams(agent: UnixStream) -> std::io::Result<UnixStream> {
    let moved = nix::fcntl::fcntl(&agent, nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(10))?;
    // SAFETY: fcntl just made this descriptor for us.
    let moved = unsafe {
        use std::os::fd::FromRawFd;
        OwnedFd::from_raw_fd(moved)
    };
    let null = std::fs::File::open("/dev/null")?;
    // Standard input stays open, so that no later descriptor takes its number.
    nix::unistd::dup2_stdin(null)?;
    std::mem::forget(OwnedFd::from(agent));
    Ok(UnixStream::from(moved))
}

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
        Request::Hook { hook, state } => hooks::run(&[hook], &state).map(|()| Made::nothing()),
    };
    let (response, terminal) = match result {
        Ok(made) => (
            Response::Made {
                pid: made.pid.as_raw(),
                filter: made.filter,
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
    /// A new container's filter.
    filter: Option<Filter>,
}

impl Made {
    fn nothing() -> Self {
        Self::process(nix::unistd::Pid::from_raw(0))
    }

    fn process(pid: nix::unistd::Pid) -> Self {
        Self {
            pid,
            terminal: None,
            filter: None,
        }
    }
}
