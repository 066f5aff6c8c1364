//! Checking that images are still what they were.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use super::{Shared, Store};
use crate::digest::{Digest, HashingReader};
use crate::error::ImageError;
use crate::layer::{self, Difference, LayerError};
use crate::manifest::chain_ids;
use crate::progress::Silent;

/// Most differences that are named for one layer.
const MAX_DIFFERENCES: usize = 10;

/// Something in an image that is not what it was.
#[derive(Debug)]
pub enum Problem {
    /// Content is missing.
    MissingBlob(Digest),
    /// Content has changed.
    ChangedBlob {
        /// What it should be.
        expected: Digest,
        /// What it is.
        actual: Digest,
    },
    /// An unpacked layer is missing.
    MissingLayer(Digest),
    /// A compressed layer can no longer be unpacked.
    BrokenLayer(Digest, LayerError),
    /// A file of an unpacked layer has changed.
    ChangedFile {
        /// The layer's directory.
        layer: PathBuf,
        /// Which file, and in what.
        difference: Difference,
    },
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MissingBlob(digest) => write!(f, "blob {digest} is missing"),
            Self::ChangedBlob { expected, actual } => {
                write!(f, "blob {expected} has the digest {actual}")
            }
            Self::MissingLayer(chain_id) => write!(f, "unpacked layer {chain_id} is missing"),
            Self::BrokenLayer(digest, error) => write!(f, "layer {digest}: {error}"),
            Self::ChangedFile { layer, difference } => {
                let path = layer.join(&difference.path);
                write!(f, "{}: {}", path.display(), difference.what)
            }
        }
    }
}

impl Store {
    /// Checks an image, given by reference or by the beginning of its id: all content against its
    /// digests, and all unpacked files against the layers, which are unpacked once more for it.
    /// Finds nothing wrong with a directory. Blocks.
    ///
    /// # Errors
    /// When there is no such image, or the store cannot be read.
    pub fn verify(&self, image: &str) -> Result<Vec<Problem>, ImageError> {
        let shared = &self.shared;
        let references = self.references(image)?;
        let records = shared.index.read()?;
        let mut problems = Vec::new();
        // Every reference of an id leads to the same layers.
        let Some(record) = references
            .first()
            .and_then(|reference| records.get(reference))
        else {
            return Err(ImageError::NotFound(image.to_owned()));
        };
        for digest in [record.digest, record.manifest, record.config] {
            shared.verify_blob(&digest, &mut problems)?;
        }
        let mut diff_ids = Vec::new();
        for chain_id in &record.chain_ids {
            if !shared.layer_fs(chain_id).is_dir() {
                problems.push(Problem::MissingLayer(*chain_id));
                return Ok(problems);
            }
            diff_ids.push(shared.layer_record(chain_id)?.diff_id);
        }
        if chain_ids(&diff_ids) != record.chain_ids {
            problems.extend(record.chain_ids.last().copied().map(Problem::MissingLayer));
            return Ok(problems);
        }
        for (index, chain_id) in record.chain_ids.iter().enumerate() {
            shared.verify_layer(index, chain_id, record, &mut problems)?;
        }
        Ok(problems)
    }
}

impl Shared {
    /// Checks a blob; says whether it is as it should be.
    fn verify_blob(
        &self,
        digest: &Digest,
        problems: &mut Vec<Problem>,
    ) -> Result<bool, ImageError> {
        if !self.blobs.has(digest) {
            problems.push(Problem::MissingBlob(*digest));
            return Ok(false);
        }
        let mut reader = HashingReader::new(self.blobs.open(digest)?);
        io::copy(&mut reader, &mut io::sink())
            .map_err(ImageError::io("read", self.blobs.path(digest)))?;
        let actual = reader.finish();
        if actual != *digest {
            problems.push(Problem::ChangedBlob {
                expected: *digest,
                actual,
            });
        }
        Ok(actual == *digest)
    }

    fn verify_layer(
        &self,
        index: usize,
        chain_id: &Digest,
        record: &super::index::Record,
        problems: &mut Vec<Problem>,
    ) -> Result<(), ImageError> {
        let layer = self.layer_record(chain_id)?;
        // The same layer may have come compressed in another way for another image.
        let blob = [layer.blob, record.blobs[index]]
            .into_iter()
            .find(|blob| self.blobs.has(blob));
        let Some(blob) = blob else {
            problems.push(Problem::MissingBlob(layer.blob));
            return Ok(());
        };
        if !self.verify_blob(&blob, problems)? {
            return Ok(());
        }
        let not_cancelled = AtomicBool::new(false);
        let unpacked = match self.unpack(index, &blob, &layer.diff_id, &Silent, &not_cancelled) {
            Err(ImageError::Layer { digest, source }) => {
                problems.push(Problem::BrokenLayer(digest, source));
                return Ok(());
            }
            other => other?,
        };
        let lower = record.chain_ids[..index]
            .iter()
            .rev()
            .map(|id| self.layer_fs(id));
        self.complete(&unpacked, &lower.collect::<Vec<_>>())?;
        let fs = self.layer_fs(chain_id);
        let differences = layer::compare(&unpacked.fs(), &fs, MAX_DIFFERENCES)
            .map_err(ImageError::io("compare", &fs))?;
        problems.extend(
            differences
                .into_iter()
                .map(|difference| Problem::ChangedFile {
                    layer: fs.clone(),
                    difference,
                }),
        );
        Ok(())
    }
}
