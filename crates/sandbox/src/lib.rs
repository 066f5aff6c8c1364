//! A pod: its virtual machine, containers, storage and network. What every front end calls.
//!
//! [`Pod::start`] boots a guest, [`Pod::create`] makes a container in it. Front ends translate
//! between their protocol and [`Pod`]; a feature exists once, here.

mod anchor;
pub mod cgroup;
pub mod config;
pub mod container;
pub mod error;
pub mod guest;
mod guest_root;
pub mod hooks;
pub mod json_file;
mod limits;
pub mod mount;
pub mod network;
mod notify;
pub mod pod;
pub mod process;
pub mod root_image;
pub mod share;
pub mod spec;
pub mod state;
pub mod stdio;

pub use config::{
    GuestFiles, NetworkConfig, PodConfig, Protocol, PublishedPort, Roots, SingleContainer,
};
pub use container::{Container, CreateContainer, PreparedContainer};
pub use error::SandboxError;
pub use hull_seccomp::SeccompError;
pub use limits::Limits;
pub use pod::{End, Pod, abandon, destroy, live_pod_process, live_vmm};
pub use process::{ExitRecord, ExitStatus, Process};
pub use spec::read_bundle as bundle_spec;
pub use spec::read_bundle_and_unknown as bundle_spec_and_unknown;
