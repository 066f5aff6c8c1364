//! Content named by its digest: configurations, manifests and compressed layers.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use super::temp::{Temp, TempArea};
use crate::digest::{Digest, Hasher};
use crate::error::ImageError;

/// The blobs' directory.
#[derive(Debug, Clone)]
pub(crate) struct Blobs {
    dir: PathBuf,
    temp: TempArea,
}

/// A blob that is arriving.
#[derive(Debug)]
pub(crate) struct BlobWriter {
    blobs: Blobs,
    temp: Temp,
    hasher: Hasher,
    length: u64,
    what: String,
    expected_length: Option<u64>,
}

impl Blobs {
    pub(super) fn new(dir: PathBuf, temp: TempArea) -> Self {
        Self { dir, temp }
    }

    pub(crate) fn path(&self, digest: &Digest) -> PathBuf {
        self.dir.join(digest.hex())
    }

    pub(crate) fn has(&self, digest: &Digest) -> bool {
        self.path(digest).is_file()
    }

    pub(crate) fn open(&self, digest: &Digest) -> Result<File, ImageError> {
        let path = self.path(digest);
        File::open(&path).map_err(ImageError::io("open", path))
    }

    /// Starts a blob. `what` names it in errors; more than `length` bytes are refused as they come.
    pub(crate) fn writer(
        &self,
        what: String,
        length: Option<u64>,
    ) -> Result<BlobWriter, ImageError> {
        Ok(BlobWriter {
            blobs: self.clone(),
            temp: self.temp.file()?,
            hasher: Hasher::default(),
            length: 0,
            what,
            expected_length: length,
        })
    }

    /// Keeps a small blob.
    pub(crate) fn put(&self, bytes: &[u8]) -> Result<Digest, ImageError> {
        let digest = Digest::of(bytes);
        if !self.has(&digest) {
            let mut writer = self.writer(format!("blob {digest}"), None)?;
            writer.write(bytes)?;
            writer.commit(Some(&digest))?;
        }
        Ok(digest)
    }

    /// Reads a small blob and checks it.
    pub(crate) fn get(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, ImageError> {
        let path = self.path(digest);
        let file = self.open(digest)?;
        let what = || format!("blob {digest} in the store");
        let bytes = read_limited(file, limit, &what, &path)?;
        check_digest(&bytes, digest, what)?;
        Ok(bytes)
    }

    /// All blobs' digests.
    pub(super) fn list(&self) -> Result<Vec<Digest>, ImageError> {
        super::list_names(&self.dir, Digest::from_hex)
    }

    /// Removes a blob; says how many bytes that freed.
    pub(super) fn remove(&self, digest: &Digest) -> Result<u64, ImageError> {
        let path = self.path(digest);
        let length = fs::metadata(&path).map_or(0, |metadata| metadata.len());
        fs::remove_file(&path).map_err(ImageError::io("remove", path))?;
        Ok(length)
    }
}

impl BlobWriter {
    /// Adds bytes.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), ImageError> {
        let length = self.length + bytes.len() as u64;
        if let Some(expected) = self.expected_length
            && length > expected
        {
            return Err(self.size_mismatch(expected, length));
        }
        self.temp
            .file()
            .write_all(bytes)
            .map_err(ImageError::io("write", self.temp.path()))?;
        self.hasher.update(bytes);
        self.length = length;
        Ok(())
    }

    /// Bytes so far.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// Checks the whole and keeps it; hands back digest and size.
    pub(crate) fn commit(self, expected: Option<&Digest>) -> Result<(Digest, u64), ImageError> {
        if let Some(length) = self.expected_length
            && self.length != length
        {
            return Err(self.size_mismatch(length, self.length));
        }
        let actual = self.hasher.finish();
        if let Some(expected) = expected
            && actual != *expected
        {
            return Err(ImageError::DigestMismatch {
                what: self.what,
                expected: *expected,
                actual,
            });
        }
        // What the index names must be whole after a power failure too.
        self.temp
            .file()
            .sync_all()
            .map_err(ImageError::io("write", self.temp.path()))?;
        self.temp.keep_as(&self.blobs.path(&actual))?;
        Ok((actual, self.length))
    }

    fn size_mismatch(&self, expected: u64, actual: u64) -> ImageError {
        ImageError::SizeMismatch {
            what: self.what.clone(),
            expected,
            actual,
        }
    }
}

/// Reads a whole file of at most `limit` bytes.
pub(crate) fn read_limited(
    source: impl Read,
    limit: u64,
    what: &impl Fn() -> String,
    path: &Path,
) -> Result<Vec<u8>, ImageError> {
    let mut bytes = Vec::new();
    source
        .take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(ImageError::io("read", path))?;
    if bytes.len() as u64 > limit {
        return Err(ImageError::TooLarge {
            what: what(),
            limit,
        });
    }
    Ok(bytes)
}

/// Compares content with its digest.
pub(crate) fn check_digest(
    bytes: &[u8],
    expected: &Digest,
    what: impl FnOnce() -> String,
) -> Result<(), ImageError> {
    let actual = Digest::of(bytes);
    if actual != *expected {
        return Err(ImageError::DigestMismatch {
            what: what(),
            expected: *expected,
            actual,
        });
    }
    Ok(())
}
