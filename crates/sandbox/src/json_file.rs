//! Files of ours and of engines that hold one JSON value.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::SandboxError;

/// What a file holds.
///
/// # Errors
/// When it cannot be read, or [`SandboxError::Malformed`].
pub fn read<T: DeserializeOwned>(path: PathBuf) -> Result<T, SandboxError> {
    let bytes = bytes(&path)?;
    serde_json::from_slice(&bytes).map_err(|source| SandboxError::Malformed { path, source })
}

/// What a file holds, as it is.
///
/// # Errors
/// When it cannot be read.
pub fn bytes(path: &Path) -> Result<Vec<u8>, SandboxError> {
    std::fs::read(path).map_err(SandboxError::host(format!("read {}", path.display())))
}

/// Writes a file, for people to read too.
///
/// # Errors
/// When it cannot be written.
pub fn write<T: Serialize>(path: PathBuf, value: &T) -> Result<(), SandboxError> {
    let bytes = serde_json::to_vec_pretty(value).expect("plain data encodes");
    std::fs::write(&path, bytes).map_err(SandboxError::host(format!("write {}", path.display())))
}
