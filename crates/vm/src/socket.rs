//! Connections to sockets that a VMM has made.
//!
//! The directory of the hybrid vsock socket belongs to some VMMs. One that the guest has taken over may put a symbolic
//! link there that leads to any socket of the host's, which the caller may be allowed to use.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;

/// Connects to the Unix socket at `path`, which is no link.
///
/// # Errors
/// When there is none, something else is there, or nobody listens.
pub async fn connect(path: &Path) -> io::Result<UnixStream> {
    // Opened first, looked at, and then named by the descriptor: no one can exchange it in between.
    let socket = File::options()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_NOFOLLOW)
        .open(path)?;
    if !socket.metadata()?.file_type().is_socket() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is not a socket",
        ));
    }
    UnixStream::connect(format!("/proc/self/fd/{}", socket.as_raw_fd())).await
}

/// A socket that a process which is about to start will make.
#[derive(Debug)]
pub(crate) struct Awaited {
    path: PathBuf,
    directory: Inotify,
    news: AsyncFd<OwnedFd>,
}

impl Awaited {
    /// Watches its directory. Before the process starts.
    ///
    /// # Errors
    /// When the directory cannot be watched.
    pub(crate) fn watch(path: PathBuf) -> io::Result<Self> {
        let directory = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let parent = path.parent().unwrap_or(Path::new("."));
        directory.add_watch(parent, AddWatchFlags::IN_CREATE)?;
        let news = directory.as_fd().try_clone_to_owned()?;
        // SAFETY: an OwnedFd names the same open descriptor until it is dropped.
        let news = unsafe { AsyncFd::register(news) }?;
        Ok(Self {
            path,
            directory,
            news,
        })
    }

    /// Waits until somebody listens on it.
    ///
    /// # Errors
    /// When it cannot be connected to for another reason than that it is not ready.
    pub(crate) async fn listening(&self) -> io::Result<()> {
        /// Between making a socket and listening on it, which nothing tells of.
        const INSTANT: Duration = Duration::from_millis(1);
        loop {
            match connect(&self.path).await {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    tokio::time::sleep(INSTANT).await;
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => self.changed().await?,
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits until something has been made in the directory since it was last looked at.
    async fn changed(&self) -> io::Result<()> {
        loop {
            let mut news = self.news.readable().await?;
            match news.try_io(|_| Ok(self.directory.read_events()?)) {
                Ok(events) => return events.map(drop),
                Err(_would_block) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[tokio::test]
    async fn a_link_to_a_socket_is_no_socket() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().join("real");
        let _listener = UnixListener::bind(&real).unwrap();
        connect(&real).await.unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let error = connect(&link).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }

    #[tokio::test]
    async fn a_socket_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let awaited = Awaited::watch(path.clone()).unwrap();
        let waiting = tokio::spawn(async move { awaited.listening().await });
        std::fs::write(dir.path().join("something else"), "").unwrap();
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        let _listener = UnixListener::bind(&path).unwrap();
        waiting.await.unwrap().unwrap();
    }
}
