//! The OCI image layout.

use std::io::Read;

use super::members::Files;
use crate::digest::Digest;
use crate::error::ImageError;
use crate::manifest::{
    CheckedConfig, Descriptor, Document, FULL_NAME, MAX_CONFIG_BYTES, MAX_MANIFEST_BYTES, REF_NAME,
};
use crate::platform::Platform;
use crate::reference::{Name, is_tag};
use crate::store::{Incoming, LayerSource, Planned, check_digest};

/// An image layout.
#[derive(Debug)]
pub(crate) struct Layout {
    files: Files,
    images: Vec<Descriptor>,
}

impl Layout {
    /// Reads the list of images.
    pub(crate) fn open(files: Files) -> Result<Self, ImageError> {
        let bytes = files.read("index.json", MAX_MANIFEST_BYTES)?;
        let what = || format!("index.json of {}", files.place());
        let document = Document::parse(&bytes).map_err(|source| ImageError::Manifest {
            what: what(),
            source,
        })?;
        let Document::Index(images) = document else {
            return Err(ImageError::NotAnArchive {
                place: files.place(),
                why: "its index.json is no index",
            });
        };
        Ok(Self { files, images })
    }

    /// All images with the full names that they have, if they have any.
    pub(crate) fn named(&self) -> Vec<(Option<Name>, Descriptor)> {
        let images = self.images.iter().filter(|image| image.is_runnable());
        images
            .map(|image| (full_name(image), image.clone()))
            .collect()
    }

    /// The image with this tag or name; without one the only one there is.
    pub(crate) fn choose(
        &self,
        tag: Option<&str>,
        host: &Platform,
    ) -> Result<Descriptor, ImageError> {
        let mut candidates: Vec<&Descriptor> = match tag {
            Some(tag) => {
                let has_tag = |image: &&Descriptor| is_called(image, tag);
                self.images.iter().filter(has_tag).collect()
            }
            None => self
                .images
                .iter()
                .filter(|image| image.is_runnable())
                .collect(),
        };
        if candidates.len() > 1 {
            // The same image for several platforms, without an index of its own.
            candidates.retain(|image| image.platform.as_ref().is_none_or(|p| p.runs_on(host)));
        }
        match (candidates.as_slice(), tag) {
            ([one], _) => Ok((*one).clone()),
            ([], Some(tag)) => Err(ImageError::NotFound(format!(
                "{tag} in {}",
                self.files.place()
            ))),
            ([], None) => Err(ImageError::NotFound(format!(
                "any image in {}",
                self.files.place()
            ))),
            (several, _) => Err(ImageError::Ambiguous {
                place: self.files.place(),
                names: several
                    .iter()
                    .map(|image| image.annotation(REF_NAME).unwrap_or("(unnamed)").to_owned())
                    .collect(),
            }),
        }
    }

    /// Reads an image's manifest and configuration, for the platform that fits `host`.
    pub(crate) fn resolve(
        &self,
        image: &Descriptor,
        reference: String,
        host: &Platform,
    ) -> Result<Incoming, ImageError> {
        let top = self.blob(&image.digest, image.size, MAX_MANIFEST_BYTES)?;
        let mut bytes = top.clone();
        let mut digest = image.digest;
        // An index may hold indexes, though nobody nests them deeper.
        for _ in 0..3 {
            let document = Document::parse(&bytes).map_err(|source| ImageError::Manifest {
                what: format!("manifest {digest} of {reference}"),
                source,
            })?;
            match document {
                Document::Manifest(manifest) => {
                    let config_bytes = self.blob(
                        &manifest.config.digest,
                        manifest.config.size,
                        MAX_CONFIG_BYTES,
                    )?;
                    let config = CheckedConfig::parse(&config_bytes, manifest.layers.len())
                        .map_err(|source| ImageError::Manifest {
                            what: format!("the configuration of {reference}"),
                            source,
                        })?;
                    return Incoming {
                        reference,
                        top,
                        manifest_bytes: bytes,
                        manifest,
                        config_bytes,
                        config,
                    }
                    .for_platform(host);
                }
                Document::Index(entries) => {
                    let chosen = choose_platform(&entries, &reference, host)?;
                    bytes = self.blob(&chosen.digest, chosen.size, MAX_MANIFEST_BYTES)?;
                    digest = chosen.digest;
                }
            }
        }
        Err(ImageError::Unsupported(format!(
            "the nesting of indexes in {reference}"
        )))
    }

    fn blob(&self, digest: &Digest, size: u64, limit: u64) -> Result<Vec<u8>, ImageError> {
        let bytes = self.files.read(&blob_path(digest), limit)?;
        let what = || format!("blob {digest} in {}", self.files.place());
        if bytes.len() as u64 != size {
            return Err(ImageError::SizeMismatch {
                what: what(),
                expected: size,
                actual: bytes.len() as u64,
            });
        }
        check_digest(&bytes, digest, what)?;
        Ok(bytes)
    }
}

impl LayerSource for Layout {
    fn open(&self, _: usize, layer: &Planned) -> Result<Box<dyn Read + '_>, ImageError> {
        Ok(self.files.open(&blob_path(&layer.blob.digest))?.0)
    }

    fn place(&self) -> String {
        self.files.place()
    }
}

impl Incoming {
    /// Refuses an image that does not run on `host`.
    pub(crate) fn for_platform(self, host: &Platform) -> Result<Self, ImageError> {
        let platform = self.config.platform();
        if platform.runs_on(host) {
            return Ok(self);
        }
        Err(ImageError::NoPlatform {
            reference: self.reference,
            wanted: host.clone(),
            available: vec![platform],
        })
    }
}

/// The entry of an index that fits `host` best. One that does not say for what it is may be it.
pub(crate) fn choose_platform<'a>(
    entries: &'a [Descriptor],
    reference: &str,
    host: &Platform,
) -> Result<&'a Descriptor, ImageError> {
    let images = || entries.iter().filter(|entry| entry.is_runnable());
    let said = images().filter_map(|entry| Some((entry.platform.as_ref()?, entry)));
    Platform::best(said, host)
        .or_else(|| images().find(|entry| entry.platform.is_none()))
        .ok_or_else(|| ImageError::NoPlatform {
            reference: reference.to_owned(),
            wanted: host.clone(),
            available: images()
                .filter_map(|entry| entry.platform.clone())
                .collect(),
        })
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn is_called(image: &Descriptor, tag: &str) -> bool {
    let is_same_name = |text: &str| {
        let names = text.parse::<Name>().ok().zip(tag.parse::<Name>().ok());
        names.is_some_and(|(a, b)| a == b)
    };
    image.annotation(REF_NAME) == Some(tag) || image.annotation(FULL_NAME).is_some_and(is_same_name)
}

/// A name that says more than a tag.
fn full_name(image: &Descriptor) -> Option<Name> {
    let text = image
        .annotation(FULL_NAME)
        .or_else(|| image.annotation(REF_NAME).filter(|name| !is_tag(name)))?;
    text.parse().ok()
}
