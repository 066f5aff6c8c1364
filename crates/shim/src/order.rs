//! What the state directory of a new pod tells its pod process.

use std::io;
use std::path::{Path, PathBuf};

use hull_sandbox::{PodConfig, SandboxError, json_file};
use serde::{Deserialize, Serialize};

/// What the pod shall be.
#[derive(Debug)]
pub(crate) enum Order {
    /// All is known.
    Given(Box<PodConfig>),
    /// containerd will say.
    Pending(PendingPod),
}

/// What is known of a pod before containerd's `CreateSandbox`. It is in `pending.json`, and `pod.json` comes later.
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

const PENDING: &str = "pending.json";

impl Order {
    pub(crate) fn read(state_dir: &Path) -> Result<Self, SandboxError> {
        match json_file::read(state_dir.join(PENDING)) {
            Ok(pending) => Ok(Self::Pending(pending)),
            Err(SandboxError::Host { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Ok(Self::Given(Box::new(PodConfig::read(state_dir)?)))
            }
            Err(error) => Err(error),
        }
    }

    pub(crate) fn write(&self, state_dir: &Path) -> Result<(), SandboxError> {
        match self {
            Self::Given(config) => config.write(state_dir),
            Self::Pending(pending) => json_file::write(state_dir.join(PENDING), pending),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_that_is_not_described_yet_is_found_as_such() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Order::read(dir.path()).is_err());
        let pending = PendingPod {
            id: "abc".to_owned(),
            namespace: "k8s.io".to_owned(),
            bundle: "/bundle".into(),
            config_file: None,
        };
        Order::Pending(pending.clone()).write(dir.path()).unwrap();
        let read = Order::read(dir.path()).unwrap();
        assert!(matches!(read, Order::Pending(found) if found == pending));
    }
}
