//! Pulling images from registries.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::{JoinError, JoinSet};

use super::blobs::check_digest;
use super::index::Record;
use super::install::{Incoming, all_or_cause};
use super::layers::{Plan, Unplaced};
use super::{Shared, Store};
use crate::archive::choose_platform;
use crate::digest::Digest;
use crate::error::{ErrorKind, ImageError};
use crate::image::Image;
use crate::manifest::{
    CheckedConfig, Descriptor, Document, MAX_CONFIG_BYTES, MAX_MANIFEST_BYTES, Manifest,
};
use crate::progress::{Event, Progress};
use crate::reference::Name;
use crate::registry::{Chunk, Credentials, Endpoint, Login, Registries, RegistryError, Session};

/// Pieces of a layer that wait to be written.
const CHUNKS_IN_FLIGHT: usize = 16;

/// Whom to ask, and as whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullOptions {
    /// Mirrors and registries that need special care.
    pub registries: Registries,
    /// Where credentials come from.
    pub credentials: Credentials,
}

impl PullOptions {
    /// What the user's and the system's files say: [`Registries::find`] and
    /// [`Credentials::of_process`].
    ///
    /// # Errors
    /// When there is a `registries.toml` that cannot be used.
    pub fn of_process() -> Result<Self, ImageError> {
        Ok(Self {
            registries: Registries::find()?,
            credentials: Credentials::of_process(),
        })
    }
}

impl Store {
    /// Takes an image from its registry or one of the mirrors. Layers that the store has are not
    /// fetched again. Whether to ask at all when the store has the image is the caller's decision.
    ///
    /// Dropping the future gives the pull up; what is being unpacked then is removed by another
    /// thread a moment later, or by the next process to open the store. Needs tokio's
    /// multi-threaded runtime.
    ///
    /// # Errors
    /// When the registry does not give it, or it is damaged or refused. Nothing of it is kept then,
    /// except for whole layers if the network failed: the next attempt does not fetch them again.
    pub async fn pull(
        &self,
        name: &Name,
        options: &PullOptions,
        progress: Arc<dyn Progress>,
    ) -> Result<Image, ImageError> {
        let mut endpoints = VecDeque::from(Endpoint::all(name, &options.registries));
        let result = loop {
            let Some(endpoint) = endpoints.pop_front() else {
                break Err(ImageError::NotFound(name.to_string()));
            };
            let host = endpoint.host.clone();
            let attempt = Arc::new(Attempt {
                cancel: Cancel::default(),
                reference: name.to_string(),
                name: name.clone(),
                shared: Arc::clone(&self.shared),
                progress: Arc::clone(&progress),
            });
            let _cancel_when_dropped = CancelOnDrop(Arc::clone(&attempt));
            match attempt.run(endpoint, &options.credentials).await {
                Err(error) if !endpoints.is_empty() && is_sources_fault(&error) => {
                    let error: &dyn std::error::Error = &error;
                    tracing::warn!(mirror = host, error, "asking the next");
                }
                result => break result,
            }
        };
        let (shared, reference) = (Arc::clone(&self.shared), name.to_string());
        blocking(&name.to_string(), move || {
            shared.tidy(&result);
            shared.image(&reference, &result?)
        })
        .await
    }
}

/// Whether another registry may do better.
fn is_sources_fault(error: &ImageError) -> bool {
    matches!(
        error.kind(),
        ErrorKind::NotFound | ErrorKind::Unauthorized | ErrorKind::Registry | ErrorKind::Corrupt
    )
}

/// An attempt to pull from one registry.
struct Attempt {
    shared: Arc<Shared>,
    name: Name,
    reference: String,
    progress: Arc<dyn Progress>,
    cancel: Cancel,
}

/// Tells tasks and blocking threads of an attempt to end.
struct Cancel {
    flag: AtomicBool,
    watch: watch::Sender<bool>,
}

impl Default for Cancel {
    fn default() -> Self {
        Self {
            flag: AtomicBool::new(false),
            watch: watch::Sender::new(false),
        }
    }
}

impl Cancel {
    fn cancel(&self) {
        self.flag.store(true, Ordering::Relaxed);
        self.watch.send_replace(true);
    }

    async fn cancelled(&self) {
        // The sender lives as long as this does.
        let _ = self
            .watch
            .subscribe()
            .wait_for(|cancelled| *cancelled)
            .await;
    }
}

struct CancelOnDrop(Arc<Attempt>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel.cancel();
    }
}

