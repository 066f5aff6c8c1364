//! Manifests, indexes and configurations, in the forms of OCI and Docker.

use std::collections::HashMap;

use oci_spec::image::ImageConfiguration;
use serde::{Deserialize, Serialize};

use crate::digest::{Digest, DigestError};
use crate::platform::Platform;

/// Largest manifest or index, bytes.
pub const MAX_MANIFEST_BYTES: u64 = 4 << 20;
/// Largest configuration, bytes.
pub const MAX_CONFIG_BYTES: u64 = 8 << 20;
/// Most layers: overlayfs takes no more than 500.
pub const MAX_LAYERS: usize = 500;

/// Annotation with an image's name in an image layout.
pub(crate) const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// containerd's annotation with an image's full name.
pub(crate) const FULL_NAME: &str = "io.containerd.image.name";

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// What is wrong with a manifest, index or configuration.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// No JSON, or not of the right form.
    #[error("it is malformed")]
    Json(#[source] serde_json::Error),
    /// Only version 2 is in use.
    #[error("it has the schema version {0}, not 2")]
    SchemaVersion(u32),
    /// It says that it is something else.
    #[error("it has the media type {0:?}, which is no image manifest or index")]
    MediaType(String),
    /// Manifest and index at once, so that two readers may see two different images.
    #[error("it has both layers and manifests, or neither")]
    NeitherNorBoth,
    /// A layer of an unknown kind, such as an encrypted one.
    #[error("a layer has the media type {0:?}, which is not supported")]
    LayerType(String),
    /// The configuration does not match the manifest.
    #[error("the configuration names {diff_ids} layers, the manifest {layers}")]
    LayerCount {
        /// Layers of the configuration.
        diff_ids: usize,
        /// Layers of the manifest.
        layers: usize,
    },
    /// More layers than overlayfs takes.
    #[error("it has {0} layers, more than {MAX_LAYERS}")]
    TooManyLayers(usize),
    /// A layer's digest in the configuration.
    #[error("the configuration names a layer badly")]
    DiffId(#[from] DigestError),
}

/// A reference to content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What it is.
    #[serde(default)]
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its size, bytes.
    pub size: u64,
    /// What it runs on, in an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<HashMap<String, String>>,
}

impl Descriptor {
    pub(crate) fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.as_ref()?.get(key).map(String::as_str)
    }

    /// Whether it may be an image that runs: build attestations say that they run on nothing.
    pub(crate) fn is_runnable(&self) -> bool {
        let is_image = matches!(
            self.media_type.as_str(),
            "" | OCI_MANIFEST | OCI_INDEX | DOCKER_MANIFEST | DOCKER_LIST
        );
        is_image
            && self
                .platform
                .as_ref()
                .is_none_or(|platform| platform.os != "unknown")
    }
}

/// An image for one platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The configuration.
    pub config: Descriptor,
    /// The layers, lowest first.
    pub layers: Vec<Descriptor>,
}

/// What a registry or image layout has under a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// An image.
    Manifest(Manifest),
    /// The same image for several platforms.
    Index(Vec<Descriptor>),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    schema_version: u32,
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    config: Option<Descriptor>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    layers: Option<Vec<Descriptor>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    manifests: Option<Vec<Descriptor>>,
}

impl Document {
    /// Reads a manifest or index.
    ///
    /// # Errors
    /// When it is malformed or ambiguous.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        let raw: Raw = serde_json::from_slice(bytes).map_err(ManifestError::Json)?;
        if raw.schema_version != 2 {
            return Err(ManifestError::SchemaVersion(raw.schema_version));
        }
        let document = match (raw.config, raw.layers, raw.manifests) {
            (Some(config), Some(layers), None) => Self::Manifest(Manifest::new(config, layers)?),
            (None, None, Some(manifests)) => Self::Index(manifests),
            _ => return Err(ManifestError::NeitherNorBoth),
        };
        match (raw.media_type.as_deref(), &document) {
            (None | Some(""), _)
            | (Some(OCI_MANIFEST | DOCKER_MANIFEST), Self::Manifest(_))
            | (Some(OCI_INDEX | DOCKER_LIST), Self::Index(_)) => Ok(document),
            (Some(other), _) => Err(ManifestError::MediaType(other.to_owned())),
        }
    }
}

impl Manifest {
    fn new(config: Descriptor, layers: Vec<Descriptor>) -> Result<Self, ManifestError> {
        if layers.len() > MAX_LAYERS {
            return Err(ManifestError::TooManyLayers(layers.len()));
        }
        match layers.iter().find(|layer| !is_layer(&layer.media_type)) {
            Some(layer) => Err(ManifestError::LayerType(layer.media_type.clone())),
            None => Ok(Self { config, layers }),
        }
    }

    /// A manifest for a configuration and layers that came without one.
    pub(crate) fn of_parts(config: (Digest, u64), layers: &[(Digest, u64)]) -> Self {
        let descriptor = |media_type: &str, (digest, size): (Digest, u64)| Descriptor {
            media_type: media_type.to_owned(),
            digest,
            size,
            platform: None,
            annotations: None,
        };
        Self {
            config: descriptor(OCI_CONFIG, config),
            layers: layers
                .iter()
                .map(|part| descriptor(OCI_LAYER, *part))
                .collect(),
        }
    }

    /// The manifest as it is stored.
    pub(crate) fn to_json(&self) -> Result<Vec<u8>, ManifestError> {
        let raw = Raw {
            schema_version: 2,
            media_type: Some(OCI_MANIFEST.to_owned()),
            config: Some(self.config.clone()),
            layers: Some(self.layers.clone()),
            manifests: None,
        };
        serde_json::to_vec(&raw).map_err(ManifestError::Json)
    }
}

