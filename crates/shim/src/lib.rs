//! The pod process and its clients.
//!
//! One pod process per pod owns the [`Pod`](hull_sandbox::Pod) and serves containerd's Task API
//! (`containerd.task.v3.Task`, ttrpc over a Unix socket). [`daemon`] is the process, [`service`] the
//! API, [`client`] what `hull` uses to start and to reach one.

pub mod client;
pub mod daemon;
mod rpc_status;
pub mod service;
