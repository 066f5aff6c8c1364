//! How long a VMM is waited for.

use std::io;
use std::time::Duration;

use crate::error::VmError;

/// A VMM that has not answered for so long never will.
pub(crate) const PROMPTLY: Duration = Duration::from_secs(60);
/// The same where it writes or reads all of a guest's memory: at 100 MB/s, 90 GB.
pub(crate) const MEMORY: Duration = Duration::from_secs(900);

/// What comes of `command`, for which the VMM has this time.
///
/// # Errors
/// Its own, or [`VmError::Disconnected`] that says that the time is over.
pub(crate) async fn in_time<T>(
    most: Duration,
    command: &'static str,
    doing: impl Future<Output = Result<T, VmError>>,
) -> Result<T, VmError> {
    let done = tokio::time::timeout(most, doing).await;
    done.unwrap_or_else(|_| {
        let late = format!("no answer in {} s", most.as_secs());
        let source = io::Error::new(io::ErrorKind::TimedOut, late);
        Err(VmError::Disconnected { command, source })
    })
}
