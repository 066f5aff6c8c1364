//! What containerd runs `containerd-shim-hull-v2` for: to start the pod process of a pod, to clean up
//! after one, and to ask what this runtime is.
//!
//! The protocol is containerd's [shim v2](https://github.com/containerd/containerd/blob/main/core/runtime/v2/README.md):
//! flags with a single dash, the bundle as working directory, an answer on the standard output.

mod command_line;
mod delete;
mod info;
mod options;
mod pod;
mod role;
mod start;

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use hull_sandbox::SandboxError;
use sha2::{Digest, Sha256};

use crate::client::ClientError;

pub use command_line::{Action, Invocation, UsageError};
pub use delete::{CLEAN_UP, clean_up, delete};
pub use info::info;
pub use pod::{cgroup, namespace_identity, network_namespace, request};
pub use role::Role;
pub use start::start;

/// Why a call of containerd failed.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A file or process operation, or the pod's specification or files.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The pod process.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The operator's configuration, or a pod's annotations.
    #[error(transparent)]
    Config(#[from] hull_config::ConfigError),
    /// A container was to join a pod that does not run.
    #[error("container {id} belongs to the pod {pod}, which does not run")]
    NoPod {
        /// The container.
        id: String,
        /// The pod's sandbox container.
        pod: String,
    },
    /// The clean-up failed, and said why.
    #[error("cannot clean up {}", .0.display())]
    CleanUp(PathBuf),
    /// The pod runs already.
    #[error("the pod {0} runs already")]
    Runs(String),
    /// What cannot be given to a virtual machine.
    #[error("not supported: {0}")]
    Unsupported(&'static str),
}

fn host(action: impl Into<String>) -> impl FnOnce(io::Error) -> EngineError {
    let failed = SandboxError::host(action);
    move |source| failed(source).into()
}

/// Says something on the standard output, which containerd reads.
fn answer(bytes: &[u8]) -> Result<(), EngineError> {
    let mut stdout = io::stdout();
    stdout
        .write_all(bytes)
        .and_then(|()| stdout.flush())
        .map_err(host("answer containerd"))
}

/// Where pods' state directories are.
#[must_use]
pub fn state_root() -> PathBuf {
    match std::env::var_os("HULL_ROOT") {
        Some(root) => Path::new(&root).join("run"),
        None => PathBuf::from("/run/hull"),
    }
}

impl Invocation {
    /// The state directory of the pod `pod`. Ids are unique in a namespace of one containerd, and too
    /// long for the path of a socket.
    fn state_dir(&self, pod: &str) -> PathBuf {
        let parts = [&self.address, &self.namespace, pod].map(str::as_bytes);
        state_root().join(state_dir_name("shim", &parts))
    }
}

/// The name of a pod's state directory: short, and the same for the same parts.
#[must_use]
pub fn state_dir_name(kind: &str, parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
        hash.update([0]);
    }
    let hash = hash.finalize();
    let digits = hash[..8].iter().map(|byte| format!("{byte:02x}"));
    format!("{kind}-{}", digits.collect::<String>())
}
