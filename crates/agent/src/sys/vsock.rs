//! Options of vsock sockets (linux/vm_sockets.h).

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use super::check;

/// `SO_VM_SOCKETS_CONNECT_TIMEOUT` with the kernel's own idea of a time.
const CONNECT_TIMEOUT: libc::c_int = 6;

/// Has `connect` wait for at most `limit`, in place of Linux's two seconds.
pub(crate) fn wait_to_connect(socket: &impl AsFd, limit: Duration) -> io::Result<()> {
    let limit = libc::timeval {
        tv_sec: limit.as_secs().try_into().map_err(io::Error::other)?,
        tv_usec: limit.subsec_micros().into(),
    };
    let length = size_of_val(&limit).try_into().map_err(io::Error::other)?;
    // SAFETY: the kernel reads `length` bytes at `limit`, which outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::AF_VSOCK,
            CONNECT_TIMEOUT,
            (&raw const limit).cast(),
            length,
        )
    };
    check(result.into()).map(drop)
}
