//! Unpacks one layer into a directory of its own that overlayfs takes as a lower directory.
//!
//! Layers are untrusted. Every path is resolved beneath the layer's root by the kernel
//! (`openat2`), so that no entry can reach outside, whatever the entries before it made. An entry
//! that tries is an error, not a skipped entry: nothing of such a layer is used.

mod attributes;
mod beneath;
mod compare;
mod compression;
mod error;
mod extract;
mod parents;
mod remove;
mod whiteout;

use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

pub use attributes::{OverlayXattr, Ownership};
pub use compare::Difference;
pub use error::{Escape, LayerError};

pub(crate) use compare::compare;
pub(crate) use compression::{decompress as plain_reader, is_compressed};
pub(crate) use parents::complete_parents;
pub(crate) use remove::remove_tree;

use crate::digest::{Digest, HashingReader};
use crate::tar_stream::{Source, TarStream};
use beneath::Tree;
use extract::Extractor;

/// How much of a layer is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most entries.
    pub max_entries: u64,
    /// Most bytes of the uncompressed archive, and of all its files together.
    pub max_unpacked_bytes: u64,
    /// Longest path, bytes.
    pub max_path_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_entries: 2_000_000,
            max_unpacked_bytes: 256 << 30,
            max_path_bytes: 4096,
        }
    }
}

/// How a layer is unpacked.
#[derive(Debug, Clone, Copy)]
pub struct UnpackOptions {
    /// How much is accepted.
    pub limits: Limits,
    /// How opaque directories are marked.
    pub overlay_xattr: OverlayXattr,
    /// What happens to owners that cannot be set.
    pub ownership: Ownership,
    /// Nothing is below this layer, so that its whiteouts have no meaning.
    pub lowest: bool,
}

/// Something in a layer that could not be kept, without which the image is still usable.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Note {
    /// A device node was left out, as this process may not make one.
    DeviceSkipped {
        /// Path in the layer.
        path: String,
        /// Major number.
        major: u64,
        /// Minor number.
        minor: u64,
    },
    /// Owner or group does not exist in this process's user namespace: the file belongs to the
    /// unpacking user, without set-user-id and set-group-id bits.
    OwnerDropped {
        /// Path in the layer.
        path: String,
        /// Owner in the layer.
        uid: u32,
        /// Group in the layer.
        gid: u32,
    },
    /// An extended attribute was left out: not one that layers may carry, or refused by the file
    /// system.
    XattrSkipped {
        /// Path in the layer.
        path: String,
        /// Name of the attribute.
        name: String,
    },
}

/// What was unpacked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpacked {
    /// Digest of the uncompressed archive.
    pub diff_id: Digest,
    /// Bytes of all files.
    pub size_bytes: u64,
    /// Number of entries in the archive.
    pub entries: u64,
    /// The first notes.
    pub notes: Vec<Note>,
    /// How many notes there were in all.
    pub note_count: u64,
    /// Directories that the archive has files in and no entry for, relative. The root is the empty
    /// path.
    pub implicit_dirs: Vec<PathBuf>,
}

/// Unpacks `blob`, a tar stream that may be compressed with gzip or zstd, into `dir`, which exists
/// and is empty. `cancelled` ends it early.
///
/// After an error `dir` holds some part of the layer and is of no use.
///
/// # Errors
/// When the layer is malformed, tries to escape or exceeds a limit, or the file system refuses.
pub fn unpack(
    blob: impl Read + Send,
    dir: &Path,
    options: &UnpackOptions,
    cancelled: &AtomicBool,
) -> Result<Unpacked, LayerError> {
    let plain = compression::decompress(BufReader::with_capacity(128 << 10, blob))?;
    let mut stream = TarStream::new(HashingReader::new(plain));
    let mut extractor = Extractor::new(Tree::open(dir)?, options);
    let check = |stream: &TarStream<_>| {
        if cancelled.load(Ordering::Relaxed) {
            return Err(LayerError::Cancelled);
        }
        within(stream.offset(), options.limits.max_unpacked_bytes, "bytes")
    };
    while let Some(entry) = stream.next_entry()? {
        check(&stream)?;
        extractor.entry(&entry, &mut stream, &check)?;
    }
    // What stands behind the end marker is part of the digest.
    let offset = stream.offset();
    let mut plain = stream.into_source();
    let rest = drain(
        &mut plain,
        options.limits.max_unpacked_bytes.saturating_sub(offset),
        cancelled,
    )?;
    within(
        offset.saturating_add(rest),
        options.limits.max_unpacked_bytes,
        "bytes",
    )?;
    let mut unpacked = extractor.finish()?;
    unpacked.diff_id = plain.finish();
    Ok(unpacked)
}

impl<R: Read> Source for HashingReader<R> {}

/// Reads to the end, at most a little more than `most` bytes.
fn drain(source: &mut impl Read, most: u64, cancelled: &AtomicBool) -> Result<u64, LayerError> {
    let mut buffer = vec![0; 64 << 10];
    let mut total = 0;
    while total <= most {
        if cancelled.load(Ordering::Relaxed) {
            return Err(LayerError::Cancelled);
        }
        match source.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => total += count as u64,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(crate::tar_stream::read_error(error).into()),
        }
    }
    Ok(total)
}

fn within(value: u64, limit: u64, what: &'static str) -> Result<(), LayerError> {
    if value > limit {
        return Err(LayerError::Limit { what, limit });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
