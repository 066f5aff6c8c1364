//! Unpacked layers: each is a directory named by its chain id, because the attributes of
//! directories that a layer has no entry for come from the layers below.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use serde::{Deserialize, Serialize};

use super::lock::Lock;
use super::temp::Temp;
use super::{Shared, list_names};
use crate::digest::Digest;
use crate::error::ImageError;
use crate::layer::{self, LayerError, Note, OverlayXattr, UnpackOptions};
use crate::manifest::{Descriptor, chain_ids};
use crate::progress::{Event, LayerSize, Progress};

/// A layer of an image that is being installed.
#[derive(Debug)]
pub(crate) struct Planned {
    pub(crate) blob: Descriptor,
    pub(crate) diff_id: Digest,
    pub(crate) chain_id: Digest,
    /// Held until the layer is there; none if it is already.
    lock: Option<Lock>,
}

/// The layers of an image that is being installed.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) layers: Vec<Planned>,
    /// Keeps the collector away from what no image names yet.
    _collector_waits: Lock,
    /// Stays when this process is killed, so that the next one collects what it had put in place.
    _trace: Temp,
}

/// A layer that is unpacked and not yet in its place.
#[derive(Debug)]
pub(crate) struct Unplaced {
    temp: Temp,
    implicit_dirs: Vec<PathBuf>,
    record: LayerRecord,
}

impl Unplaced {
    /// The layer's root directory.
    pub(super) fn fs(&self) -> PathBuf {
        self.temp.path().join(FS)
    }
}

/// What is kept with a layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LayerRecord {
    pub(crate) diff_id: Digest,
    pub(crate) blob: Digest,
    pub(crate) size_bytes: u64,
    pub(crate) entries: u64,
    /// The first of what could not be kept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) notes: Vec<Note>,
    pub(crate) note_count: u64,
}

const FS: &str = "fs";
const RECORD: &str = "layer.json";

impl Plan {
    /// The layers that are missing, lowest first.
    pub(crate) fn missing(&self) -> impl Iterator<Item = (usize, &Planned)> {
        self.layers
            .iter()
            .enumerate()
            .filter(|(_, layer)| layer.lock.is_some())
    }
}

impl Shared {
    /// Where layers with this kind of marks are.
    pub(super) fn layers_dir(&self, kind: OverlayXattr) -> PathBuf {
        self.root.join(match kind {
            OverlayXattr::Trusted => "layers",
            OverlayXattr::User => "layers-userxattr",
        })
    }

    pub(super) fn layer_dir(&self, chain_id: &Digest) -> PathBuf {
        self.layers_dir(self.unpack.overlay_xattr)
            .join(chain_id.hex())
    }

    /// The layer's root directory.
    pub(super) fn layer_fs(&self, chain_id: &Digest) -> PathBuf {
        self.layer_dir(chain_id).join(FS)
    }

    pub(super) fn has_layer(&self, chain_id: &Digest) -> bool {
        self.layer_dir(chain_id).is_dir()
    }

    pub(super) fn layer_record(&self, chain_id: &Digest) -> Result<LayerRecord, ImageError> {
        let path = self.layer_dir(chain_id).join(RECORD);
        let text = fs::read(&path).map_err(ImageError::io("read", &path))?;
        serde_json::from_slice(&text).map_err(ImageError::io("read", &path))
    }

    /// The layers of one kind by chain id.
    pub(super) fn list_layers(&self, kind: OverlayXattr) -> Result<Vec<Digest>, ImageError> {
        list_names(&self.layers_dir(kind), Digest::from_hex)
    }

    /// Finds out which layers are missing and locks those, lowest first so that two processes
    /// never wait for each other. Blocks while another process is unpacking one of them.
    pub(crate) fn plan(
        &self,
        blobs: &[Descriptor],
        diff_ids: &[Digest],
        progress: &dyn Progress,
    ) -> Result<Plan, ImageError> {
        let collector_waits = Lock::shared(&self.collector_lock())?;
        let mut layers = Vec::with_capacity(blobs.len());
        let mut sizes = Vec::with_capacity(blobs.len());
        for ((blob, diff_id), chain_id) in blobs.iter().zip(diff_ids).zip(chain_ids(diff_ids)) {
            let mut lock = None;
            if !self.has_layer(&chain_id) {
                let path = self.root.join("locks").join(chain_id.hex());
                let held = match Lock::try_exclusive(&path)? {
                    Some(held) => held,
                    None => {
                        progress.event(Event::Waiting);
                        Lock::exclusive(&path)?
                    }
                };
                lock = (!self.has_layer(&chain_id)).then_some(held);
            }
            sizes.push(LayerSize {
                digest: blob.digest,
                bytes: blob.size,
                present: lock.is_none(),
            });
            layers.push(Planned {
                blob: blob.clone(),
                diff_id: *diff_id,
                chain_id,
                lock,
            });
        }
        progress.event(Event::Layers(&sizes));
        Ok(Plan {
            layers,
            _collector_waits: collector_waits,
            _trace: self.temp.file()?,
        })
    }

