//! Locks between processes: `flock`, which the kernel drops when its holder dies.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::error::ImageError;

/// A held lock.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes a lock alone; waits for it.
    pub(crate) fn exclusive(path: &Path) -> Result<Self, ImageError> {
        let file = open(path)?;
        file.lock().map_err(ImageError::io("lock", path))?;
        Ok(Self { _file: file })
    }

    /// Takes a lock together with others; waits for it.
    pub(crate) fn shared(path: &Path) -> Result<Self, ImageError> {
        let file = open(path)?;
        file.lock_shared().map_err(ImageError::io("lock", path))?;
        Ok(Self { _file: file })
    }

    /// Takes a lock alone, or none if somebody has it.
    pub(crate) fn try_exclusive(path: &Path) -> Result<Option<Self>, ImageError> {
        let file = open(path)?;
        Ok(try_lock(&file, path)?.then_some(Self { _file: file }))
    }
}

/// Whether `file` could be locked alone.
pub(crate) fn try_lock(file: &File, path: &Path) -> Result<bool, ImageError> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(source)) => Err(ImageError::io("lock", path)(source)),
    }
}

fn open(path: &Path) -> Result<File, ImageError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(ImageError::io("open", path))
}
