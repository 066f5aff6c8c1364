//! Images on this host.
//!
//! Below the store's root:
//!
//! | path | what |
//! |---|---|
//! | `images.json` | the images by reference |
//! | `images.reserve` | room for the next `images.json` on a disk that has become full |
//! | `blobs/sha256/<digest>` | manifests, configurations, compressed layers |
//! | `layers/<chain id>/fs` | unpacked layers, `layers-userxattr` if marked for that option |
//! | `holds/<name>` | layers that are kept for a container |
//! | `locks`, `tmp`, `*.lock` | what is being changed, by whom |
//!
//! Any number of processes may use a store at once, and be killed at any time.

mod blobs;
mod collect;
mod hold;
mod index;
mod install;
mod layers;
mod load;
mod lock;
mod pull;
mod temp;
mod verify;

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oci_spec::image::{ImageConfigurationBuilder, RootFsBuilder};

pub(crate) use blobs::{check_digest, read_limited};
pub use collect::{Reclaimed, Removal};
pub(crate) use install::{Incoming, LayerSource};
pub(crate) use layers::Planned;
pub(crate) use lock::Lock;
pub use pull::PullOptions;
pub(crate) use temp::{Temp, TempArea};
pub use verify::Problem;

use crate::digest::Digest;
use crate::error::ImageError;
use crate::image::Image;
use crate::layer::{Limits, OverlayXattr, Ownership, UnpackOptions};
use crate::manifest::{CheckedConfig, MAX_CONFIG_BYTES};
use crate::platform::Platform;
use crate::reference::Reference;
use blobs::Blobs;
use index::{Index, Record};

/// Version of what is below the root.
const VERSION: u32 = 1;
/// Fewest digits of an id that name an image.
const MIN_ID_DIGITS: usize = 4;

/// How a store works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreOptions {
    /// How much of a layer is accepted.
    pub limits: Limits,
    /// How many layers are fetched and unpacked at once, at least 1.
    pub parallel_layers: usize,
    /// Which variant of an image is taken.
    pub platform: Platform,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            parallel_layers: 3,
            platform: Platform::host(),
        }
    }
}

/// Images on this host.
#[derive(Debug, Clone)]
pub struct Store {
    pub(crate) shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    root: PathBuf,
    pub(crate) platform: Platform,
    parallel_layers: usize,
    unpack: UnpackOptions,
    pub(crate) temp: TempArea,
    pub(crate) blobs: Blobs,
    pub(crate) index: Index,
}

impl Store {
    /// Where the store is unless somebody says otherwise: `/var/lib/hull` for root outside user
    /// namespaces, else `hull` in `XDG_DATA_HOME` or in `~/.local/share`. None if none of these is
    /// known.
    #[must_use]
    pub fn default_root() -> Option<PathBuf> {
        if Ownership::of_process() == Ownership::Strict {
            return Some("/var/lib/hull".into());
        }
        let absolute = |name| {
            let path = PathBuf::from(std::env::var_os(name)?);
            path.is_absolute().then_some(path)
        };
        absolute("XDG_DATA_HOME")
            .or_else(|| Some(absolute("HOME")?.join(".local/share")))
            .map(|data| data.join("hull"))
    }

