//! The vhost-user connection to the VMM, from its start to its end.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;

use vhost::vhost_user::{Error as ProtocolError, Listener};
use vhost_user_backend::bitmap::BitmapReplace;
use vhost_user_backend::{
    Error as DaemonError, VhostUserBackend, VhostUserDaemon, VhostUserHandlerError,
};
use vm_memory::mmap::NewBitmap;
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};

/// Why a vhost-user connection did not start or ended badly.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The rings or their thread could not be made.
    #[error("cannot set up the vhost-user device")]
    SetUp(#[source] VhostUserHandlerError),
    /// The VMM's connection could not be accepted.
    #[error("cannot accept the VMM's vhost-user connection")]
    Accept(#[source] ProtocolError),
    /// The thread for the connection could not be started.
    #[error("cannot start the thread for the vhost-user connection")]
    Thread(#[source] std::io::Error),
    /// The thread for the connection panicked.
    #[error("the thread for the vhost-user connection panicked")]
    Panicked,
    /// The VMM sent something that cannot be served.
    #[error("cannot serve the VMM's vhost-user request")]
    Request(#[source] ProtocolError),
}

impl From<DaemonError> for Error {
    fn from(error: DaemonError) -> Self {
        match error {
            DaemonError::NewVhostUserHandler(source) => Self::SetUp(source),
            DaemonError::CreateBackendListener(source)
            | DaemonError::CreateBackendReqHandler(source)
            | DaemonError::CreateVhostUserListener(source) => Self::Accept(source),
            DaemonError::StartDaemon(source) => Self::Thread(source),
            DaemonError::WaitDaemon(_) => Self::Panicked,
            DaemonError::HandleRequest(source) => Self::Request(source),
        }
    }
}

/// A device that waits for its VMM.
pub(crate) fn new<T>(name: &str, backend: T) -> Result<VhostUserDaemon<T>, Error>
where
    T: VhostUserBackend + Clone + 'static,
    T::Bitmap: BitmapReplace + NewBitmap + Clone + Send + Sync,
    T::Vring: Clone + Send + Sync,
{
    let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
    Ok(VhostUserDaemon::new(name.into(), backend, memory)?)
}

/// Serves the first VMM that connects, until it disconnects.
pub(crate) fn serve<T>(daemon: &mut VhostUserDaemon<T>, listener: OwnedFd) -> Result<(), Error>
where
    T: VhostUserBackend + Clone + 'static,
    T::Bitmap: BitmapReplace + NewBitmap + Clone + Send + Sync,
    T::Vring: Clone + Send + Sync,
{
    // The listener is closed before the wait: nobody else shall queue up on it.
    {
        let mut listener = Listener::from(UnixListener::from(listener));
        daemon.start(&mut listener)?;
    }
    match daemon.wait() {
        // A VMM that ends, or is killed while it sends.
        Ok(())
        | Err(DaemonError::HandleRequest(
            ProtocolError::Disconnected | ProtocolError::PartialMessage,
        )) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
