//! Image files on this host: OCI image layouts as directories or tar files, and Docker's archives.

mod docker;
mod layout;
mod members;

pub(crate) use docker::DockerArchive;
pub(crate) use layout::{Layout, choose_platform};
pub(crate) use members::{Files, TarFile};
