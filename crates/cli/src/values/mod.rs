//! The values of command line options, parsed strictly.

pub(crate) mod cpus;
pub(crate) mod environment;
pub(crate) mod name;
pub(crate) mod platform;
pub(crate) mod publish;
pub(crate) mod security;
pub(crate) mod signal;
pub(crate) mod size;
pub(crate) mod sysctl;
pub(crate) mod ulimit;
