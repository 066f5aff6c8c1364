//! What a pull or load tells while it runs.

use crate::digest::Digest;
use crate::layer::Note;

/// A layer that will be fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerSize {
    /// The compressed layer.
    pub digest: Digest,
    /// Its size, bytes.
    pub bytes: u64,
    /// It is in the store already: nothing more will be told of it.
    pub present: bool,
}

/// Something that happened. Layers are counted from 0, lowest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event<'a> {
    /// Another process is fetching layers that are needed too; waiting for it.
    Waiting,
    /// What will be fetched.
    Layers(&'a [LayerSize]),
    /// So much of a layer has arrived.
    Fetched {
        /// Which layer.
        layer: usize,
        /// Bytes in all so far.
        bytes: u64,
    },
    /// So much of a layer is unpacked.
    Unpacking {
        /// Which layer.
        layer: usize,
        /// Compressed bytes in all so far.
        bytes: u64,
    },
    /// A layer is done.
    Unpacked {
        /// Which layer.
        layer: usize,
    },
    /// Something in a layer could not be kept.
    Note {
        /// Which layer.
        layer: usize,
        /// What.
        note: &'a Note,
    },
}

/// Watches a pull or load. Called from several threads.
pub trait Progress: Send + Sync {
    /// Something happened.
    fn event(&self, event: Event<'_>);
}

/// Watches nothing.
#[derive(Debug, Clone, Copy)]
pub struct Silent;

impl Progress for Silent {
    fn event(&self, _: Event<'_>) {}
}
