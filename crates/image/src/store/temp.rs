//! Files and directories in the making. Each is locked by its maker, so that what a killed process
//! leaves is known by its free lock and removed by the next one.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{CWD, RenameFlags};

use super::lock::{Lock, try_lock};
use crate::error::ImageError;
use crate::layer::remove_tree;

/// Makes names different within this process.
static COUNTER: AtomicU64 = AtomicU64::new(0);

/// The directory of things in the making.
#[derive(Debug, Clone)]
pub(crate) struct TempArea {
    dir: PathBuf,
    /// Held together while something is made and not yet locked, alone while leftovers are sought.
    lock: PathBuf,
}

/// A file or directory in the making: removed unless it is kept.
#[derive(Debug)]
pub(crate) struct Temp {
    parent: PathBuf,
    name: OsString,
    kept: bool,
    /// Holds the lock.
    file: File,
}

impl TempArea {
    pub(super) fn new(dir: PathBuf, lock: PathBuf) -> Self {
        Self { dir, lock }
    }

    /// Makes an empty directory.
    pub(crate) fn dir(&self) -> Result<Temp, ImageError> {
        self.make(|path| {
            DirBuilder::new().mode(0o700).create(path)?;
            File::open(path)
        })
    }

    /// Makes an empty file.
    pub(crate) fn file(&self) -> Result<Temp, ImageError> {
        self.make(|path| {
            OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(path)
        })
    }

    /// Moves `path`, which nobody uses, here to be removed with the handle.
    pub(crate) fn adopt(&self, path: &Path) -> Result<Temp, ImageError> {
        self.make(|to| {
            let file = File::open(path)?;
            rustix::fs::renameat_with(CWD, path, CWD, to, RenameFlags::NOREPLACE)?;
            Ok(file)
        })
    }

    fn make(&self, create: impl Fn(&Path) -> io::Result<File>) -> Result<Temp, ImageError> {
        let _sweeper_waits = Lock::shared(&self.lock)?;
        loop {
            let number = COUNTER.fetch_add(1, Ordering::Relaxed);
            let name = OsString::from(format!("{}-{number}", std::process::id()));
            let path = self.dir.join(&name);
            let file = match create(&path) {
                // Another process with the same number, in another PID namespace or before.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                other => other.map_err(ImageError::io("create", &path))?,
            };
            // An adopted directory is locked by whoever gave it up.
            try_lock(&file, &path)?;
            return Ok(Temp {
                parent: self.dir.clone(),
                name,
                kept: false,
                file,
            });
        }
    }

    /// Removes what dead processes left; says whether there was anything.
    pub(super) fn sweep(&self) -> Result<bool, ImageError> {
        let mut dead = Vec::new();
        {
            let _makers_wait = Lock::exclusive(&self.lock)?;
            let entries = fs::read_dir(&self.dir).map_err(ImageError::io("list", &self.dir))?;
            for entry in entries {
                let entry = entry.map_err(ImageError::io("list", &self.dir))?;
                let path = entry.path();
                let file = match File::open(&path) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    other => other.map_err(ImageError::io("open", &path))?,
                };
                if try_lock(&file, &path)? {
                    dead.push(Temp {
                        parent: self.dir.clone(),
                        name: entry.file_name(),
                        kept: false,
                        file,
                    });
                }
            }
        }
        let found = !dead.is_empty();
        for temp in dead {
            tracing::debug!(path = %temp.path().display(), "removing what a dead process left");
            temp.remove()?;
        }
        Ok(found)
    }
}

impl Temp {
    pub(crate) fn path(&self) -> PathBuf {
        self.parent.join(&self.name)
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Gives it its final name.
    pub(crate) fn keep_as(mut self, path: &Path) -> Result<(), ImageError> {
        fs::rename(self.path(), path).map_err(ImageError::io("create", path))?;
        self.kept = true;
        Ok(())
    }

    /// Removes it.
    pub(crate) fn remove(mut self) -> Result<(), ImageError> {
        self.kept = true;
        remove_path(&self.parent, &self.name)
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        if !self.kept
            && let Err(error) = remove_path(&self.parent, &self.name)
        {
            // The next process tries again.
            tracing::warn!(path = %self.path().display(), error = &error as &dyn std::error::Error, "leftover stays");
        }
    }
}

fn remove_path(parent: &Path, name: &OsStr) -> Result<(), ImageError> {
    let dir = File::open(parent).map_err(ImageError::io("open", parent))?;
    remove_tree(dir.as_fd(), name).map_err(ImageError::io("remove", parent.join(name)))
}
