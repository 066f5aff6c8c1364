//! Why a layer could not be unpacked.

use std::io;
use std::path::{Path, PathBuf};

use crate::digest::Digest;
use crate::tar_stream::TarError;

/// How an entry tries to leave the layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Escape {
    /// `..` in its path.
    #[error("its path contains \"..\"")]
    DotDot,
    /// An absolute path.
    #[error("its path is absolute")]
    Absolute,
    /// A symbolic link in its path leads out of the layer or in a circle.
    #[error("a symbolic link in its path leads out of the layer")]
    SymlinkParent,
    /// The target of a hard link is outside.
    #[error("its hard link target is outside the layer")]
    HardLinkTarget,
    /// A whiteout of `.` or `..`, or of nothing.
    #[error("it is a whiteout of no file name")]
    Whiteout,
}

/// Why a layer could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The layer ends too early.
    #[error("the layer is truncated: it ends in the middle of {0}")]
    Truncated(&'static str),
    /// The layer is no tar archive, or a malformed one.
    #[error("the layer's archive is malformed")]
    Archive(#[source] TarError),
    /// A compression that is not supported.
    #[error("the layer is compressed with {0}: only gzip and zstd are supported")]
    Compression(&'static str),
    /// The compressed layer cannot be read.
    #[error("cannot read the layer")]
    Read(#[source] io::Error),
    /// The uncompressed layer is not the one that the image's configuration names.
    #[error("the uncompressed layer has the digest {actual}, not {expected}")]
    DiffId {
        /// What the configuration says.
        expected: Digest,
        /// What was unpacked.
        actual: Digest,
    },
    /// An entry that tries to leave the layer.
    #[error("layer entry {entry:?} is refused: {how}")]
    Escape {
        /// The entry's path.
        entry: String,
        /// How.
        how: Escape,
    },
    /// An entry that makes no sense.
    #[error("layer entry {entry:?} is refused: {what}")]
    BadEntry {
        /// The entry's path.
        entry: String,
        /// What is wrong.
        what: &'static str,
    },
    /// A hard link to a file that the layer does not have before it.
    #[error("layer entry {entry:?} is a hard link to {target:?}, which is not in the layer")]
    MissingLinkTarget {
        /// The entry's path.
        entry: String,
        /// What it links to.
        target: String,
    },
    /// More than the limits allow.
    #[error("the layer exceeds the limit of {limit} {what}")]
    Limit {
        /// What there is too much of.
        what: &'static str,
        /// How much is allowed.
        limit: u64,
    },
    /// The disk or quota is full.
    #[error("no space left on the disk while unpacking {entry:?}")]
    NoSpace {
        /// The entry's path.
        entry: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The file system refused something.
    #[error("cannot {what} layer entry {entry:?}")]
    Entry {
        /// What was tried.
        what: &'static str,
        /// The entry's path.
        entry: String,
        /// Why not.
        source: io::Error,
    },
    /// The directory to unpack into cannot be used.
    #[error("cannot open {dir} to unpack a layer into it")]
    Open {
        /// The directory.
        dir: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The caller gave up.
    #[error("unpacking was cancelled")]
    Cancelled,
}

impl LayerError {
    /// Maps a system call's failure on the entry `path`.
    pub(super) fn entry<E: Into<io::Error>>(
        what: &'static str,
        path: &Path,
    ) -> impl FnOnce(E) -> Self {
        move |error| {
            let source = error.into();
            let entry = path.to_string_lossy().into_owned();
            match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    Self::NoSpace { entry, source }
                }
                _ => Self::Entry {
                    what,
                    entry,
                    source,
                },
            }
        }
    }

    pub(super) fn escape(entry: &Path, how: Escape) -> Self {
        Self::Escape {
            entry: entry.to_string_lossy().into_owned(),
            how,
        }
    }

    pub(super) fn bad(entry: &Path, what: &'static str) -> Self {
        Self::BadEntry {
            entry: entry.to_string_lossy().into_owned(),
            what,
        }
    }
}

impl From<TarError> for LayerError {
    fn from(error: TarError) -> Self {
        match error {
            TarError::Truncated(what) => Self::Truncated(what),
            TarError::Read(source) => Self::Read(source),
            other @ (TarError::Malformed { .. }
            | TarError::UnknownKind { .. }
            | TarError::ExtensionTooLarge { .. }) => Self::Archive(other),
        }
    }
}
