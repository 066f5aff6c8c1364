//! Removing images, and what no image needs any more.

use std::collections::HashSet;
use std::fs::{self, File};
use std::path::PathBuf;

use super::lock::{Lock, try_lock};
use super::{Shared, Store, list_names};
use crate::digest::Digest;
use crate::error::{ErrorKind, ImageError};
use crate::layer::OverlayXattr;

/// Which images may be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// Only one that no container uses.
    IfUnused,
    /// Any. Layers in use stay until they are not.
    Force,
}

/// What was given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reclaimed {
    /// Number of unpacked layers.
    pub layers: usize,
    /// Number of blobs.
    pub blobs: usize,
    /// Bytes of blobs and of layers' files.
    pub bytes: u64,
}

impl Store {
    /// Removes an image, given by reference or by the beginning of its id, and what only it needed.
    ///
    /// An id removes every reference to the image.
    ///
    /// # Errors
    /// When there is none, or it is in use.
    pub fn remove(&self, image: &str, removal: Removal) -> Result<Reclaimed, ImageError> {
        let references = self.references(image)?;
        self.shared.index.update(|records| {
            let mut others = records.clone();
            others.retain(|reference, _| !references.contains(reference));
            for reference in &references {
                let Some(record) = records.get(reference) else {
                    return Err(ImageError::NotFound(reference.clone()));
                };
                // Another name keeps the image as it is.
                let is_last = others.values().all(|other| other.config != record.config);
                if removal == Removal::IfUnused && is_last {
                    self.shared.check_unused(reference, &record.chain_ids)?;
                }
            }
            *records = others;
            Ok(())
        })?;
        self.collect()
    }

    /// Removes what no image needs. While another process installs an image nothing is removed;
    /// that process does it when it is done.
    ///
    /// # Errors
    /// When the store cannot be changed.
    pub fn collect(&self) -> Result<Reclaimed, ImageError> {
        self.shared.collect()
    }
}

impl Shared {
    /// Collects what an attempt that failed left, or what was put off because of this process. The
    /// attempt's own outcome matters more than this one's.
    ///
    /// Layers that arrived whole before the network failed stay for the next attempt; whatever else
    /// fails would fail again.
    pub(crate) fn tidy<T>(&self, outcome: &Result<T, ImageError>) {
        let result = match outcome {
            Err(error) if error.kind() != ErrorKind::Registry => self.collect().map(drop),
            Ok(_) | Err(_) => self.collect_if_pending(),
        };
        if let Err(error) = result {
            let error: &dyn std::error::Error = &error;
            tracing::warn!(error, "cannot remove what no image needs");
        }
    }

    /// Does what was put off because of another process.
    pub(crate) fn collect_if_pending(&self) -> Result<(), ImageError> {
        if self.pending_mark().exists() {
            self.collect()?;
        }
        Ok(())
    }

    fn pending_mark(&self) -> PathBuf {
        self.root.join("collect.pending")
    }

    pub(super) fn collect(&self) -> Result<Reclaimed, ImageError> {
        let pending = self.pending_mark();
        let mut reclaimed = Reclaimed::default();
        let mut garbage = Vec::new();
        {
            let Some(_installers_wait) = Lock::try_exclusive(&self.collector_lock())? else {
                File::create(&pending).map_err(ImageError::io("create", pending))?;
                return Ok(reclaimed);
            };
            let records = self.index.read()?;
            let mut layers: HashSet<Digest> = records
                .values()
                .flat_map(|record| record.chain_ids.iter().copied())
                .collect();
            layers.extend(self.held_layers()?);
            let blobs: HashSet<Digest> = records
                .values()
                .flat_map(super::index::Record::all_blobs)
                .collect();
            for kind in [OverlayXattr::Trusted, OverlayXattr::User] {
                for chain_id in self.list_layers(kind)? {
                    let path = self.layers_dir(kind).join(chain_id.hex());
                    let dir = File::open(&path).map_err(ImageError::io("open", &path))?;
                    // Whoever uses the layer shares this lock.
                    if layers.contains(&chain_id) || !try_lock(&dir, &path)? {
                        continue;
                    }
                    reclaimed.layers += 1;
                    if kind == self.unpack.overlay_xattr {
                        // A layer that lost its record is garbage all the same.
                        reclaimed.bytes += self
                            .layer_record(&chain_id)
                            .map_or(0, |record| record.size_bytes);
                    }
                    drop(dir);
                    garbage.push(self.temp.adopt(&path)?);
                }
            }
            for digest in self.blobs.list()? {
                if !blobs.contains(&digest) {
                    reclaimed.bytes += self.blobs.remove(&digest)?;
                    reclaimed.blobs += 1;
                }
            }
            let locks = self.root.join("locks");
            for digest in list_names(&locks, Digest::from_hex)? {
                let path = locks.join(digest.hex());
                fs::remove_file(&path).map_err(ImageError::io("remove", path))?;
            }
            match fs::remove_file(&pending) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                other => other.map_err(ImageError::io("remove", &pending))?,
            }
        }
        // The slow part, which nobody has to wait for.
        for temp in garbage {
            temp.remove()?;
        }
        Ok(reclaimed)
    }

    fn check_unused(&self, reference: &str, chain_ids: &[Digest]) -> Result<(), ImageError> {
        let holders = self.holders(chain_ids)?;
        let mut in_use = !holders.is_empty();
        if let Some(top) = chain_ids.last() {
            let path = self.layer_dir(top);
            match File::open(&path) {
                // Damaged: all the more reason to let it go.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                other => {
                    let dir = other.map_err(ImageError::io("open", &path))?;
                    in_use |= !try_lock(&dir, &path)?;
                }
            }
        }
        if in_use {
            return Err(ImageError::InUse {
                reference: reference.to_owned(),
                holders,
            });
        }
        Ok(())
    }
}
