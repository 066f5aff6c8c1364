//! What `docker save` writes: a tar file with a `manifest.json`.

use std::io::Read;

use serde::Deserialize;

use super::members::Files;
use crate::digest::{Digest, HashingReader};
use crate::error::ImageError;
use crate::manifest::{
    CheckedConfig, MAX_CONFIG_BYTES, MAX_LAYERS, MAX_MANIFEST_BYTES, Manifest, ManifestError,
};
use crate::platform::Platform;
use crate::reference::Name;
use crate::store::{Incoming, LayerSource, Planned};

/// One image of the archive.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SavedImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// An archive.
#[derive(Debug)]
pub(crate) struct DockerArchive {
    files: Files,
    images: Vec<SavedImage>,
}

/// One image of an archive, to read its layers from.
#[derive(Debug)]
pub(crate) struct DockerImage<'a> {
    files: &'a Files,
    layers: &'a [String],
}

impl DockerArchive {
    /// Reads the list of images.
    pub(crate) fn open(files: Files) -> Result<Self, ImageError> {
        let bytes = files.read("manifest.json", MAX_MANIFEST_BYTES)?;
        let images = serde_json::from_slice(&bytes).map_err(|error| ImageError::Manifest {
            what: format!("manifest.json of {}", files.place()),
            source: ManifestError::Json(error),
        })?;
        Ok(Self { files, images })
    }

    /// The numbers of all images, each with its names.
    pub(crate) fn named(&self) -> impl Iterator<Item = (usize, Vec<Name>)> {
        self.images.iter().map(names).enumerate()
    }

    /// The image with this name; without one the only one there is.
    pub(crate) fn choose(&self, name: Option<&Name>) -> Result<usize, ImageError> {
        let place = || self.files.place();
        match name {
            Some(name) => self
                .named()
                .find(|(_, names)| names.contains(name))
                .map(|(index, _)| index)
                .ok_or_else(|| ImageError::NotFound(format!("{name} in {}", place()))),
            None if self.images.len() == 1 => Ok(0),
            None if self.images.is_empty() => {
                Err(ImageError::NotFound(format!("any image in {}", place())))
            }
            None => Err(ImageError::Ambiguous {
                place: place(),
                names: self
                    .named()
                    .flat_map(|(_, names)| names)
                    .map(|name| name.short())
                    .collect(),
            }),
        }
    }

    /// Reads an image's configuration and makes a manifest for it.
    pub(crate) fn resolve(
        &self,
        index: usize,
        reference: String,
        host: &Platform,
    ) -> Result<(Incoming, DockerImage<'_>), ImageError> {
        let image = &self.images[index];
        let failed = |source| ImageError::Manifest {
            what: format!("the configuration of {reference}"),
            source,
        };
        if image.layers.len() > MAX_LAYERS {
            return Err(failed(ManifestError::TooManyLayers(image.layers.len())));
        }
        let config_bytes = self.files.read(&image.config, MAX_CONFIG_BYTES)?;
        let config = CheckedConfig::parse(&config_bytes, image.layers.len()).map_err(failed)?;
        let mut layers = Vec::with_capacity(image.layers.len());
        for layer in &image.layers {
            layers.push(self.measure(layer)?);
        }
        let config_part = (Digest::of(&config_bytes), config_bytes.len() as u64);
        let manifest = Manifest::of_parts(config_part, &layers);
        let manifest_bytes = manifest.to_json().map_err(failed)?;
        let incoming = Incoming {
            reference,
            top: manifest_bytes.clone(),
            manifest_bytes,
            manifest,
            config_bytes,
            config,
        };
        let source = DockerImage {
            files: &self.files,
            layers: &image.layers,
        };
        Ok((incoming.for_platform(host)?, source))
    }

    /// Digest and size of a layer, which the archive does not say.
    fn measure(&self, layer: &str) -> Result<(Digest, u64), ImageError> {
        let (reader, _) = self.files.open(layer)?;
        let mut reader = HashingReader::new(reader);
        let size = std::io::copy(&mut reader, &mut std::io::sink())
            .map_err(ImageError::io("read", self.files.place()))?;
        Ok((reader.finish(), size))
    }
}

impl LayerSource for DockerImage<'_> {
    fn open(&self, index: usize, _: &Planned) -> Result<Box<dyn Read + '_>, ImageError> {
        Ok(self.files.open(&self.layers[index])?.0)
    }

    fn place(&self) -> String {
        self.files.place()
    }
}

fn names(image: &SavedImage) -> Vec<Name> {
    let tags = image.repo_tags.iter().flatten();
    tags.filter_map(|tag| tag.parse().ok()).collect()
}
