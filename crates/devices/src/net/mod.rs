//! The guest's link to passt: every frame from the guest is looked at before passt sees it.
//!
//! passt dials on the host whatever address the guest puts into a packet. Early versions (Debian 12
//! has one) do so for the host's own loopback, too. And what a published port's client on the host's
//! loopback sends is answered through the gateway's address, which therefore leads to the host's
//! loopback. So the guest is held to what a neighbour on a network could do.
//!
//! - [`filter`]: which frames pass
//! - `queue`: what waits for a guest
//! - [`relay`]: carries frames in both directions
//! - [`side`]: the ends of the link, a stream socket or a packet socket

pub mod filter;
mod queue;
pub mod relay;
pub mod side;

use std::os::fd::OwnedFd;

use crate::isolation::{self, seccomp};
use crate::process;
use filter::Link;
use side::Side;

/// Why the link ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Resource limits, inherited descriptors.
    #[error(transparent)]
    Process(#[from] process::Error),
    /// The sandbox.
    #[error(transparent)]
    Isolation(#[from] isolation::Error),
    /// A direction of the relay.
    #[error(transparent)]
    Relay(#[from] relay::Error),
}

/// Carries frames until one side has gone.
///
/// # Errors
/// When the process cannot shut itself in, or a side breaks the framing.
pub fn serve(link: Link, guest: Side, host: OwnedFd, sandboxed: bool) -> Result<(), Error> {
    process::limit_resources(16)?;
    if sandboxed {
        isolation::unshare_namespaces()?;
        isolation::keep_capabilities(&[])?;
        seccomp::confine_net()?;
    }
    Ok(relay::run(link, guest, host.into())?)
}
