//! The back ends that face the guest, each a process of its own.
//!
//! `hull-vsock` ([`vsock`]) carries byte streams between Unix sockets and the guest's vsock.
//! `hull-fs` ([`fs`]) serves one directory by virtio-fs. `hull-net` ([`net`]) stands between the guest
//! and passt. All inherit their sockets, shut themselves into a sandbox ([`isolation`]) before they
//! read a byte from the guest, and end when the VMM closes its connection.

pub mod daemon;
pub mod fs;
pub mod isolation;
pub mod net;
pub mod process;
pub mod program;
pub mod vsock;
