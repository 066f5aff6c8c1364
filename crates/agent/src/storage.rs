//! Mounting what the host provides.

use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hull_agent_api::agent::Storage;
use hull_agent_api::agent::storage::Driver;
use hull_loop::LoopDevice;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::error::AgentError;
use crate::helper::{Bind, MountOptions, parse_mount_options};
use crate::sys::mount::{Attributes, attach, clone_tree, set_attributes};

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
        let mount_points = self.mount_points;
        let unmounting = tokio::task::spawn_blocking(move || {
            // Whoever still uses one keeps it mounted, and the guest may end before.
            for path in &mount_points {
                if let Err(error) = sync(path) {
                    log::error!(
                        "what was written below {} may be lost: {error}",
                        path.display()
                    );
                }
            }
            unmount_all(&mount_points);
        });
        if let Err(panicked) = unmounting.await {
            log::error!("cannot unmount what a container had: {panicked}");
        }
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
        Driver::LOOP => {
            let (storage, at) = (storage.clone(), target.clone());
            // The kernel goes through the journal of one that was not unmounted.
            let mounting = tokio::task::spawn_blocking(move || looped(&storage, &at, &options));
            let failed = AgentError::io(format!("mount {}", target.display()));
            mounting
                .await
                .map_err(|panicked| failed(panicked.into()))??;
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

/// Mounts a file through a loop device, which goes with the mount.
fn looped(storage: &Storage, target: &Path, options: &MountOptions) -> Result<(), AgentError> {
    let read_only = options.flags.0.contains(MsFlags::MS_RDONLY);
    let device = host_disks::over(Path::new(&storage.source), read_only)?;
    let device = device.path().display().to_string();
    new(&device, target, &storage.fs_type, options)
}

/// Waits until what was written below a mount point is where it is kept (syncfs(2)).
fn sync(mount_point: &Path) -> std::io::Result<()> {
    let directory = std::fs::File::open(mount_point)?;
    // SAFETY: the descriptor is open, and the call takes no memory.
    match unsafe { libc::syncfs(directory.as_raw_fd()) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
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
