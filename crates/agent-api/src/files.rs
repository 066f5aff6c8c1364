//! The host's files over vsock, for virtual machines without virtio-fs: what `/dev/fuse` gives the guest is sent to the
//! host as it is, a request at a time on each of [`STREAMS`] connections, and the answer comes back on the same one.
//!
//! Requests and answers begin with their lengths, `u32` in the guest's byte order (`fuse_in_header`, `fuse_out_header`
//! in the kernel's `include/uapi/linux/fuse.h`). A request that FUSE does not answer is answered by [`NO_ANSWER`].

/// Connections, and so requests that are under way at the same time.
pub const STREAMS: usize = 4;
/// Largest request or answer: the largest read or write, 1 MiB, with its headers.
pub const MAX_BYTES: u32 = (1 << 20) + (4 << 10);
/// Least length of a request: its header.
pub const MIN_REQUEST_BYTES: u32 = 40;
/// Least length of an answer: its header.
pub const MIN_ANSWER_BYTES: u32 = 16;
/// Says that there is no answer.
pub const NO_ANSWER: [u8; 4] = [0; 4];
