//! Roots that a guest mounts by itself, so that the host's kernel does not: from file systems in files and disks of the
//! host's.
//!
//! - `layers`: roots whose layers are EROFS images already

mod layers;

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use nix::sys::stat::{major, minor};
use tempfile::TempPath;

use crate::config::Roots;
use crate::error::SandboxError;
use crate::mount::layers::Layers;
use crate::mount::{MountSpec, origin, tree};
use crate::root_image::{RootImageError, RootImages};
use crate::share::create_dir;
use crate::spec::{self, Disk};

/// File systems that the guest's kernel has for a container's own root.
const OWN_KINDS: [&str; 2] = ["ext4", "erofs"];

/// What a guest mounts.
#[derive(Debug)]
pub(crate) enum GuestRoot {
    /// EROFS images, and a layer over them for what is written.
    Layers {
        /// The uppermost first.
        images: Vec<SharedFile>,
        /// An ext4 file system; without it the layer is in the guest's memory.
        disk: Option<SharedFile>,
    },
    /// The container's own file system, in which things are changed.
    Own {
        /// Where it is.
        place: Place,
        /// Its type.
        kind: String,
        /// Flags and data for it, as in mount(8).
        options: Vec<String>,
    },
}

/// Where a file system of the host's is.
#[derive(Debug)]
pub(crate) enum Place {
    /// In a file.
    File(SharedFile),
    /// On a block device.
    Disk(Disk),
}

/// A file that the guest is shown.
#[derive(Debug)]
pub(crate) struct SharedFile {
    /// A mount of it, attached to nothing.
    tree: OwnedFd,
    /// With the lock that an image has.
    _open: File,
    /// The name that goes when it is mounted, if any does.
    _name: Option<TempPath>,
}

impl SharedFile {
    /// To be called in the mount namespace in which the file was opened. Read-only unless `writable`.
    fn new(file: File, name: Option<TempPath>, writable: bool) -> io::Result<Self> {
        Ok(Self {
            tree: tree::of_file(&file, !writable)?,
            _open: file,
            _name: name,
        })
    }
}

impl GuestRoot {
    /// How a guest gets the root that `mounts` make. Nothing where it is the host that mounts them. `scratch` is a
    /// directory that does not exist and may be made for that long.
    ///
    /// # Errors
    /// [`RootImageError`], for roots that can be neither taken as they are nor made an image of, and when there is no
    /// disk for what is written.
    pub(crate) fn choose(
        roots: &Roots,
        mounts: &[MountSpec],
        scratch: &Path,
    ) -> Result<Option<Self>, SandboxError> {
        let Roots::Image {
            cache,
            limit,
            disk_size,
        } = roots
        else {
            return Ok(None);
        };
        let [root] = mounts else {
            return Err(RootImageError::Unsupported.into());
        };
        let Some(layers) = Layers::of(root) else {
            return Self::own(root).map(Some);
        };
        let cannot = || SandboxError::host("mount the image of a root");
        let cache = RootImages::new(cache, *limit);
        let images = match layers::images(&layers)? {
            Some(images) => images,
            None => {
                let image = cache.get(mounts, scratch)?;
                vec![SharedFile::new(image, None, false).map_err(cannot())?]
            }
        };
        let disk = match disk_size {
            0 => None,
            bytes => {
                let (file, name) = cache.disk(*bytes)?.into_parts();
                Some(SharedFile::new(file, Some(name), true).map_err(cannot())?)
            }
        };
        Ok(Some(Self::Layers { images, disk }))
    }

    fn own(mount: &MountSpec) -> Result<Self, SandboxError> {
        if !OWN_KINDS.contains(&mount.kind.as_str()) {
            return Err(RootImageError::FileSystem(mount.kind.clone()).into());
        }
        let options = mount.options.iter();
        let options = options.filter(|option| !matches!(option.as_str(), "loop" | "defaults"));
        let options: Vec<_> = options.cloned().collect();
        let path = Path::new(&mount.source);
        let open = || {
            let found = fs::metadata(path)?;
            let shared = |file| SharedFile::new(file, None, !mount.is_read_only());
            let file = found.is_file().then(|| File::open(path).and_then(shared));
            Ok((found, file.transpose()?))
        };
        let cannot = SandboxError::host(format!("open the root {}", path.display()));
        let (found, file) = origin::there(open).map_err(cannot)?;
        let place = if found.file_type().is_block_device() {
            let number = |part: u64| u32::try_from(part).expect("device numbers have 32 bits");
            Place::Disk(Disk {
                major: number(major(found.rdev())),
                minor: number(minor(found.rdev())),
                read_only: mount.is_read_only(),
                path: path.to_owned(),
            })
        } else {
            Place::File(file.ok_or(RootImageError::Unsupported)?)
        };
        Ok(Self::Own {
            place,
            kind: mount.kind.clone(),
            options,
        })
    }

    /// Shows its files to the guest, in the container's directory `dir` of the share.
    pub(crate) fn show(&self, dir: &Path) -> Result<(), SandboxError> {
        create_dir(dir)?;
        let attach = |file: &SharedFile, name: &str| {
            let target = dir.join(name);
            let cannot = || SandboxError::host(format!("mount a file on {}", target.display()));
            fs::write(&target, b"").map_err(cannot())?;
            tree::attach(&file.tree, &target).map_err(cannot())
        };
        match self {
            Self::Layers { images, disk } => {
                for (index, image) in images.iter().enumerate() {
                    attach(image, &spec::root_image(index))?;
                }
                match disk {
                    Some(disk) => attach(disk, spec::ROOT_DISK),
                    None => Ok(()),
                }
            }
            Self::Own {
                place: Place::File(file),
                ..
            } => attach(file, spec::ROOT_DISK),
            // It is shown with the pod's other disks.
            Self::Own {
                place: Place::Disk(_),
                ..
            } => Ok(()),
        }
    }

    /// The block device that it is on.
    pub(crate) fn disk(&self) -> Option<&Disk> {
        match self {
            Self::Own {
                place: Place::Disk(disk),
                ..
            } => Some(disk),
            _ => None,
        }
    }
}
