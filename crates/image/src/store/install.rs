//! Puts an image from this host into the store.

use std::io::Read;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::Shared;
use super::index::Record;
use super::layers::{Plan, Planned, Unplaced};
use crate::digest::Digest;
use crate::error::ImageError;
use crate::layer::LayerError;
use crate::manifest::{CheckedConfig, Manifest};
use crate::progress::{Event, Progress};

/// Where an image's layers can be read.
pub(crate) trait LayerSource: Sync {
    /// Opens a layer by its number, lowest first.
    fn open(&self, index: usize, layer: &Planned) -> Result<Box<dyn Read + '_>, ImageError>;

    /// What errors call it.
    fn place(&self) -> String;
}

/// An image without its layers.
#[derive(Debug)]
pub(crate) struct Incoming {
    /// Under which name it is kept.
    pub(crate) reference: String,
    /// What the name led to.
    pub(crate) top: Vec<u8>,
    /// The manifest's bytes; the same unless there is an index.
    pub(crate) manifest_bytes: Vec<u8>,
    pub(crate) manifest: Manifest,
    pub(crate) config_bytes: Vec<u8>,
    pub(crate) config: CheckedConfig,
}

impl Shared {
    /// Copies the layers that are missing, unpacks them and records the image.
    pub(crate) fn install(
        &self,
        incoming: &Incoming,
        source: &dyn LayerSource,
        progress: &dyn Progress,
    ) -> Result<Record, ImageError> {
        let layers = &incoming.manifest.layers;
        let plan = self.plan(layers, &incoming.config.diff_ids, progress)?;
        let unpacked = self.copy_layers(&plan, source, progress)?;
        self.place(&plan, unpacked, progress)?;
        self.record(incoming, &plan)
    }

    /// Writes down an image whose layers are all there.
    pub(crate) fn record(&self, incoming: &Incoming, plan: &Plan) -> Result<Record, ImageError> {
        let record = Record {
            digest: self.blobs.put(&incoming.top)?,
            manifest: self.blobs.put(&incoming.manifest_bytes)?,
            config: self.blobs.put(&incoming.config_bytes)?,
            blobs: plan.layers.iter().map(|layer| layer.blob.digest).collect(),
            chain_ids: plan.layers.iter().map(|layer| layer.chain_id).collect(),
        };
        self.index.update(|records| {
            records.insert(incoming.reference.clone(), record.clone());
            Ok(())
        })?;
        Ok(record)
    }

    fn copy_layers(
        &self,
        plan: &Plan,
        source: &dyn LayerSource,
        progress: &dyn Progress,
    ) -> Result<Vec<(usize, Unplaced)>, ImageError> {
        let missing: Vec<_> = plan.missing().collect();
        let next = AtomicUsize::new(0);
        let cancelled = AtomicBool::new(false);
        let results = Mutex::new(Vec::with_capacity(missing.len()));
        let work = || {
            while let Some((index, layer)) = missing.get(next.fetch_add(1, Ordering::Relaxed)) {
                let result = if cancelled.load(Ordering::Relaxed) {
                    return;
                } else {
                    self.copy_layer(*index, layer, source, progress, &cancelled)
                };
                if result.is_err() {
                    cancelled.store(true, Ordering::Relaxed);
                }
                let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
                results.push((*index, result));
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..self.parallel_layers.min(missing.len()) {
                scope.spawn(work);
            }
            work();
        });
        let results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
        all_or_cause(results)
    }

    fn copy_layer(
        &self,
        index: usize,
        layer: &Planned,
        source: &dyn LayerSource,
        progress: &dyn Progress,
        cancelled: &AtomicBool,
    ) -> Result<Unplaced, ImageError> {
        let digest = &layer.blob.digest;
        if !self.blobs.has(digest) {
            self.copy_blob(index, layer, source, progress, cancelled)?;
        }
        self.unpack(index, digest, &layer.diff_id, progress, cancelled)
    }

    fn copy_blob(
        &self,
        index: usize,
        layer: &Planned,
        source: &dyn LayerSource,
        progress: &dyn Progress,
        cancelled: &AtomicBool,
    ) -> Result<(Digest, u64), ImageError> {
        let place = source.place();
        let what = format!("layer {} in {place}", layer.blob.digest);
        let mut reader = source.open(index, layer)?;
        let mut writer = self.blobs.writer(what, Some(layer.blob.size))?;
        let mut buffer = vec![0; 128 << 10];
        loop {
            if cancelled.load(Ordering::Relaxed) {
                return Err(ImageError::Layer {
                    digest: layer.blob.digest,
                    source: LayerError::Cancelled,
                });
            }
            let count = reader
                .read(&mut buffer)
                .map_err(ImageError::io("read", &place))?;
            if count == 0 {
                return writer.commit(Some(&layer.blob.digest));
            }
            writer.write(&buffer[..count])?;
            progress.event(Event::Fetched {
                layer: index,
                bytes: writer.length(),
            });
        }
    }
}

/// All results, in order; or the failure that ended the others.
pub(crate) fn all_or_cause<T>(
    results: Vec<(usize, Result<T, ImageError>)>,
) -> Result<Vec<(usize, T)>, ImageError> {
    let mut all = Vec::with_capacity(results.len());
    let mut failure: Option<ImageError> = None;
    for (index, result) in results {
        match result {
            Ok(item) => all.push((index, item)),
            Err(error) if failure.as_ref().is_none_or(is_cancelled) => failure = Some(error),
            Err(_) => {}
        }
    }
    match failure {
        Some(error) => Err(error),
        None => {
            all.sort_by_key(|(index, _)| *index);
            Ok(all)
        }
    }
}

fn is_cancelled(error: &ImageError) -> bool {
    matches!(
        error,
        ImageError::Cancelled(_)
            | ImageError::Layer {
                source: LayerError::Cancelled,
                ..
            }
    )
}
