//! Images made by tests, good and bad ones.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{EntryType, Header};

use crate::{Outcome, busybox};

/// Makes a layout of the busybox image with another command, and answers with its name for skopeo.
///
/// # Panics
/// When it cannot be made.
#[must_use]
pub fn with_command(layout: &Path, command: &[&str]) -> String {
    let image = format!("{}:latest", layout.display());
    let copied = Command::new("skopeo")
        .args(["copy", "--quiet", &busybox()])
        .arg(format!("oci:{image}"))
        .output();
    let _ = Outcome(copied.expect("skopeo runs")).ok();
    let words = command.iter().flat_map(|word| ["--config.cmd", *word]);
    let configured = Command::new("umoci")
        .args(["config", "--image", &image])
        .args(words)
        .output();
    let _ = Outcome(configured.expect("umoci runs")).ok();
    format!("oci:{image}")
}

/// An entry of a layer.
#[derive(Debug, Clone, Copy)]
pub enum Entry<'a> {
    /// A regular file and its content.
    File(&'a str, &'a [u8]),
    /// A directory.
    Directory(&'a str),
    /// A symbolic link and its target.
    Symlink(&'a str, &'a str),
    /// A hard link and its target.
    HardLink(&'a str, &'a str),
}

/// A layer's archive. Paths are written as they are, which a tar program would refuse to do.
///
/// # Panics
/// When a path is longer than a header has room for.
#[must_use]
pub fn archive(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for entry in entries {
        let (path, kind, target, content): (_, _, _, &[u8]) = match *entry {
            Entry::File(path, content) => (path, EntryType::Regular, "", content),
            Entry::Directory(path) => (path, EntryType::Directory, "", b""),
            Entry::Symlink(path, target) => (path, EntryType::Symlink, target, b""),
            Entry::HardLink(path, target) => (path, EntryType::Link, target, b""),
        };
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(content.len() as u64);
        let gnu = header.as_gnu_mut().expect("it is a GNU header");
        gnu.name[..path.len()].copy_from_slice(path.as_bytes());
        gnu.linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_cksum();
        builder.append(&header, content).expect("in memory");
    }
    builder.into_inner().expect("in memory")
}

/// The digest of `bytes` as images write it.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("sha256:{hex}")
}

/// An image with one layer.
#[derive(Debug, Clone)]
pub struct TestImage {
    /// Its manifest.
    pub manifest: Vec<u8>,
    /// Its configuration.
    pub config: Vec<u8>,
    /// Its layer, not compressed.
    pub layer: Vec<u8>,
}

impl TestImage {
    /// The image of a layer.
    #[must_use]
    pub fn new(layer: Vec<u8>) -> Self {
        let config = json!({
            "architecture": "amd64",
            "os": "linux",
            "config": { "Cmd": ["/bin/sh"] },
            "rootfs": { "type": "layers", "diff_ids": [digest(&layer)] },
        });
        let config = config.to_string().into_bytes();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("config.v1+json", &config),
            "layers": [descriptor("layer.v1.tar", &layer)],
        });
        Self {
            manifest: manifest.to_string().into_bytes(),
            config,
            layer,
        }
    }

    /// Its parts by digest.
    #[must_use]
    pub fn blobs(&self) -> Vec<(String, &[u8])> {
        let parts: [&[u8]; 3] = [&self.manifest, &self.config, &self.layer];
        parts.map(|part| (digest(part), part)).to_vec()
    }

    /// Writes it as an image layout with the tag `latest` and returns the reference.
    ///
    /// # Panics
    /// When a file cannot be written.
    #[must_use]
    pub fn write(&self, dir: &Path) -> String {
        for (digest, bytes) in self.blobs() {
            let path = blob(dir, &digest);
            fs::create_dir_all(path.parent().expect("it has one")).expect("a directory");
            fs::write(path, bytes).expect("a file");
        }
        let mut entry = descriptor("manifest.v1+json", &self.manifest);
        entry["annotations"] = json!({ "org.opencontainers.image.ref.name": "latest" });
        let index = json!({ "schemaVersion": 2, "manifests": [entry] });
        fs::write(dir.join("index.json"), index.to_string()).expect("a file");
        let version = json!({ "imageLayoutVersion": "1.0.0" });
        fs::write(dir.join("oci-layout"), version.to_string()).expect("a file");
        format!("oci:{}:latest", dir.display())
    }
}

/// Where a layout has the blob with this digest.
#[must_use]
pub fn blob(dir: &Path, digest: &str) -> PathBuf {
    dir.join("blobs").join(digest.replace(':', "/"))
}

fn descriptor(kind: &str, bytes: &[u8]) -> Value {
    json!({
        "mediaType": format!("application/vnd.oci.image.{kind}"),
        "digest": digest(bytes),
        "size": bytes.len(),
    })
}
