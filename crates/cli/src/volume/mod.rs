//! What a container sees of the host: bind mounts, volumes and tmpfs.

mod options;
mod resolve;
mod store;

pub(crate) use options::{MountOption, parse_mount, parse_tmpfs, parse_volume};
pub(crate) use resolve::{bind, resolve};
pub(crate) use store::{VolumeError, VolumeStore};