/// Layers are told apart by their first bytes; the media type only says that it is one.
fn is_layer(media_type: &str) -> bool {
    const BASES: [&str; 4] = [
        OCI_LAYER,
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.docker.image.rootfs.foreign.diff.tar",
    ];
    BASES.iter().any(|base| {
        matches!(
            media_type.strip_prefix(base),
            Some("" | "+gzip" | "+zstd" | ".gzip" | ".zstd")
        )
    })
}

/// A configuration that fits its manifest.
#[derive(Debug, Clone)]
pub struct CheckedConfig {
    /// The configuration.
    pub config: ImageConfiguration,
    /// Digests of the uncompressed layers, lowest first.
    pub diff_ids: Vec<Digest>,
}

impl CheckedConfig {
    /// Reads the configuration of an image with so many layers.
    ///
    /// # Errors
    /// When it is malformed or does not fit.
    pub fn parse(bytes: &[u8], layers: usize) -> Result<Self, ManifestError> {
        let config: ImageConfiguration =
            serde_json::from_slice(bytes).map_err(ManifestError::Json)?;
        let diff_ids: Vec<Digest> = config
            .rootfs()
            .diff_ids()
            .iter()
            .map(|diff_id| diff_id.parse())
            .collect::<Result<_, _>>()?;
        if diff_ids.len() != layers {
            return Err(ManifestError::LayerCount {
                diff_ids: diff_ids.len(),
                layers,
            });
        }
        Ok(Self { config, diff_ids })
    }

    /// What the image runs on.
    #[must_use]
    pub fn platform(&self) -> Platform {
        Platform {
            os: self.config.os().to_string(),
            architecture: self.config.architecture().to_string(),
            variant: self.config.variant().clone(),
        }
    }
}

/// The chain ids of layers with these digests: each names a layer together with all below it.
#[must_use]
pub fn chain_ids(diff_ids: &[Digest]) -> Vec<Digest> {
    let mut chain: Option<Digest> = None;
    diff_ids
        .iter()
        .map(|diff_id| {
            let next = match chain {
                None => *diff_id,
                Some(below) => Digest::of(format!("{below} {diff_id}").as_bytes()),
            };
            chain = Some(next);
            next
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn descriptor(media_type: &str) -> String {
        format!(r#"{{"mediaType":"{media_type}","digest":"sha256:{HEX}","size":3}}"#)
    }

    #[test]
    fn manifests_and_indexes_are_told_apart() {
        let config = descriptor(OCI_CONFIG);
        let layer = descriptor("application/vnd.docker.image.rootfs.diff.tar.gzip");
        let manifest = format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{layer}]}}"#);
        let parsed = Document::parse(manifest.as_bytes()).unwrap();
        assert!(matches!(parsed, Document::Manifest(manifest) if manifest.layers.len() == 1));
        let entry = descriptor(OCI_MANIFEST);
        let index =
            format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[{entry}]}}"#);
        let parsed = Document::parse(index.as_bytes()).unwrap();
        assert!(matches!(parsed, Document::Index(entries) if entries.len() == 1));
    }

    #[test]
    fn ambiguous_and_foreign_documents_are_refused() {
        let config = descriptor(OCI_CONFIG);
        let both = format!(r#"{{"schemaVersion":2,"config":{config},"layers":[],"manifests":[]}}"#);
        let error = |text: &str| Document::parse(text.as_bytes()).unwrap_err();
        assert!(matches!(error(&both), ManifestError::NeitherNorBoth));
        assert!(matches!(
            error(r#"{"schemaVersion":2}"#),
            ManifestError::NeitherNorBoth
        ));
        assert!(matches!(
            error(r#"{"schemaVersion":1}"#),
            ManifestError::SchemaVersion(1)
        ));
        assert!(matches!(error("{"), ManifestError::Json(_)));
        let mislabelled =
            format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","manifests":[]}}"#);
        assert!(matches!(error(&mislabelled), ManifestError::MediaType(_)));
        let encrypted = descriptor("application/vnd.oci.image.layer.v1.tar+gzip+encrypted");
        let encrypted =
            format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{encrypted}]}}"#);
        assert!(matches!(error(&encrypted), ManifestError::LayerType(_)));
    }

    #[test]
    fn a_configuration_must_name_each_layer() {
        let config = format!(
            r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":["sha256:{HEX}"]}}}}"#
        );
        let checked = CheckedConfig::parse(config.as_bytes(), 1).unwrap();
        assert_eq!(checked.platform().to_string(), "linux/amd64");
        assert!(matches!(
            CheckedConfig::parse(config.as_bytes(), 2),
            Err(ManifestError::LayerCount {
                diff_ids: 1,
                layers: 2
            })
        ));
    }

    #[test]
    fn chain_ids_follow_the_specification() {
        let a = Digest::of(b"a");
        let b = Digest::of(b"b");
        let chain = chain_ids(&[a, b]);
        assert_eq!(chain, [a, Digest::of(format!("{a} {b}").as_bytes())]);
    }

    #[test]
    fn manifests_made_here_can_be_read() {
        let digest = Digest::of(b"x");
        let made = Manifest::of_parts((digest, 1), &[(digest, 2)]);
        let parsed = Document::parse(&made.to_json().unwrap()).unwrap();
        assert_eq!(parsed, Document::Manifest(made));
    }
}
