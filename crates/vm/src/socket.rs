//! Connections to sockets that a VMM has made.
//!
//! The directory of the hybrid vsock socket belongs to some VMMs. One that the guest has taken over may put a symbolic
//! link there that leads to any socket of the host's, which the caller may be allowed to use.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

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
}
