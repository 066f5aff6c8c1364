//! A pod process that waits to be told what its pod shall be.

use std::io;
use std::path::{Path, PathBuf};

use hull_sandbox::SandboxError;
use serde::{Deserialize, Serialize};

/// What is known of the pod before containerd's `CreateSandbox`. Written into its state directory by
/// whoever starts the pod process, in the place of `pod.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PendingPod {
    /// The sandbox's id.
    pub id: String,
    /// containerd's namespace.
    pub namespace: String,
    /// The sandbox's directory.
    pub bundle: PathBuf,
    /// The configuration file that containerd's options name.
    pub config_file: Option<PathBuf>,
}

impl PendingPod {
    const FILE: &str = "pending.json";

    /// The one in `state_dir`, if the pod there is one.
    ///
    /// # Errors
    /// When it cannot be read or is malformed.
    pub fn find(state_dir: &Path) -> Result<Option<Self>, SandboxError> {
        let path = state_dir.join(Self::FILE);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(SandboxError::host(format!("read {}", path.display()))(
                    error,
                ));
            }
        };
        serde_json::from_slice(&bytes).map_err(|source| SandboxError::Malformed { path, source })
    }

    /// Writes it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, state_dir: &Path) -> Result<(), SandboxError> {
        let path = state_dir.join(Self::FILE);
        let bytes = serde_json::to_vec_pretty(self).expect("plain data encodes");
        std::fs::write(&path, bytes)
            .map_err(SandboxError::host(format!("write {}", path.display())))
    }
}
