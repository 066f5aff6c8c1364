//! cgroup v2 of containers: `/sys/fs/cgroup/hull/<container id>`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::helper::Reason;
use crate::spec::Resources;

mod devices;
mod limits;
mod stats;

pub(crate) use stats::{OomCounter, guest_metrics, metrics};

/// Where the guest's hierarchy is.
pub(crate) const MOUNT_POINT: &str = "/sys/fs/cgroup";

/// The parent of all containers.
const PARENT: &str = "hull";

/// Why a cgroup could not be changed or read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CgroupError {
    #[error("cannot {action} the cgroup {}", path.display())]
    Directory {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot write {value:?} to {}", path.display())]
    Write {
        path: PathBuf,
        value: String,
        #[source]
        source: io::Error,
    },
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot restrict the devices of {}", path.display())]
    Devices {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("resources: {field} has the invalid value {value:?}")]
    Invalid { field: &'static str, value: String },
    #[error("this guest's kernel has no {file}")]
    Missing { file: String },
}

impl CgroupError {
    pub(crate) fn reason(&self) -> Reason {
        match self {
            Self::Invalid { .. } => Reason::Invalid,
            Self::Missing { .. } => Reason::Unsupported,
            Self::Directory { .. }
            | Self::Write { .. }
            | Self::Read { .. }
            | Self::Devices { .. } => Reason::Internal,
        }
    }
}

/// Makes the parent of all containers and hands the controllers down to it.
pub(crate) fn prepare() -> Result<(), CgroupError> {
    let root = Path::new(MOUNT_POINT);
    let parent = root.join(PARENT);
    create_directory(&parent)?;
    delegate(root)?;
    delegate(&parent)
}

/// Makes all controllers that a cgroup has available to its children.
fn delegate(path: &Path) -> Result<(), CgroupError> {
    let control = path.join("cgroup.subtree_control");
    let controllers = read(&path.join("cgroup.controllers"))?;
    // All in one write: each has the kernel wait for all CPUs.
    let enable: Vec<String> = controllers
        .split_whitespace()
        .map(|controller| format!("+{controller}"))
        .collect();
    if enable.is_empty() {
        return Ok(());
    }
    write(&control, &enable.join(" "))
}

fn create_directory(path: &Path) -> Result<(), CgroupError> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other.map_err(|source| CgroupError::Directory {
            action: "make",
            path: path.to_owned(),
            source,
        }),
    }
}

fn read(path: &Path) -> Result<String, CgroupError> {
    fs::read_to_string(path).map_err(|source| CgroupError::Read {
        path: path.to_owned(),
        source,
    })
}

fn write(path: &Path, value: &str) -> Result<(), CgroupError> {
    // Not fs::write: it would create a missing file, which the kernel refuses less clearly.
    let written = fs::File::options()
        .write(true)
        .open(path)
        .and_then(|mut file| io::Write::write_all(&mut file, value.as_bytes()));
    written.map_err(|source| {
        if source.kind() == io::ErrorKind::NotFound {
            CgroupError::Missing {
                file: path
                    .file_name()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned(),
            }
        } else {
            CgroupError::Write {
                path: path.to_owned(),
                value: value.to_owned(),
                source,
            }
        }
    })
}

/// The cgroup of one container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Makes the cgroup. The id has been checked to be a plain file name.
    pub(crate) fn create(id: &str) -> Result<Self, CgroupError> {
        let path = Path::new(MOUNT_POINT).join(PARENT).join(id);
        create_directory(&path)?;
        Ok(Self { path })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Limits for a new container, its devices among them.
    pub(crate) fn restrict(&self, resources: &Resources) -> Result<(), CgroupError> {
        self.update(resources)?;
        devices::restrict(&self.path, &resources.devices)
    }

    /// Changes what the resources name and leaves the rest.
    pub(crate) fn update(&self, resources: &Resources) -> Result<(), CgroupError> {
        limits::check_memory(&self.path, &resources.memory)?;
        for setting in limits::settings(&self.path, resources)? {
            match write(&self.path.join(&setting.file), &setting.value) {
                Err(CgroupError::Missing { .. }) if setting.holds_without_file() => {}
                other => other?,
            }
        }
        Ok(())
    }

    /// Replaces the device rules.
    pub(crate) fn restrict_devices(&self, resources: &Resources) -> Result<(), CgroupError> {
        devices::restrict(&self.path, &resources.devices)
    }

    /// Where a further process goes. A cgroup whose children have controllers takes no processes
    /// of its own; then it is where init is by now.
    pub(crate) fn for_new_process(&self, init_pid: i32) -> Result<PathBuf, CgroupError> {
        if read(&self.path.join("cgroup.subtree_control"))?
            .trim()
            .is_empty()
        {
            return Ok(self.path.clone());
        }
        let membership = read(Path::new(&format!("/proc/{init_pid}/cgroup")))?;
        let relative = membership
            .lines()
            .find_map(|line| line.strip_prefix("0::/"))
            .unwrap_or_default();
        let path = Path::new(MOUNT_POINT).join(relative);
        // Init may have been moved elsewhere by a process with the rights to do so.
        Ok(if path.starts_with(&self.path) {
            path
        } else {
            self.path.clone()
        })
    }

    /// Kills every process in it and below.
    pub(crate) fn kill(&self) -> Result<(), CgroupError> {
        write(&self.path.join("cgroup.kill"), "1")
    }

    /// Asks for every process to be stopped or let go on; [`Self::is_frozen`] tells when it is so.
    pub(crate) fn freeze(&self, frozen: bool) -> Result<(), CgroupError> {
        write(
            &self.path.join("cgroup.freeze"),
            if frozen { "1" } else { "0" },
        )
    }

    pub(crate) fn is_frozen(&self) -> Result<bool, CgroupError> {
        self.event("frozen")
    }

    /// Whether a process, even a dead one that was not reaped, is in it or below.
    pub(crate) fn is_populated(&self) -> Result<bool, CgroupError> {
        self.event("populated")
    }

    /// The file that changes with [`Self::is_frozen`] and [`Self::is_populated`].
    pub(crate) fn events_file(&self) -> PathBuf {
        self.path.join("cgroup.events")
    }

    fn event(&self, name: &str) -> Result<bool, CgroupError> {
        let events = read(&self.events_file())?;
        Ok(stats::field(&events, name) == Some(1))
    }

    /// Processes in it and below.
    pub(crate) fn pids(&self) -> Result<Vec<u32>, CgroupError> {
        let mut pids = Vec::new();
        let mut pending = vec![self.path.clone()];
        while let Some(path) = pending.pop() {
            let text = match read(&path.join("cgroup.procs")) {
                // Threaded cgroups list their processes in the parent only; a child may be gone.
                Err(_) if path != self.path => continue,
                other => other?,
            };
            pids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
            pending.extend(children(&path));
        }
        pids.sort_unstable();
        Ok(pids)
    }

    /// Removes it with what the container made below it. It must have no processes.
    pub(crate) fn remove(&self) -> Result<(), CgroupError> {
        remove_tree(&self.path)
    }
}

fn children(path: &Path) -> Vec<PathBuf> {
    // A cgroup that is gone has none.
    let Ok(entries) = fs::read_dir(path) else {
        return Vec::new();
    };
    entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

fn remove_tree(path: &Path) -> Result<(), CgroupError> {
    for child in children(path) {
        remove_tree(&child)?;
    }
    match fs::remove_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(|source| CgroupError::Directory {
            action: "remove",
            path: path.to_owned(),
            source,
        }),
    }
}