impl Attempt {
    async fn run(
        self: &Arc<Self>,
        endpoint: Endpoint,
        credentials: &Credentials,
    ) -> Result<Record, ImageError> {
        let session = Arc::new(self.open(endpoint, credentials).await?);
        let incoming = self.documents(&session).await?;
        let this = Arc::clone(self);
        let layers = incoming.manifest.layers.clone();
        let diff_ids = incoming.config.diff_ids.clone();
        let plan = self
            .blocking(move || this.shared.plan(&layers, &diff_ids, &*this.progress))
            .await?;
        let unpacked = self.fetch_layers(&plan, &session).await?;
        let this = Arc::clone(self);
        self.blocking(move || {
            this.shared.place(&plan, unpacked, &*this.progress)?;
            this.shared.record(&incoming, &plan)
        })
        .await
    }

    async fn open(
        self: &Arc<Self>,
        endpoint: Endpoint,
        credentials: &Credentials,
    ) -> Result<Session, ImageError> {
        let (credentials, registry) = (credentials.clone(), endpoint.login.clone());
        let repository = self.name.repository().to_owned();
        let login: Option<Login> = self
            .blocking(move || {
                credentials
                    .find(&registry, &repository)
                    .map_err(|source| ImageError::Credentials { registry, source })
            })
            .await?;
        let logged_in = login.is_some();
        Session::open(endpoint, self.name.repository(), login)
            .await
            .map_err(|error| self.registry_error(error, logged_in))
    }

    /// Fetches manifest and configuration.
    async fn documents(&self, session: &Session) -> Result<Incoming, ImageError> {
        let host = &self.shared.platform;
        let reference = &self.reference;
        let top = match (self.name.digest(), self.name.tag()) {
            (Some(digest), _) => self.manifest(session, digest).await?,
            (None, tag) => {
                self.manifest_bytes(session, tag.unwrap_or("latest"))
                    .await?
            }
        };
        let parse = |bytes: &[u8]| {
            Document::parse(bytes).map_err(|source| ImageError::Manifest {
                what: format!("the manifest of {reference}"),
                source,
            })
        };
        let (manifest_bytes, manifest) = match parse(&top)? {
            Document::Manifest(manifest) => (top.clone(), manifest),
            Document::Index(entries) => {
                let chosen = choose_platform(&entries, reference, host)?;
                let bytes = self.manifest(session, &chosen.digest).await?;
                match parse(&bytes)? {
                    Document::Manifest(manifest) => (bytes, manifest),
                    Document::Index(_) => {
                        let what = format!("the nesting of indexes in {reference}");
                        return Err(ImageError::Unsupported(what));
                    }
                }
            }
        };
        let config_bytes = self.config(session, &manifest).await?;
        let config =
            CheckedConfig::parse(&config_bytes, manifest.layers.len()).map_err(|source| {
                ImageError::Manifest {
                    what: format!("the configuration of {reference}"),
                    source,
                }
            })?;
        Incoming {
            reference: reference.clone(),
            top,
            manifest_bytes,
            manifest,
            config_bytes,
            config,
        }
        .for_platform(host)
    }

    /// Fetches the manifest with this digest.
    async fn manifest(&self, session: &Session, digest: &Digest) -> Result<Vec<u8>, ImageError> {
        let bytes = self.manifest_bytes(session, &digest.to_string()).await?;
        let what = || {
            format!(
                "the manifest that {} gives for {}",
                session.host(),
                self.reference
            )
        };
        check_digest(&bytes, digest, what)?;
        Ok(bytes)
    }

    async fn manifest_bytes(
        &self,
        session: &Session,
        tag_or_digest: &str,
    ) -> Result<Vec<u8>, ImageError> {
        let manifest = session.manifest(tag_or_digest, MAX_MANIFEST_BYTES).await;
        manifest
            .map_err(|error| self.registry_error(error, session.logged_in()))?
            .ok_or_else(|| ImageError::TooLarge {
                what: format!("the manifest of {}", self.reference),
                limit: MAX_MANIFEST_BYTES,
            })
    }

    async fn config(&self, session: &Session, manifest: &Manifest) -> Result<Vec<u8>, ImageError> {
        let config = &manifest.config;
        let what = || format!("the configuration of {}", self.reference);
        if config.size > MAX_CONFIG_BYTES {
            return Err(ImageError::TooLarge {
                what: what(),
                limit: MAX_CONFIG_BYTES,
            });
        }
        let (sender, mut receiver) = mpsc::channel::<Chunk>(CHUNKS_IN_FLIGHT);
        let fetch = async {
            let result = session.blob(config, &sender).await;
            drop(sender);
            result
        };
        let collect = async {
            let mut bytes = Vec::new();
            while let Some(chunk) = receiver.recv().await {
                bytes.extend_from_slice(&chunk);
            }
            bytes
        };
        let (fetched, bytes) = tokio::join!(fetch, collect);
        fetched.map_err(|error| self.blob_error(error, &config.digest, session))?;
        if bytes.len() as u64 != config.size {
            return Err(ImageError::SizeMismatch {
                what: what(),
                expected: config.size,
                actual: bytes.len() as u64,
            });
        }
        check_digest(&bytes, &config.digest, what)?;
        Ok(bytes)
    }

