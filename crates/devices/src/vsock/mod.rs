//! The vsock device: byte streams between the guest and Unix sockets on the host.
//!
//! A host program connects to the Unix socket, sends `CONNECT <port>\n` and reads `OK <number>\n` when
//! the guest has accepted. The guest connects to port P of CID 2 and reaches the program that listens
//! on the Unix socket `<path>_P`.
//!
//! - [`packet`]: the packets, and where they lie in the guest's memory
//! - [`greeting`]: the host's line
//! - [`connection`]: the state of one connection
//! - [`stream`]: the host's sockets
//! - [`muxer`]: all connections
//! - [`queues`]: the virtio queues
//! - [`device`]: the vhost-user device

pub mod connection;
pub mod device;
pub mod greeting;
pub mod muxer;
pub mod packet;
pub mod queues;
pub mod stream;

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};

use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::event::{EventFlag, new_event_consumer_and_notifier};

use crate::isolation::{self, seccomp};
use crate::{daemon, process};
use device::{DRAIN_EVENT, Device, HOST_EVENT};
use muxer::Muxer;

/// How many connections there can be, if the caller allows as many open files.
const MAX_CONNECTIONS: u64 = 4096;
/// Descriptors kept back: one for each region of guest memory, the rings' and some.
const OWN_FILES: u64 = 640;
/// The fewest connections that are worth a start.
const MIN_CONNECTIONS: u64 = 64;

/// What the device connects.
#[derive(Debug)]
pub struct Options {
    /// The guest's address.
    pub guest_cid: u64,
    /// The Unix socket; the guest's connections go to `<uds>_<port>`. Its directory is the only one
    /// that the sandboxed process sees.
    pub uds: PathBuf,
    /// Whether the process shuts itself in.
    pub sandboxed: bool,
}

/// Why the vsock device ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The path of the Unix socket cannot be used.
    #[error("cannot use {path} as the path of the Unix socket: it names no file")]
    NoFileName {
        /// As given.
        path: PathBuf,
    },
    /// The directory of the Unix socket cannot be used.
    #[error("cannot find the directory of the Unix socket {path}")]
    Directory {
        /// As given.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A reserved address.
    #[error("{cid} cannot be a guest's CID: 0 to 2 and everything above 32 bits are reserved")]
    GuestCid {
        /// As given.
        cid: u64,
    },
    /// Too few descriptors to work with.
    #[error(
        "at most {limit} open files are allowed, and {OWN_FILES} of them are needed before the first connection"
    )]
    TooFewFiles {
        /// The limit that is in force.
        limit: u64,
    },
    /// Resource limits, inherited descriptors.
    #[error(transparent)]
    Process(#[from] process::Error),
    /// The sandbox.
    #[error(transparent)]
    Isolation(#[from] isolation::Error),
    /// The event queue.
    #[error("cannot set up the event queue")]
    Events(#[source] io::Error),
    /// The connection to the VMM.
    #[error(transparent)]
    VhostUser(#[from] daemon::Error),
}

/// Serves the first VMM that connects to `vhost_listener`, until it disconnects and everything that
/// the guest sent has been delivered.
///
/// # Errors
/// When the device cannot start or the VMM breaks the protocol.
pub fn serve(
    options: &Options,
    vhost_listener: OwnedFd,
    host_listener: OwnedFd,
) -> Result<(), Error> {
    let cid = options.guest_cid;
    if cid <= packet::HOST_CID || cid >= u64::from(u32::MAX) {
        return Err(Error::GuestCid { cid });
    }
    let limit = process::limit_resources(MAX_CONNECTIONS + OWN_FILES)?;
    let max_connections = limit
        .checked_sub(OWN_FILES)
        .filter(|&connections| connections >= MIN_CONNECTIONS)
        .and_then(|connections| usize::try_from(connections).ok())
        .ok_or(Error::TooFewFiles { limit })?;

    let uds = enter_sandbox(options)?;
    let muxer = Muxer::new(cid, host_listener, uds, max_connections).map_err(Error::Events)?;
    let host_events = muxer.epoll().as_raw_fd();
    let (drain, drain_notifier) =
        new_event_consumer_and_notifier(EventFlag::NONBLOCK).map_err(Error::Events)?;
    let drain_events = drain.as_raw_fd();
    let (drained, wait_until_drained) = channel();

    let device = Device::new(cid, muxer, drain, drained);
    let mut daemon = daemon::new("hull-vsock", Arc::new(Mutex::new(device)))?;
    for handler in daemon.get_epoll_handlers() {
        handler
            .register_listener(host_events, EventSet::IN, u64::from(HOST_EVENT))
            .and_then(|()| {
                handler.register_listener(drain_events, EventSet::IN, u64::from(DRAIN_EVENT))
            })
            .map_err(Error::Events)?;
    }
    let served = daemon::serve(&mut daemon, vhost_listener);

    // What the guest sent is delivered even if its VMM is no more.
    drain_notifier.notify().map_err(Error::Events)?;
    // An error means that nobody will ever tell, and there is nothing to wait for.
    let _ = wait_until_drained.recv();
    Ok(served?)
}

/// Returns the path of the Unix socket as it is seen from inside.
fn enter_sandbox(options: &Options) -> Result<PathBuf, Error> {
    let path = &options.uds;
    let Some(name) = path.file_name() else {
        return Err(Error::NoFileName { path: path.clone() });
    };
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let directory = std::fs::canonicalize(parent.unwrap_or(Path::new("."))).map_err(|source| {
        let path = path.clone();
        Error::Directory { path, source }
    })?;
    if !options.sandboxed {
        return Ok(directory.join(name));
    }
    isolation::unshare_namespaces()?;
    isolation::enter_read_only(&directory)?;
    isolation::keep_capabilities(&[])?;
    seccomp::confine_vsock()?;
    Ok(Path::new("/").join(name))
}