    /// Unpacks the layer numbered `index`, whose blob is in the store.
    pub(crate) fn unpack(
        &self,
        index: usize,
        blob: &Digest,
        diff_id: &Digest,
        progress: &dyn Progress,
        cancelled: &AtomicBool,
    ) -> Result<Unplaced, ImageError> {
        let temp = self.temp.dir()?;
        let dir = temp.path().join(FS);
        DirBuilder::new()
            .mode(0o755)
            .create(&dir)
            .map_err(ImageError::io("create", &dir))?;
        let source = Watched {
            inner: self.blobs.open(blob)?,
            bytes: 0,
            index,
            progress,
        };
        let options = UnpackOptions {
            lowest: index == 0,
            ..self.unpack
        };
        let failed = |source| match source {
            LayerError::NoSpace { source, .. } => ImageError::NoSpace {
                path: dir.clone(),
                source,
            },
            source => ImageError::Layer {
                digest: *blob,
                source,
            },
        };
        let unpacked = layer::unpack(source, &dir, &options, cancelled).map_err(failed)?;
        if unpacked.diff_id != *diff_id {
            return Err(failed(LayerError::DiffId {
                expected: *diff_id,
                actual: unpacked.diff_id,
            }));
        }
        for note in &unpacked.notes {
            progress.event(Event::Note { layer: index, note });
        }
        Ok(Unplaced {
            temp,
            implicit_dirs: unpacked.implicit_dirs,
            record: LayerRecord {
                diff_id: unpacked.diff_id,
                blob: *blob,
                size_bytes: unpacked.size_bytes,
                entries: unpacked.entries,
                notes: unpacked.notes,
                note_count: unpacked.note_count,
            },
        })
    }

    /// Gives a layer what it takes from the layers below it, uppermost first.
    pub(super) fn complete(&self, layer: &Unplaced, lower: &[PathBuf]) -> Result<(), ImageError> {
        layer::complete_parents(
            &layer.fs(),
            &layer.implicit_dirs,
            lower,
            self.unpack.overlay_xattr,
            self.unpack.ownership,
        )
        .map_err(|source| ImageError::Layer {
            digest: layer.record.blob,
            source,
        })
    }

    /// Puts the unpacked layers in their places, those of `plan` that were missing, by number.
    pub(crate) fn place(
        &self,
        plan: &Plan,
        unpacked: Vec<(usize, Unplaced)>,
        progress: &dyn Progress,
    ) -> Result<(), ImageError> {
        let mut ready = Vec::with_capacity(unpacked.len());
        // Those still in the making must be found when a layer above looks at them.
        let mut places: Vec<PathBuf> = plan
            .layers
            .iter()
            .map(|layer| self.layer_fs(&layer.chain_id))
            .collect();
        for (index, layer) in unpacked {
            let dir = layer.temp.path();
            let lower: Vec<PathBuf> = places[..index].iter().rev().cloned().collect();
            self.complete(&layer, &lower)?;
            let path = dir.join(RECORD);
            let text = serde_json::to_vec(&layer.record).map_err(ImageError::io("write", &path))?;
            fs::write(&path, text).map_err(ImageError::io("write", &path))?;
            places[index] = layer.fs();
            ready.push((index, layer.temp));
        }
        if let Some((_, temp)) = ready.first() {
            // Once for all of them: a layer in its place must be whole after a power failure too.
            let root = File::open(temp.path()).map_err(ImageError::io("open", temp.path()))?;
            rustix::fs::syncfs(&root).map_err(ImageError::io("write", temp.path()))?;
        }
        for (index, temp) in ready {
            temp.keep_as(&self.layer_dir(&plan.layers[index].chain_id))?;
            progress.event(Event::Unpacked { layer: index });
        }
        Ok(())
    }
}

/// Tells how much of a blob has been unpacked.
struct Watched<'a> {
    inner: File,
    bytes: u64,
    index: usize,
    progress: &'a dyn Progress,
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.bytes += count as u64;
        self.progress.event(Event::Unpacking {
            layer: self.index,
            bytes: self.bytes,
        });
        Ok(count)
    }
}
