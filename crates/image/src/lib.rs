//! OCI images: finding, verifying, unpacking and keeping them.
//!
//! [`Store`] is the way in: [`Store::pull`] takes an image from a registry, [`Store::load`] from a
//! place on this host, and [`Store::get`] finds one that was taken before. Each gives an [`Image`] whose layers are
//! directories ready to be overlayfs's lower directories.

mod archive;
mod digest;
mod error;
mod image;
pub mod layer;
pub mod manifest;
mod platform;
mod progress;
pub mod reference;
pub mod registry;
pub mod store;
mod tar_stream;

pub use digest::{Digest, DigestError};
pub use error::{ErrorKind, ImageError};
pub use image::{Image, Lease};
pub use layer::{LayerError, Limits, Note};
pub use oci_spec::image::ImageConfiguration;
pub use platform::Platform;
pub use progress::{Event, LayerSize, Progress, Silent};
pub use reference::{Name, Reference, ReferenceError};
pub use registry::{Credentials, Registries};
pub use store::{Problem, PullOptions, Reclaimed, Removal, Store, StoreOptions};
