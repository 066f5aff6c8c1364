//! Container roots as EROFS images: made once for a chain of layers, kept in a cache, shared by all pods.
//!
//! A guest reads an image as one file and keeps what it has read, names and attributes included. With the
//! directory itself each of them is a request to the host.
//!
//! - [`RootImages`]: the cache
//! - `identity`: what tells one chain of layers from another
//! - `mkfs`: makes an image
//! - `disk`: makes a disk for what is written over one

mod disk;
mod identity;
mod mkfs;

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::SystemTime;

use hull_vm::VmError;
use nix::sys::statfs::{FsType, statfs};
use tempfile::NamedTempFile;

use crate::error::SandboxError;
use crate::mount::MountSpec;
use identity::Identity;

/// Where a machine's pods have their cache together, unless it is said.
pub const DEFAULT_DIR: &str = "/var/lib/hull/root-images";

/// How a finished image's name ends.
const FINISHED: &str = "erofs";
/// How the name of one ends that is being made. Its maker holds a lock on it (flock(2)).
const UNFINISHED: &str = "part";

/// Why there is no image of a root.
#[derive(Debug, thiserror::Error)]
pub enum RootImageError {
    /// The root is not made of directories that could be told from others.
    #[error(
        "not supported: an image of a root that is not one overlay or one directory of the engine's (root.kind = \"shared\" takes any)"
    )]
    Unsupported,
    /// The root is a file system that the guest's kernel does not have.
    #[error(
        "not supported: a root of type {0} mounted by the guest (root.kind = \"shared\" takes any)"
    )]
    FileSystem(String),
    /// The program that makes it is not there.
    #[error(transparent)]
    Program(VmError),
    /// The root cannot be mounted for it.
    #[error(transparent)]
    Mount(Box<SandboxError>),
    /// That program has failed.
    #[error("cannot make {}: {program} said: {said}", image.display())]
    Make {
        /// Its name.
        program: &'static str,
        /// What it makes.
        image: PathBuf,
        /// The end of its output.
        said: String,
    },
    /// The image would take more than all may.
    #[error(
        "the container's root holds {bytes} bytes, and images may take {limit} together (root.cache_size)"
    )]
    TooLarge {
        /// What its files hold.
        bytes: u64,
        /// The cache's limit.
        limit: u64,
    },
    /// The layers are not what they were.
    #[error("the container's layers have changed while an image was made of them")]
    Changed,
    /// A file operation.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

pub(crate) fn cannot(
    action: &'static str,
    path: &Path,
) -> impl FnOnce(io::Error) -> RootImageError {
    let path = path.to_owned();
    move |source| RootImageError::Io {
        action,
        path,
        source,
    }
}

/// That `program` has made `image`, as its output says.
fn made(program: &'static str, image: &Path, output: &Output) -> Result<(), RootImageError> {
    /// Bytes of what it said that an error has, as one line.
    const SAID: usize = 1024;
    if output.status.success() {
        return Ok(());
    }
    let said = [&output.stdout[..], &output.stderr].concat();
    let end = String::from_utf8_lossy(&said[said.len().saturating_sub(SAID)..]).into_owned();
    Err(RootImageError::Make {
        program,
        image: image.to_owned(),
        said: end.split_whitespace().collect::<Vec<_>>().join(" "),
    })
}

/// The kind of the file system that a directory is in (`linux/magic.h`).
pub(crate) fn file_system(dir: &Path) -> Result<FsType, RootImageError> {
    let found = statfs(dir).map_err(|errno| cannot("look at", dir)(errno.into()))?;
    Ok(found.filesystem_type())
}

/// Whether an open file has not been removed.
fn has_name(file: &File, path: &Path) -> Result<bool, RootImageError> {
    let found = file.metadata().map_err(cannot("look at", path))?;
    Ok(found.nlink() > 0)
}

/// A directory with images.
///
/// An image's name is the [identity](identity) of what it was made from, so one whose layers have changed is
/// found no more. Several processes may use the directory at once.
#[derive(Debug)]
pub struct RootImages {
    dir: PathBuf,
    limit: u64,
    mkfs: Option<PathBuf>,
}

impl RootImages {
    /// In `dir`, which is made when it is needed. Images take `limit` bytes of its disk together, as far as they are not
    /// in use: those that were used last are kept.
    #[must_use]
    pub fn new(dir: &Path, limit: u64) -> Self {
        Self {
            dir: dir.to_owned(),
            limit,
            mkfs: None,
        }
    }

    /// Makes images with this program in place of the `mkfs.erofs` in `PATH`.
    #[must_use]
    pub fn made_by(self, mkfs: PathBuf) -> Self {
        Self {
            mkfs: Some(mkfs),
            ..self
        }
    }

    /// The image of what `mounts` show, and makes it if it is not there. `scratch` is a directory that
    /// does not exist and is made for that long.
    ///
    /// It stays in the cache as long as the file is open: one without a name cannot be mounted.
    ///
    /// # Errors
    /// [`RootImageError::Unsupported`] for roots that are no directories of the host's own; when there is no `mkfs.erofs` or no room, and
    /// when the layers are too large or change meanwhile. Nothing is left then.
    pub fn get(&self, mounts: &[MountSpec], scratch: &Path) -> Result<File, RootImageError> {
        let [root] = mounts else {
            return Err(RootImageError::Unsupported);
        };
        self.create()?;
        let identity = Identity::of(root)?;
        if identity.bytes > self.limit {
            return Err(RootImageError::TooLarge {
                bytes: identity.bytes,
                limit: self.limit,
            });
        }
        let finished = self.path(&identity, FINISHED);
        loop {
            if let Some(image) = open_for_use(&finished)? {
                // The time of the last use, for `make_room`.
                image
                    .set_modified(SystemTime::now())
                    .map_err(cannot("mark as used", &finished))?;
                return Ok(image);
            }
            let Some(lock) = self.lock(&identity)? else {
                // Whoever had it has finished the image, or given up.
                continue;
            };
            let unfinished = self.path(&identity, UNFINISHED);
            if let Err(error) = self.make(root, &identity, &unfinished, &lock, scratch) {
                // While the lock is held: after that it may be somebody else's.
                if let Err(clean_up) = remove(&unfinished) {
                    tracing::error!(error = %clean_up, "cannot clean up after an image was not made");
                }
                return Err(error);
            }
            fs::rename(&unfinished, &finished).map_err(cannot("rename", &unfinished))?;
            self.sync()?;
            self.make_room(&finished)?;
        }
    }

