//! What a virtual machine is, and the drivers that run one.
//!
//! A [`VmConfig`] says what the machine has; a [`Driver`] starts a VMM for it and answers with a
//! [`Vm`]. Each VMM is a process of its own, and only its driver knows its command line and API.
//! What a driver cannot do is in its [`Capabilities`] and is refused with
//! [`VmError::Unsupported`] before anything starts.
//!
//! Nothing here knows of containers.

pub mod accel;
mod command_line;
pub mod config;
mod confine;
pub mod console;
mod deadline;
pub mod driver;
pub mod drivers;
pub mod error;
mod files;
mod http;
mod memory;
mod pipe;
pub mod process;
mod program;
#[cfg(test)]
mod sample;
#[cfg(test)]
mod schema;
pub mod snapshot;
pub mod socket;
#[cfg(test)]
mod stand_in;

pub use accel::{Acceleration, Accelerator};
pub use config::{Boot, Device, MacAddress, MachineSize, VmConfig};
pub use confine::has_landlock;
pub use console::Console;
pub use driver::{Capabilities, Driver, Exit, NetDevices, Vm, VmRecord};
pub use drivers::Vmm;
pub use error::VmError;
pub use files::{FileSharing, FileTransport};
pub use program::Program;
pub use snapshot::Snapshot;