    /// Opens the store at `root`, making what is missing of it, and removes what processes that
    /// died in the middle left.
    ///
    /// # Errors
    /// When the directory cannot be used, or is of a newer version.
    pub fn open(root: &Path, options: StoreOptions) -> Result<Self, ImageError> {
        let root = std::path::absolute(root).map_err(ImageError::io("find", root))?;
        // Set-user-id files of images must be out of reach of the host's other users.
        for dir in [
            "",
            "blobs/sha256",
            "layers",
            "layers-userxattr",
            "holds",
            "locks",
            "tmp",
        ] {
            let path = root.join(dir);
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&path)
                .map_err(ImageError::io("create", path))?;
        }
        let temp = TempArea::new(root.join("tmp"), root.join("tmp.lock"));
        let somebody_died = temp.sweep()?;
        check_version(&root, &temp)?;
        let layers = root.join("layers");
        let shared = Shared {
            platform: options.platform,
            parallel_layers: options.parallel_layers.max(1),
            unpack: UnpackOptions {
                limits: options.limits,
                overlay_xattr: OverlayXattr::probe(&layers)
                    .map_err(ImageError::io("set an extended attribute of", layers))?,
                ownership: Ownership::of_process(),
                lowest: false,
            },
            blobs: Blobs::new(root.join("blobs/sha256"), temp.clone()),
            index: Index::new(root.clone(), temp.clone()),
            temp,
            root,
        };
        if somebody_died {
            shared.collect()?;
        } else {
            shared.collect_if_pending()?;
        }
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// The store's directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.shared.root
    }

    /// Option that an overlay mount of the store's layers needs.
    #[must_use]
    pub fn overlay_option(&self) -> Option<&'static str> {
        self.shared.unpack.overlay_xattr.mount_option()
    }

    /// The image with this reference or with an id that begins so. `rootfs:` needs no store and is
    /// always found if the directory is there.
    ///
    /// # Errors
    /// When there is none, or more than one, or it is damaged.
    pub fn get(&self, image: &str) -> Result<Image, ImageError> {
        if let Ok(Reference::Rootfs { dir }) = image.parse() {
            return self.rootfs(&dir);
        }
        let references = self.references(image)?;
        let records = self.shared.index.read()?;
        let (reference, record) = references
            .iter()
            .find_map(|reference| records.get_key_value(reference))
            .ok_or_else(|| ImageError::NotFound(image.to_owned()))?;
        self.shared.image(reference, record)
    }

    /// All images by reference. Damaged ones are left out with a warning.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn list(&self) -> Result<Vec<Image>, ImageError> {
        let records = self.shared.index.read()?;
        let images = records.iter().filter_map(|(reference, record)| {
            let image = self.shared.image(reference, record);
            image
                .inspect_err(|error| {
                    let error: &dyn std::error::Error = error;
                    tracing::warn!(reference, error, "damaged image");
                })
                .ok()
        });
        Ok(images.collect())
    }

    /// The references that `image` means: one, or all of the image whose id begins so.
    fn references(&self, image: &str) -> Result<Vec<String>, ImageError> {
        let records = self.shared.index.read()?;
        let reference = match image.parse::<Reference>() {
            Ok(reference) => {
                let reference = reference
                    .absolute()
                    .map_err(ImageError::io("find", image))?;
                let text = reference.to_string();
                if records.contains_key(&text) {
                    return Ok(vec![text]);
                }
                Ok(())
            }
            Err(error) => Err(error),
        };
        let digits = image.strip_prefix("sha256:").unwrap_or(image);
        let is_id = (MIN_ID_DIGITS..=64).contains(&digits.len())
            && digits
                .bytes()
                .all(|digit| digit.is_ascii_digit() || (b'a'..=b'f').contains(&digit));
        if !is_id {
            reference?;
            return Err(ImageError::NotFound(image.to_owned()));
        }
        let matches = || {
            records
                .iter()
                .filter(|(_, record)| record.config.hex().starts_with(digits))
        };
        let ids: std::collections::BTreeSet<Digest> =
            matches().map(|(_, record)| record.config).collect();
        match ids.len() {
            0 => Err(ImageError::NotFound(image.to_owned())),
            1 => Ok(matches().map(|(reference, _)| reference.clone()).collect()),
            count => Err(ImageError::AmbiguousId {
                prefix: image.to_owned(),
                count,
            }),
        }
    }

    /// A directory as an image.
    fn rootfs(&self, dir: &Path) -> Result<Image, ImageError> {
        let dir = fs::canonicalize(dir).map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound => {
                ImageError::NotFound(format!("rootfs:{}", dir.display()))
            }
            _ => ImageError::io("find", dir)(source),
        })?;
        if !dir.is_dir() {
            return Err(ImageError::io("use as a root directory", dir)(
                std::io::Error::from(std::io::ErrorKind::NotADirectory),
            ));
        }
        let platform = Platform::host();
        let layers = RootFsBuilder::default()
            .typ("layers")
            .diff_ids(Vec::new())
            .build();
        let config = layers.and_then(|layers| {
            ImageConfigurationBuilder::default()
                .os(platform.os.as_str())
                .architecture(platform.architecture.as_str())
                .rootfs(layers)
                .build()
        });
        let reference = format!("rootfs:{}", dir.display());
        Ok(Image {
            id: Digest::of(reference.as_bytes()),
            digest: None,
            // Every field that has to be set is set above.
            config: config.unwrap_or_default(),
            layers: vec![dir],
            size_bytes: 0,
            created: None,
            overlay_xattr: self.shared.unpack.overlay_xattr,
            chain_ids: Vec::new(),
            store_lock: None,
            reference,
        })
    }
}

