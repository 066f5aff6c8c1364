//! Which images there are: one JSON file, replaced as a whole.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use rustix::fs::{FallocateFlags, fallocate};
use serde::{Deserialize, Serialize};

use super::lock::Lock;
use super::temp::TempArea;
use crate::digest::Digest;
use crate::error::ImageError;

/// An image by its parts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// What the reference led to.
    pub(crate) digest: Digest,
    /// The manifest for this platform; the same unless there is an index.
    pub(crate) manifest: Digest,
    /// The configuration, whose digest is the image's id.
    pub(crate) config: Digest,
    /// The compressed layers, lowest first.
    pub(crate) blobs: Vec<Digest>,
    /// The unpacked layers, lowest first.
    pub(crate) chain_ids: Vec<Digest>,
}

impl Record {
    /// Every blob the image needs.
    pub(crate) fn all_blobs(&self) -> impl Iterator<Item = Digest> + '_ {
        [self.digest, self.manifest, self.config]
            .into_iter()
            .chain(self.blobs.iter().copied())
    }
}

/// The images by reference.
pub(crate) type Records = BTreeMap<String, Record>;

/// The file with the images.
#[derive(Debug, Clone)]
pub(crate) struct Index {
    dir: PathBuf,
    temp: TempArea,
}

const FILE: &str = "images.json";
const LOCK: &str = "images.lock";
/// Holds as much of the disk as the file itself: an image can be removed when the disk is full.
const RESERVE: &str = "images.reserve";

impl Index {
    pub(super) fn new(dir: PathBuf, temp: TempArea) -> Self {
        Self { dir, temp }
    }

    /// All images. Needs no lock, as the file is only ever replaced.
    pub(crate) fn read(&self) -> Result<Records, ImageError> {
        let path = self.dir.join(FILE);
        let text = match fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Records::new());
            }
            other => other.map_err(ImageError::io("read", &path))?,
        };
        serde_json::from_slice(&text).map_err(ImageError::io("read", &path))
    }

    /// Changes the images; hands back what `change` does.
    pub(crate) fn update<T>(
        &self,
        change: impl FnOnce(&mut Records) -> Result<T, ImageError>,
    ) -> Result<T, ImageError> {
        let _lock = Lock::exclusive(&self.dir.join(LOCK))?;
        let before = self.read()?;
        let mut records = before.clone();
        let result = change(&mut records)?;
        if records == before {
            return Ok(result);
        }
        let path = self.dir.join(FILE);
        let text = serde_json::to_vec_pretty(&records).map_err(ImageError::io("write", &path))?;
        match self.replace(&text) {
            Err(ImageError::NoSpace { .. }) if records.len() < before.len() => {
                self.give_up_reserve()?;
                self.replace(&text)?;
            }
            other => other?,
        }
        self.keep_reserve(text.len());
        Ok(result)
    }

    fn replace(&self, text: &[u8]) -> Result<(), ImageError> {
        let temp = self.temp.file()?;
        temp.file()
            .write_all(text)
            .and_then(|()| temp.file().sync_all())
            .map_err(ImageError::io("write", temp.path()))?;
        temp.keep_as(&self.dir.join(FILE))?;
        File::open(&self.dir)
            .and_then(|dir| dir.sync_all())
            .map_err(ImageError::io("write", &self.dir))
    }

    fn give_up_reserve(&self) -> Result<(), ImageError> {
        let path = self.dir.join(RESERVE);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(ImageError::io("remove", path)),
        }
    }

    /// Without a reserve, for which there may be no room now, everything works but removal from a full
    /// disk.
    fn keep_reserve(&self, length: usize) {
        let reserve = || -> std::io::Result<()> {
            let path = self.dir.join(RESERVE);
            let file = File::options()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(path)?;
            Ok(fallocate(&file, FallocateFlags::empty(), 0, length as u64)?)
        };
        if let Err(error) = reserve() {
            let error: &dyn std::error::Error = &error;
            tracing::debug!(error, "no room is kept for the removal of images");
        }
    }
}
