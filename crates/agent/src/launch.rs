//! Running helpers.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::helper::{self, Failure, Filter, Reason, Request, Response};
use crate::sys::socket;

/// What a helper made.
#[derive(Debug)]
pub(crate) struct Launched {
    pub(crate) pid: i32,
    /// The controlling side of its terminal.
    pub(crate) terminal: Option<OwnedFd>,
    pub(crate) filter: Option<Filter>,
}

/// Why a helper gave no answer of its own.
#[derive(Debug, thiserror::Error)]
enum HelperError {
    #[error("cannot run a helper process")]
    Run(#[source] io::Error),
    #[error("cannot talk to the helper process")]
    Talk(#[source] io::Error),
    #[error("the helper process ended without an answer")]
    Silent,
}

impl From<HelperError> for Failure {
    fn from(error: HelperError) -> Self {
        Self {
            reason: Reason::Internal,
            message: helper::chain(&error),
        }
    }
}

/// Runs a helper for one request. The reaper must expect what it makes.
pub(crate) async fn run(request: Request, fds: Vec<OwnedFd>) -> Result<Launched, Failure> {
    // Talking to the helper blocks for as long as the container is being set up.
    match tokio::task::spawn_blocking(move || run_blocking(&request, fds)).await {
        Ok(result) => result,
        Err(panicked) => Err(Failure {
            reason: Reason::Internal,
            message: panicked.to_string(),
        }),
    }
}

fn run_blocking(request: &Request, fds: Vec<OwnedFd>) -> Result<Launched, Failure> {
    let (ours, theirs) = UnixStream::pair().map_err(HelperError::Run)?;
    Command::new(program().map_err(HelperError::Run)?)
        .arg(helper::ARGUMENT)
        .env_clear()
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        // Never waited for here: the reaper takes its status.
        .spawn()
        .map_err(HelperError::Run)?;
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    socket::send(&ours, request, &raw).map_err(HelperError::Talk)?;
    drop(fds);
    match socket::receive::<Response>(&ours).map_err(HelperError::Talk)? {
        Some((Response::Made { pid, filter }, fds)) => Ok(Launched {
            pid,
            filter,
            terminal: fds.into_iter().next(),
        }),
        Some((Response::Failed(failure), _)) => Err(failure),
        None => Err(HelperError::Silent.into()),
    }
}

/// The agent's own program. By its path, so that it is opened through the guest's root, which is
/// read-only, and not through the mount that the kernel started it from: a container that got hold
/// of the running file could not write to it.
fn program() -> io::Result<PathBuf> {
    std::env::current_exe()
}
