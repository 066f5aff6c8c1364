//! The pod process and its clients.
//!
//! One pod process per pod owns the [`Pod`](hull_sandbox::Pod) and serves containerd's Task API
//! (`containerd.task.v3.Task` and its predecessor, ttrpc over a Unix socket). [`daemon`] is the
//! process, [`service`] the API, [`sandboxer`] containerd's Sandbox API beside it, [`events`] what containerd is told unasked, [`client`] what `hull`
//! uses to start and to reach one, [`engine`] what containerd uses for that, and [`pod_request`] what all
//! engines ask of a pod.

pub mod client;
pub mod daemon;
pub mod engine;
pub mod events;
pub mod log;
mod monitor;
mod order;
pub mod pod_request;
mod rpc_status;
pub mod sandboxer;
pub mod service;
