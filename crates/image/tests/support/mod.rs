//! Images made in memory.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "support for tests, each of which uses a part"
)]

pub mod child;
pub mod registry;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use hull_image::{Digest, Store, StoreOptions};

/// One layer's tar archive.
pub struct LayerBuilder(tar::Builder<Vec<u8>>);

impl LayerBuilder {
    pub fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    pub fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000_000);
        header
    }

    pub fn dir(self, path: &str, mode: u32) -> Self {
        self.entry(path, tar::EntryType::Directory, mode, b"")
    }

    pub fn file(self, path: &str, content: &[u8]) -> Self {
        self.entry(path, tar::EntryType::Regular, 0o644, content)
    }

    pub fn entry(mut self, path: &str, kind: tar::EntryType, mode: u32, content: &[u8]) -> Self {
        let mut header = Self::header(kind, mode, content.len() as u64);
        // The crate's own setter refuses the paths that attacks need.
        header.as_gnu_mut().unwrap().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_cksum();
        self.0.append(&header, content).unwrap();
        self
    }

    pub fn link(mut self, path: &str, kind: tar::EntryType, target: &str) -> Self {
        let mut header = Self::header(kind, 0o777, 0);
        let gnu = header.as_gnu_mut().unwrap();
        gnu.name[..path.len()].copy_from_slice(path.as_bytes());
        gnu.linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_cksum();
        self.0.append(&header, &b""[..]).unwrap();
        self
    }

    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.link(path, tar::EntryType::Symlink, target)
    }

    pub fn hard_link(self, path: &str, target: &str) -> Self {
        self.link(path, tar::EntryType::Link, target)
    }

    pub fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

/// A compressed layer.
#[derive(Clone)]
pub struct Layer {
    pub blob: Vec<u8>,
    pub diff_id: Digest,
    pub media_type: &'static str,
}

impl Layer {
    pub fn plain(tar: &[u8]) -> Self {
        Self {
            blob: tar.to_owned(),
            diff_id: Digest::of(tar),
            media_type: "application/vnd.oci.image.layer.v1.tar",
        }
    }

    pub fn gzip(tar: &[u8]) -> Self {
        Self {
            blob: gzip(tar),
            diff_id: Digest::of(tar),
            media_type: "application/vnd.oci.image.layer.v1.tar+gzip",
        }
    }

    pub fn zstd(tar: &[u8]) -> Self {
        Self {
            blob: zstd(tar),
            diff_id: Digest::of(tar),
            media_type: "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }
}

/// An image's documents.
#[derive(Clone)]
pub struct ImageParts {
    pub manifest: Vec<u8>,
    pub config: Vec<u8>,
    pub layers: Vec<Layer>,
}

pub fn descriptor(media_type: &str, bytes: &[u8]) -> serde_json::Value {
    serde_json::json!({
        "mediaType": media_type,
        "digest": Digest::of(bytes),
        "size": bytes.len(),
    })
}

pub const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";

impl ImageParts {
    pub fn new(layers: Vec<Layer>) -> Self {
        Self::for_arch("amd64", layers)
    }

    pub fn for_arch(architecture: &str, layers: Vec<Layer>) -> Self {
        let diff_ids: Vec<Digest> = layers.iter().map(|layer| layer.diff_id).collect();
        let config = serde_json::to_vec(&serde_json::json!({
            "architecture": architecture,
            "os": "linux",
            "created": "2024-01-02T03:04:05Z",
            "config": { "Cmd": ["/bin/sh"], "Env": ["PATH=/bin"] },
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        }))
        .unwrap();
        let descriptors: Vec<_> = layers
            .iter()
            .map(|layer| descriptor(layer.media_type, &layer.blob))
            .collect();
        let manifest = serde_json::to_vec(&serde_json::json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": descriptors,
        }))
        .unwrap();
        Self {
            manifest,
            config,
            layers,
        }
    }

    /// All blobs by digest.
    pub fn blobs(&self) -> Vec<(Digest, Vec<u8>)> {
        let layers = self.layers.iter().map(|layer| layer.blob.clone());
        [self.manifest.clone(), self.config.clone()]
            .into_iter()
            .chain(layers)
            .map(|blob| (Digest::of(&blob), blob))
            .collect()
    }
}

/// Writes an image layout with these images by tag.
pub fn write_layout(dir: &Path, images: &[(&str, &ImageParts)]) {
    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    let mut manifests = Vec::new();
    for (tag, image) in images {
        for (digest, blob) in image.blobs() {
            fs::write(blobs.join(digest.hex()), blob).unwrap();
        }
        let mut entry = descriptor(MANIFEST_TYPE, &image.manifest);
        entry["annotations"] = serde_json::json!({ "org.opencontainers.image.ref.name": tag });
        manifests.push(entry);
    }
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": manifests });
    fs::write(dir.join("index.json"), index.to_string()).unwrap();
}

/// A tar file of a directory's content.
pub fn tar_of(dir: &Path, file: &Path) {
    let mut builder = tar::Builder::new(fs::File::create(file).unwrap());
    builder.append_dir_all(".", dir).unwrap();
    builder.finish().unwrap();
}

/// A store in a directory of its own.
pub struct TestStore {
    pub temp: tempfile::TempDir,
    pub store: Store,
}

impl TestStore {
    pub fn new() -> Self {
        Self::with(StoreOptions::default())
    }

    pub fn with(options: StoreOptions) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let store = Store::open(&temp.path().join("store"), options).unwrap();
        Self { temp, store }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    /// Every file below the store's root that is no lock, not the version and not the index's reserve.
    pub fn content(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut dirs = vec![self.store.root().to_owned()];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(dir).unwrap() {
                let entry = entry.unwrap();
                if entry.file_type().unwrap().is_dir() {
                    dirs.push(entry.path());
                }
                let path = entry.path();
                let name = path.strip_prefix(self.store.root()).unwrap();
                found.push(name.to_str().unwrap().to_owned());
            }
        }
        let fixed = [
            "version",
            "images.reserve",
            "blobs",
            "blobs/sha256",
            "layers",
            "layers-userxattr",
            "holds",
            "locks",
            "tmp",
        ];
        found.retain(|name| !name.ends_with(".lock") && !fixed.contains(&name.as_str()));
        found.sort();
        found
    }
}
