//! Mounting what the host provides.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hull_agent_api::agent::Storage;
use hull_agent_api::agent::storage::Driver;
use hull_loop::LoopDevice;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::error::AgentError;
use crate::helper::{Bind, MountOptions, parse_mount_options};
use crate::sys::mount::{Attributes, attach, clone_tree, set_attributes};

mod disk;
mod fuse;
mod host_disks;

pub(crate) use host_disks::HostDisks;

/// What was made for a container.
#[derive(Debug, Clone, Default)]
pub(crate) struct Storages {
    /// In the order of mounting.
    pub(crate) mount_points: Vec<PathBuf>,
    pub(crate) disks: Vec<Arc<LoopDevice>>,
}

impl Storages {
    /// What the container wrote is on the host's disks when this returns.
    pub(crate) async fn let_go(self) {
        unmount_all(&self.mount_points);
        host_disks::detach(self.disks).await;
    }
}

/// Mounts storages in order. When one fails, those before it are unmounted.
pub(crate) async fn mount_all(storages: &[Storage]) -> Result<Vec<PathBuf>, AgentError> {
    let mut mounted = Vec::new();
    for storage in storages {
        match mount_one(storage).await {
            Ok(target) => mounted.push(target),
            Err(error) => {
                unmount_all(&mounted);
                return Err(error);
            }
        }
    }
    Ok(mounted)
}

/// Unmounts in the opposite order.
pub(crate) fn unmount_all(mount_points: &[PathBuf]) {
    for path in mount_points.iter().rev() {
        // What is still in use goes away with its last user.
        if let Err(errno) = umount2(path, MntFlags::MNT_DETACH) {
            log::warn!("cannot unmount {}: {errno}", path.display());
        } else {
            // Of no use without the mount. It may be gone with another one, or hold something else.
            let _ = std::fs::remove_dir(path);
        }
    }
}

async fn mount_one(storage: &Storage) -> Result<PathBuf, AgentError> {
    let target = PathBuf::from(&storage.target);
    if !target.is_absolute() {
        return Err(AgentError::Invalid {
            field: "storage target",
            value: storage.target.clone(),
        });
    }
    let options = parse_mount_options(&storage.options);
    let driver = storage.driver.enum_value().unwrap_or(Driver::UNSPECIFIED);
    match driver {
        Driver::FUSE => fuse::mount(&target)?,
        Driver::VIRTIO_FS => new(&storage.source, &target, "virtiofs", &options)?,
        Driver::TMPFS => new("tmpfs", &target, "tmpfs", &options)?,
        Driver::OVERLAY => {
            create_layers(&options)?;
            new("overlay", &target, "overlay", &options)?;
        }
        Driver::FILE => new(&storage.source, &target, &storage.fs_type, &options)?,
        Driver::BLOCK => {
            let device = disk::by_serial(&storage.source).await?;
            let device = device.display().to_string();
            new(&device, &target, &storage.fs_type, &options)?;
        }
        Driver::BIND => bind(Path::new(&storage.source), &target, &options)?,
        Driver::UNSPECIFIED => {
            return Err(AgentError::Invalid {
                field: "storage driver",
                value: storage.driver.value().to_string(),
            });
        }
    }
    Ok(target)
}

/// Makes the directories that an overlay writes to.
fn create_layers(options: &MountOptions) -> Result<(), AgentError> {
    let written = |option: &str| match option.split_once('=') {
        Some(("upperdir" | "workdir", dir)) => Some(PathBuf::from(dir)),
        _ => None,
    };
    for dir in options.data.iter().filter_map(|option| written(option)) {
        std::fs::create_dir_all(&dir)
            .map_err(AgentError::io(format!("create {}", dir.display())))?;
    }
    Ok(())
}

fn new(source: &str, target: &Path, kind: &str, options: &MountOptions) -> Result<(), AgentError> {
    let failed = || AgentError::io(format!("mount {source} ({kind}) on {}", target.display()));
    std::fs::create_dir_all(target).map_err(failed())?;
    mount(
        Some(source),
        target,
        Some(kind),
        options.flags.0,
        Some(options.data().as_str()),
    )
    .map_err(|errno| failed()(errno.into()))?;
    for flags in &options.propagation {
        mount(None::<&str>, target, None::<&str>, flags.0, None::<&str>)
            .map_err(|errno| failed()(errno.into()))?;
    }
    Ok(())
}

fn bind(source: &Path, target: &Path, options: &MountOptions) -> Result<(), AgentError> {
    let failed = || AgentError::io(format!("bind {} on {}", source.display(), target.display()));
    if source.is_dir() {
        std::fs::create_dir_all(target).map_err(failed())?;
    } else {
        if let Some(parent) = target.parent() {
            std::fs::create_dir_all(parent).map_err(failed())?;
        }
        std::fs::File::options()
            .create(true)
            .append(true)
            .open(target)
            .map_err(failed())?;
    }
    let recursive = options.bind == Some(Bind::Recursive);
    let tree = clone_tree(source, recursive).map_err(failed())?;
    if options.attributes != Attributes::default() {
        set_attributes(tree.as_fd(), options.attributes, false).map_err(failed())?;
    }
    if options.recursive_attributes != Attributes::default() {
        set_attributes(tree.as_fd(), options.recursive_attributes, true).map_err(failed())?;
    }
    for flags in &options.propagation {
        let propagation = Attributes {
            propagation: (flags.0 & !MsFlags::MS_REC).bits(),
            ..Attributes::default()
        };
        let recursive = flags.0.contains(MsFlags::MS_REC);
        set_attributes(tree.as_fd(), propagation, recursive).map_err(failed())?;
    }
    let target = nix::fcntl::open(
        target,
        nix::fcntl::OFlag::O_PATH | nix::fcntl::OFlag::O_CLOEXEC,
        nix::sys::stat::Mode::empty(),
    )
    .map_err(|errno| failed()(errno.into()))?;
    attach(tree.as_fd(), target.as_fd()).map_err(failed())
}
