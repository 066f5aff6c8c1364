//! Why something could not be done with an image.

use std::io;
use std::path::{Path, PathBuf};

use crate::digest::Digest;
use crate::layer::LayerError;
use crate::manifest::ManifestError;
use crate::platform::Platform;
use crate::reference::ReferenceError;
use crate::registry::{CredentialsError, RegistriesError, RegistryError};

/// Why something could not be done with an image.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The reference is malformed.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// No such image, here or in the registry.
    #[error("image {0} is not found")]
    NotFound(String),
    /// An id prefix that several images have.
    #[error("{prefix:?} is the beginning of the ids of {count} images")]
    AmbiguousId {
        /// What was given.
        prefix: String,
        /// How many images it fits.
        count: usize,
    },
    /// An archive with several images, and none was named.
    #[error("{place} holds several images, name one of: {}", names.join(", "))]
    Ambiguous {
        /// The directory or archive.
        place: String,
        /// What can be named.
        names: Vec<String>,
    },
    /// No variant of the image runs on this host.
    #[error(
        "image {reference} has no variant for {wanted}; it has {}",
        available.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    )]
    NoPlatform {
        /// The image.
        reference: String,
        /// What is needed.
        wanted: Platform,
        /// What there is.
        available: Vec<Platform>,
    },
    /// Content that is not what its digest says.
    #[error("{what} has the digest {actual}, not {expected}")]
    DigestMismatch {
        /// Which content.
        what: String,
        /// What it should be.
        expected: Digest,
        /// What it is.
        actual: Digest,
    },
    /// Content that is shorter or longer than its descriptor says.
    #[error("{what} has {actual} bytes, not {expected}")]
    SizeMismatch {
        /// Which content.
        what: String,
        /// What it should have.
        expected: u64,
        /// What it has, or how much arrived until it was too much.
        actual: u64,
    },
    /// The registry does not let it out.
    #[error(
        "registry {registry} denies access to {reference}{}",
        if *logged_in { "" } else { ": it does not exist, or needs a login" }
    )]
    Unauthorized {
        /// The image.
        reference: String,
        /// Who.
        registry: String,
        /// Whether there were credentials.
        logged_in: bool,
    },
    /// The registry cannot be reached or misbehaves.
    #[error("cannot pull {what}")]
    Registry {
        /// The image, or a part of it.
        what: String,
        /// Why not.
        source: RegistryError,
    },
    /// Credentials cannot be used.
    #[error("cannot log in to {registry}")]
    Credentials {
        /// Whose.
        registry: String,
        /// Why not.
        source: CredentialsError,
    },
    /// `registries.toml` cannot be used.
    #[error(transparent)]
    Registries(#[from] RegistriesError),
    /// The pull was given up by its caller.
    #[error("the pull of {0} was cancelled")]
    Cancelled(String),
    /// More than is accepted.
    #[error("{what} exceeds the limit of {limit} bytes")]
    TooLarge {
        /// Which content.
        what: String,
        /// Most that is accepted.
        limit: u64,
    },
    /// A manifest, index or configuration that makes no sense.
    #[error("cannot use {what}")]
    Manifest {
        /// Which one.
        what: String,
        /// Why not.
        source: ManifestError,
    },
    /// A layer that cannot be unpacked.
    #[error("cannot unpack layer {digest}")]
    Layer {
        /// The layer's blob.
        digest: Digest,
        /// Why not.
        source: LayerError,
    },
    /// A file is missing in an archive or image layout.
    #[error("{place} has no {member:?}")]
    MissingMember {
        /// The directory or archive.
        place: String,
        /// The file.
        member: String,
    },
    /// A file that is no image archive.
    #[error("{place} is no image archive: {why}")]
    NotAnArchive {
        /// The file.
        place: String,
        /// What is wrong.
        why: &'static str,
    },
    /// An archive cannot be read.
    #[error("cannot read the image archive {place}")]
    Archive {
        /// The file.
        place: String,
        /// Why not.
        source: LayerError,
    },
    /// The image or its layers are in use.
    #[error("image {reference} is in use{}", users(holders))]
    InUse {
        /// The image.
        reference: String,
        /// Who holds it; none are named when it is a running process.
        holders: Vec<String>,
    },
    /// The store holds less than it should.
    #[error("image {reference} is damaged in the store: {what}; pull or load it again")]
    Damaged {
        /// The image.
        reference: String,
        /// What is wrong.
        what: String,
    },
    /// The store was made by a newer version of this program.
    #[error("{root} has the store format {version}, which this version does not know")]
    StoreVersion {
        /// The store.
        root: PathBuf,
        /// Its format.
        version: u32,
    },
    /// The disk or quota is full.
    #[error("no space left on the disk while writing {path}")]
    NoSpace {
        /// What was written.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A file cannot be used.
    #[error("cannot {what} {path}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Something that is asked for is not supported.
    #[error("{0} is not supported")]
    Unsupported(String),
}

/// What sort of failure it was, for exit codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The user wrote something that is no image reference, or not exact enough.
    BadReference,
    /// No such image.
    NotFound,
    /// Credentials are missing or wrong.
    Unauthorized,
    /// No variant for this host.
    NoPlatform,
    /// The registry cannot be reached or misbehaves.
    Registry,
    /// The image's content is damaged: wrong digest, truncated, malformed.
    Corrupt,
    /// The image's content is refused: it tries to escape or exceeds a limit.
    Refused,
    /// The image is in use.
    InUse,
    /// The disk is full.
    NoSpace,
    /// The image needs something that is not supported.
    Unsupported,
    /// The host's files cannot be used.
    Io,
}