impl Shared {
    /// Held together by whoever uses what no image names yet, alone by whoever removes that.
    pub(crate) fn collector_lock(&self) -> PathBuf {
        self.root.join("collect.lock")
    }

    /// The image of a record.
    pub(crate) fn image(&self, reference: &str, record: &Record) -> Result<Image, ImageError> {
        let damaged = |what: String| ImageError::Damaged {
            reference: reference.to_owned(),
            what,
        };
        let mut size_bytes = 0;
        for chain_id in &record.chain_ids {
            if !self.layer_fs(chain_id).is_dir() {
                return Err(damaged(format!("layer {chain_id} is missing")));
            }
            size_bytes += self.layer_record(chain_id)?.size_bytes;
        }
        if !self.blobs.has(&record.config) {
            return Err(damaged("its configuration is missing".to_owned()));
        }
        let config = self.blobs.get(&record.config, MAX_CONFIG_BYTES)?;
        let config = CheckedConfig::parse(&config, record.chain_ids.len())
            .map_err(|source| ImageError::Manifest {
                what: format!("the configuration of {reference}"),
                source,
            })?
            .config;
        Ok(Image {
            id: record.config,
            reference: reference.to_owned(),
            digest: Some(record.digest),
            created: config.created().clone(),
            config,
            layers: record
                .chain_ids
                .iter()
                .rev()
                .map(|id| self.layer_fs(id))
                .collect(),
            size_bytes,
            overlay_xattr: self.unpack.overlay_xattr,
            chain_ids: record.chain_ids.clone(),
            store_lock: Some(self.collector_lock()),
        })
    }
}

/// Names in a directory that `read` takes.
fn list_names<T>(dir: &Path, read: impl Fn(&str) -> Option<T>) -> Result<Vec<T>, ImageError> {
    let entries = fs::read_dir(dir).map_err(ImageError::io("list", dir))?;
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(ImageError::io("list", dir))?;
        names.extend(entry.file_name().to_str().and_then(&read));
    }
    Ok(names)
}

fn check_version(root: &Path, temp: &TempArea) -> Result<(), ImageError> {
    use std::io::Write;
    let path = root.join("version");
    let found = match fs::read_to_string(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let file = temp.file()?;
            writeln!(file.file(), "{VERSION}").map_err(ImageError::io("write", &path))?;
            return file.keep_as(&path);
        }
        other => other.map_err(ImageError::io("read", &path))?,
    };
    let version = found.trim().parse().map_err(|error| {
        ImageError::io("read", &path)(std::io::Error::other::<std::num::ParseIntError>(error))
    })?;
    if version > VERSION {
        return Err(ImageError::StoreVersion {
            root: root.to_owned(),
            version,
        });
    }
    Ok(())
}
