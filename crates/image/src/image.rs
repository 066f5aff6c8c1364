//! An image that is ready to be used.

use std::fs::File;
use std::path::PathBuf;

use oci_spec::image::ImageConfiguration;

use crate::digest::Digest;
use crate::error::ImageError;
use crate::layer::OverlayXattr;
use crate::store::Lock;

/// An image that is ready to be used.
#[derive(Debug, Clone)]
pub struct Image {
    /// Digest of the configuration; for `rootfs:` of the path.
    pub id: Digest,
    /// Under which it is in the store.
    pub reference: String,
    /// What the reference led to: the manifest or, for several platforms, the index. None for
    /// `rootfs:`.
    pub digest: Option<Digest>,
    /// How its containers are run.
    pub config: ImageConfiguration,
    /// The layers' directories in the order of overlayfs's `lowerdir`: the uppermost first. An
    /// image without layers has none.
    pub layers: Vec<PathBuf>,
    /// Bytes of all files in all layers; 0 for `rootfs:`, which is not measured.
    pub size_bytes: u64,
    /// When it was built, in the form of RFC 3339, if it says so.
    pub created: Option<String>,
    /// How opaque directories are marked in the layers. An overlay mount of them needs
    /// [`OverlayXattr::mount_option`].
    pub overlay_xattr: OverlayXattr,
    /// What the layers are called in the store, lowest first. None for `rootfs:`.
    pub(crate) chain_ids: Vec<Digest>,
    /// Lock that keeps layers from being collected meanwhile.
    pub(crate) store_lock: Option<PathBuf>,
}

/// Keeps an image's layers in the store for as long as it lives, also when the image is removed.
///
/// It is a set of shared `flock`s: a child process that inherits the descriptors keeps it too.
#[derive(Debug)]
pub struct Lease {
    layers: Vec<File>,
}

impl Image {
    /// Keeps the layers for as long as the lease lives.
    ///
    /// # Errors
    /// When the image was removed meanwhile.
    pub fn lease(&self) -> Result<Lease, ImageError> {
        let Some(store_lock) = &self.store_lock else {
            // The user's own directory: nothing here would remove it.
            return Ok(Lease { layers: Vec::new() });
        };
        let _collector_waits = Lock::shared(store_lock)?;
        let mut layers = Vec::with_capacity(self.layers.len());
        for fs in &self.layers {
            let dir = fs.parent().unwrap_or(fs);
            let file = match File::open(dir) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    return Err(ImageError::NotFound(self.reference.clone()));
                }
                other => other.map_err(ImageError::io("open", dir))?,
            };
            file.lock_shared().map_err(ImageError::io("lock", dir))?;
            layers.push(file);
        }
        Ok(Lease { layers })
    }
}

impl Lease {
    /// The descriptors that hold the lease, to be handed to a process that shall keep it.
    #[must_use]
    pub fn files(&self) -> &[File] {
        &self.layers
    }
}