impl ImageError {
    /// Maps a failure on a file.
    pub(crate) fn io<E: Into<io::Error>>(
        what: &'static str,
        path: impl AsRef<Path>,
    ) -> impl FnOnce(E) -> Self {
        move |error| {
            let source = error.into();
            let path = path.as_ref().to_owned();
            match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    Self::NoSpace { path, source }
                }
                _ => Self::Io { what, path, source },
            }
        }
    }

    /// What sort of failure it was.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Reference(_) | Self::AmbiguousId { .. } | Self::Ambiguous { .. } => {
                ErrorKind::BadReference
            }
            Self::NotFound(_) => ErrorKind::NotFound,
            Self::Unauthorized { .. } | Self::Credentials { .. } => ErrorKind::Unauthorized,
            Self::Registry { .. } => ErrorKind::Registry,
            Self::NoPlatform { .. } => ErrorKind::NoPlatform,
            Self::DigestMismatch { .. }
            | Self::SizeMismatch { .. }
            | Self::Manifest { .. }
            | Self::MissingMember { .. }
            | Self::NotAnArchive { .. }
            | Self::Damaged { .. } => ErrorKind::Corrupt,
            Self::TooLarge { .. } => ErrorKind::Refused,
            Self::Layer { source, .. } | Self::Archive { source, .. } => layer_kind(source),
            Self::InUse { .. } => ErrorKind::InUse,
            Self::NoSpace { .. } => ErrorKind::NoSpace,
            Self::StoreVersion { .. } | Self::Unsupported(_) => ErrorKind::Unsupported,
            Self::Io { .. } | Self::Registries(_) | Self::Cancelled(_) => ErrorKind::Io,
        }
    }
}

fn layer_kind(error: &LayerError) -> ErrorKind {
    match error {
        LayerError::Truncated(_)
        | LayerError::Archive(_)
        | LayerError::Read(_)
        | LayerError::DiffId { .. }
        | LayerError::MissingLinkTarget { .. } => ErrorKind::Corrupt,
        LayerError::Escape { .. } | LayerError::BadEntry { .. } | LayerError::Limit { .. } => {
            ErrorKind::Refused
        }
        LayerError::Compression(_) => ErrorKind::Unsupported,
        LayerError::NoSpace { .. } => ErrorKind::NoSpace,
        LayerError::Entry { .. } | LayerError::Open { .. } | LayerError::Cancelled => ErrorKind::Io,
    }
}

fn users(holders: &[String]) -> String {
    if holders.is_empty() {
        " by a running container".to_owned()
    } else {
        format!(" by {}", holders.join(", "))
    }
}