    /// A disk of `bytes` for what is written over an image, which takes as much of the disk that the images are on as is
    /// written to it. It has a name as long as the answer lives.
    ///
    /// # Errors
    /// When there is no `mkfs.ext4`, or no room for its file system.
    pub fn disk(&self, bytes: u64) -> Result<NamedTempFile, RootImageError> {
        self.create()?;
        disk::make(&self.dir, bytes)
    }

    fn create(&self) -> Result<(), RootImageError> {
        let mut builder = fs::DirBuilder::new();
        let created = builder.recursive(true).mode(0o700).create(&self.dir);
        created.map_err(cannot("create", &self.dir))
    }

    fn path(&self, identity: &Identity, extension: &str) -> PathBuf {
        self.dir.join(format!("{identity}.{extension}"))
    }

    /// The beginning of this image, which nobody else makes. Nothing when somebody did, after waiting for it, and when the
    /// file has got another name, or none, meanwhile.
    fn lock(&self, identity: &Identity) -> Result<Option<File>, RootImageError> {
        let path = self.path(identity, UNFINISHED);
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(cannot("create", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                // Until it is made. Those who use it then keep others from no more than removing it.
                file.lock_shared().map_err(cannot("lock", &path))?;
                return Ok(None);
            }
            Err(TryLockError::Error(error)) => return Err(cannot("lock", &path)(error)),
        }
        let locked = file.metadata().map_err(cannot("look at", &path))?;
        let is_same = match fs::symlink_metadata(&path) {
            Ok(named) => (named.dev(), named.ino()) == (locked.dev(), locked.ino()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => return Err(cannot("look at", &path)(error)),
        };
        Ok(is_same.then_some(file))
    }

    /// Makes an image in the locked file `image`, which may hold the beginning of one.
    fn make(
        &self,
        root: &MountSpec,
        identity: &Identity,
        image: &Path,
        lock: &File,
        scratch: &Path,
    ) -> Result<(), RootImageError> {
        lock.set_len(0).map_err(cannot("empty", image))?;
        let program = mkfs::program(self.mkfs.as_deref())?;
        mkfs::make(&program, root, image, lock, scratch)?;
        // Before it has its name: a crash of the machine must not leave a beginning with the name of the whole.
        let file = File::open(image).map_err(cannot("open", image))?;
        file.sync_all().map_err(cannot("write", image))?;
        match Identity::of(root)? == *identity {
            true => Ok(()),
            false => Err(RootImageError::Changed),
        }
    }

    fn sync(&self) -> Result<(), RootImageError> {
        let dir = File::open(&self.dir).map_err(cannot("open", &self.dir))?;
        dir.sync_all().map_err(cannot("write", &self.dir))
    }

    /// Removes what no process works on, and of the images those that were not used for the longest time until the rest
    /// takes no more than the limit. `newest` stays in any case.
    fn make_room(&self, newest: &Path) -> Result<(), RootImageError> {
        let mut images = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(cannot("read", &self.dir))? {
            let path = entry.map_err(cannot("read", &self.dir))?.path();
            let extension = path.extension().unwrap_or_default();
            if extension == UNFINISHED {
                let _ = remove_unused(&path)?;
            } else if extension == FINISHED && path != newest {
                match fs::symlink_metadata(&path) {
                    Ok(found) => {
                        images.push((found.mtime(), found.mtime_nsec(), size(&found), path))
                    }
                    // Another process makes room, too.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(cannot("look at", &path)(error)),
                }
            }
        }
        let newest = fs::symlink_metadata(newest).as_ref().map_or(0, size);
        images.sort();
        let mut total = newest + images.iter().map(|(_, _, size, _)| size).sum::<u64>();
        for (_, _, size, path) in images {
            if total <= self.limit {
                break;
            }
            if remove_unused(&path)? {
                total -= size;
            }
        }
        Ok(())
    }
}

/// Bytes of the disk.
fn size(metadata: &fs::Metadata) -> u64 {
    metadata.blocks() * 512
}

fn open(path: &Path) -> Result<Option<File>, RootImageError> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(cannot("open", path)(error)),
    }
}

/// Opens an image so that it keeps its name.
fn open_for_use(image: &Path) -> Result<Option<File>, RootImageError> {
    while let Some(file) = open(image)? {
        file.lock_shared().map_err(cannot("lock", image))?;
        if has_name(&file, image)? {
            return Ok(Some(file));
        }
        // It was removed between the two.
    }
    Ok(None)
}

fn remove(path: &Path) -> Result<(), RootImageError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(cannot("remove", path)(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Removes what nobody has locked: an image that is not about to be mounted, or the beginning of one whose maker has
/// ended. False where somebody has.
fn remove_unused(path: &Path) -> Result<bool, RootImageError> {
    let Some(file) = open(path)? else {
        return Ok(true);
    };
    match file.try_lock() {
        // Whoever opened it meanwhile finds, with the lock, that the name is gone.
        Ok(()) => remove(path).map(|()| true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(cannot("lock", path)(error)),
    }
}
