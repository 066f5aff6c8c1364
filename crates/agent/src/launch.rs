//! Having helpers do things.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};

use crate::helper::{self, Failure, Reason, Request, Response};
use crate::reaper::Reaper;
use crate::sys::socket;

/// What a helper made.
#[derive(Debug)]
pub(crate) struct Launched {
    pub(crate) pid: i32,
    /// The controlling side of its terminal.
    pub(crate) terminal: Option<OwnedFd>,
}

/// Where helpers come from, and who learns of the end of what they make.
#[derive(Debug)]
pub(crate) struct Launcher {
    /// To the process that makes a helper for each socket that it gets.
    server: Mutex<UnixStream>,
    pub(crate) reaper: Arc<Reaper>,
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

impl Launcher {
    /// `server` comes from [`helper::start_server`].
    pub(crate) fn new(server: UnixStream, reaper: Arc<Reaper>) -> Self {
        Self {
            server: Mutex::new(server),
            reaper,
        }
    }

    /// Runs a helper for one request. The reaper must expect what it makes.
    pub(crate) async fn run(
        self: &Arc<Self>,
        request: Request,
        fds: Vec<OwnedFd>,
    ) -> Result<Launched, Failure> {
        let launcher = Arc::clone(self);
        // Talking to the helper blocks for as long as the container is being set up.
        match tokio::task::spawn_blocking(move || launcher.run_blocking(&request, fds)).await {
            Ok(result) => result,
            Err(panicked) => Err(Failure {
                reason: Reason::Internal,
                message: panicked.to_string(),
            }),
        }
    }

    fn run_blocking(&self, request: &Request, fds: Vec<OwnedFd>) -> Result<Launched, Failure> {
        let helper = self.helper().map_err(HelperError::Run)?;
        let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        socket::send(&helper, request, &raw).map_err(HelperError::Talk)?;
        drop(fds);
        match socket::receive::<Response>(&helper).map_err(HelperError::Talk)? {
            Some((Response::Made { pid }, fds)) => Ok(Launched {
                pid,
                terminal: fds.into_iter().next(),
            }),
            Some((Response::Failed(failure), _)) => Err(failure),
            None => Err(HelperError::Silent.into()),
        }
    }

    /// A socket to a new helper. The reaper takes the helper's status.
    fn helper(&self) -> io::Result<UnixStream> {
        let (ours, its) = UnixStream::pair()?;
        // Nothing panics while it is held.
        let server = self.server.lock().unwrap_or_else(PoisonError::into_inner);
        socket::send(&server, &(), &[its.as_raw_fd()])?;
        Ok(ours)
    }
}
