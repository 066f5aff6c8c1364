//! The contract between the host and `hull-agent`, the guest's PID 1.
//!
//! These kinds of vsock connection exist (ports in [`ports`]):
//!
//! 1. **ready**: the guest dials the host once, when it can take calls, and sends a [`Hello`] line.
//!    Nobody polls.
//! 2. **rpc**: the host dials the guest and speaks ttrpc, service [`agent_ttrpc`].
//! 3. **stdio**: the host dials the guest once per stream and sends a [`stdio`] handshake; after it
//!    the connection carries the stream's bytes and nothing else.
//! 4. **files**: the guest dials the host, some times, for the host's files where there is no virtio-fs ([`files`]).

pub mod failure;
pub mod files;
pub mod hello;
pub mod names;
pub mod notify;
pub mod stdio;

mod generated {
    #![allow(warnings, clippy::all, clippy::pedantic, clippy::restriction)]

    pub mod agent {
        include!(concat!(env!("OUT_DIR"), "/agent.rs"));
    }
    pub mod agent_ttrpc {
        include!(concat!(env!("OUT_DIR"), "/agent_ttrpc.rs"));
    }
}

pub use generated::{agent, agent_ttrpc};
pub use hello::Hello;

/// vsock port numbers.
pub mod ports {
    /// On the host: the guest says [`Hello`](crate::Hello) here.
    pub const READY: u32 = 1024;
    /// On the host: [`files`](crate::files).
    pub const FILES: u32 = 1025;
    /// In the guest: ttrpc.
    pub const RPC: u32 = 1024;
    /// In the guest: stdio streams.
    pub const STDIO: u32 = 1025;
}
