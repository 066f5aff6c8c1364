//! Where a container's files are.

use std::path::PathBuf;

use crate::locations::Locations;

/// A container's two directories.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ContainerDir {
    id: String,
    /// The bundle; outlives a reboot.
    pub(crate) data: PathBuf,
    /// Sockets and FIFOs.
    pub(crate) state: PathBuf,
}

impl ContainerDir {
    pub(crate) fn new(locations: &Locations, id: &str) -> Self {
        Self {
            id: id.to_owned(),
            data: locations.containers().join(id),
            state: locations.state.join(id),
        }
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// [`Record`](super::Record).
    pub(crate) fn record(&self) -> PathBuf {
        self.data.join("hull.json")
    }

    /// The lock's file.
    pub(crate) fn lock(&self) -> PathBuf {
        self.data.join("lock")
    }

    /// The OCI runtime specification.
    pub(crate) fn config(&self) -> PathBuf {
        self.data.join("config.json")
    }

    /// How the container ended: [`hull_sandbox::ExitRecord`].
    pub(crate) fn exit(&self) -> PathBuf {
        self.data.join("exit.json")
    }

    /// Output of a detached container, in the Kubernetes CRI log format.
    pub(crate) fn log(&self) -> PathBuf {
        self.data.join("log")
    }

    /// What the container has written.
    pub(crate) fn upper(&self) -> PathBuf {
        self.data.join("upper")
    }

    /// The overlay's own.
    pub(crate) fn work(&self) -> PathBuf {
        self.data.join("work")
    }

    /// An empty directory to mount on.
    pub(crate) fn scratch(&self) -> PathBuf {
        self.data.join("scratch")
    }

    /// Volumes without a name.
    pub(crate) fn volumes(&self) -> PathBuf {
        self.data.join("volumes")
    }
}