    /// Fetches and unpacks what is missing, lowest first, several layers at once. A failure ends all.
    async fn fetch_layers(
        self: &Arc<Self>,
        plan: &Plan,
        session: &Arc<Session>,
    ) -> Result<Vec<(usize, Unplaced)>, ImageError> {
        let permits = Arc::new(Semaphore::new(self.shared.parallel_layers));
        let mut tasks = JoinSet::new();
        let mut results = Vec::new();
        for (index, layer) in plan.missing() {
            let permit = Arc::clone(&permits).acquire_owned().await;
            if self.cancel.flag.load(Ordering::Relaxed) {
                results.push((index, Err(self.cancelled())));
                break;
            }
            let (this, session) = (Arc::clone(self), Arc::clone(session));
            let (blob, diff_id) = (layer.blob.clone(), layer.diff_id);
            tasks.spawn(async move {
                let result = this.fetch_layer(index, &blob, diff_id, &session).await;
                if result.is_err() {
                    this.cancel.cancel();
                }
                drop(permit);
                (index, result)
            });
        }
        // All of them are waited for: nothing may write any more when the pull has failed.
        while let Some(joined) = tasks.join_next().await {
            results.push(joined.map_err(|error| join_error(error, &self.reference))?);
        }
        all_or_cause(results)
    }

    async fn fetch_layer(
        self: &Arc<Self>,
        index: usize,
        blob: &Descriptor,
        diff_id: Digest,
        session: &Session,
    ) -> Result<Unplaced, ImageError> {
        if !self.shared.blobs.has(&blob.digest) {
            self.fetch_blob(index, blob, session).await?;
        }
        let (this, digest) = (Arc::clone(self), blob.digest);
        self.blocking(move || {
            this.shared
                .unpack(index, &digest, &diff_id, &*this.progress, &this.cancel.flag)
        })
        .await
    }

    /// Fetches a layer into the store. Hashing and writing are done by a thread of their own.
    async fn fetch_blob(
        self: &Arc<Self>,
        index: usize,
        blob: &Descriptor,
        session: &Session,
    ) -> Result<(), ImageError> {
        let (sender, mut receiver) = mpsc::channel::<Chunk>(CHUNKS_IN_FLIGHT);
        let (this, descriptor) = (Arc::clone(self), blob.clone());
        let write = self.blocking(move || {
            let what = format!("layer {} of {}", descriptor.digest, this.reference);
            let mut writer = this.shared.blobs.writer(what, Some(descriptor.size))?;
            while let Some(chunk) = receiver.blocking_recv() {
                writer.write(&chunk)?;
                this.progress.event(Event::Fetched {
                    layer: index,
                    bytes: writer.length(),
                });
            }
            if this.cancel.flag.load(Ordering::Relaxed) {
                return Err(this.cancelled());
            }
            writer.commit(Some(&descriptor.digest))
        });
        let fetch = async move {
            let result = tokio::select! {
                result = session.blob(blob, &sender) => result
                    .map_err(|error| self.blob_error(error, &blob.digest, session)),
                () = self.cancel.cancelled() => Err(self.cancelled()),
            };
            drop(sender);
            result
        };
        let (fetched, written) = tokio::join!(fetch, write);
        // What arrived is short if fetching failed, so that this is the cause.
        fetched?;
        written?;
        Ok(())
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, ImageError> + Send + 'static,
    ) -> Result<T, ImageError> {
        blocking(&self.reference, work).await
    }

    fn cancelled(&self) -> ImageError {
        ImageError::Cancelled(self.reference.clone())
    }

    fn registry_error(&self, error: RegistryError, logged_in: bool) -> ImageError {
        let reference = self.reference.clone();
        match error {
            RegistryError::NotFound(_) => ImageError::NotFound(reference),
            RegistryError::Unauthorized(registry) => ImageError::Unauthorized {
                reference,
                registry,
                logged_in,
            },
            source => ImageError::Registry {
                what: reference,
                source,
            },
        }
    }

    fn blob_error(&self, error: RegistryError, digest: &Digest, session: &Session) -> ImageError {
        match error {
            // The image is there: it is the registry that is damaged.
            source @ RegistryError::NotFound(_) => ImageError::Registry {
                what: format!("blob {digest} of {}", self.reference),
                source,
            },
            other => self.registry_error(other, session.logged_in()),
        }
    }
}

/// Runs `work` on a thread that may block.
async fn blocking<T: Send + 'static>(
    reference: &str,
    work: impl FnOnce() -> Result<T, ImageError> + Send + 'static,
) -> Result<T, ImageError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(join_error(error, reference)))
}

/// A task that did not come to its end.
fn join_error(error: JoinError, reference: &str) -> ImageError {
    match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        // The runtime is shutting down.
        Err(_) => ImageError::Cancelled(reference.to_owned()),
    }
}
