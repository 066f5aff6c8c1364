//! Waiting for files of the kernel to change.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::sys::uio::pread;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::error::AgentError;
use crate::sys::event::register_for;

/// A file of cgroupfs that tells when its content changes.
#[derive(Debug)]
pub(crate) struct Watch {
    file: AsyncFd<OwnedFd>,
}

impl Watch {
    pub(crate) fn new(path: &Path) -> Result<Self, AgentError> {
        let action = || AgentError::io(format!("watch {}", path.display()));
        let file = File::open(path).map_err(action())?;
        // Changes are reported as exceptional conditions.
        let file = register_for(file.into(), Interest::PRIORITY).map_err(action())?;
        Ok(Self { file })
    }

    /// Waits for a change since the content was last read.
    pub(crate) async fn changed(&self) -> Result<(), AgentError> {
        let ready = self.file.ready(Interest::PRIORITY).await;
        ready
            .map_err(AgentError::io("watch a cgroup"))?
            .clear_ready();
        // Reading is what makes the next change count.
        let mut content = [0; 1024];
        pread(self.file.get_ref(), &mut content, 0)
            .map_err(|errno| AgentError::io("read a cgroup's events")(errno.into()))?;
        Ok(())
    }
}

/// Waits until a condition holds that changes with the file.
pub(crate) async fn until(
    path: &Path,
    holds: impl Fn() -> Result<bool, AgentError>,
) -> Result<(), AgentError> {
    // Before the first look, so that no change is missed.
    let watch = Watch::new(path)?;
    while !holds()? {
        watch.changed().await?;
    }
    Ok(())
}
