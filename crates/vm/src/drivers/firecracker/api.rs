//! Requests to Firecracker: HTTP/1.1 over a Unix socket.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::confine::Identity;
use crate::deadline;
use crate::error::VmError;
use crate::http;
use crate::process;
use crate::socket::Awaited;

/// The directory in which it makes its socket.
fn dir(run_dir: &Path) -> PathBuf {
    run_dir.join("api")
}

/// What the request is called that makes a machine of a snapshot.
const LOAD: &str = "LoadSnapshot";

/// Where it listens in that directory.
pub(super) fn socket(dir: impl AsRef<Path>) -> PathBuf {
    dir.as_ref().join("api.sock")
}

/// Makes the directory, for the VMM alone.
pub(super) fn make_dir(run_dir: &Path, identity: Identity) -> Result<OwnedFd, VmError> {
    use std::os::unix::fs::DirBuilderExt;
    let dir = dir(run_dir);
    let made = std::fs::DirBuilder::new().mode(0o700).create(&dir);
    made.map_err(VmError::host(format!("create {}", dir.display())))?;
    identity.give(&dir)?;
    process::open_place(&dir)
}

/// The socket of a VMM that is about to start.
pub(super) fn awaited(run_dir: &Path) -> Result<Awaited, VmError> {
    let dir = dir(run_dir);
    let awaited = Awaited::watch(socket(&dir));
    awaited.map_err(VmError::host(format!("watch {}", dir.display())))
}

/// A state that a running machine is to be in.
#[derive(Debug, Clone, Copy)]
pub(super) enum State {
    Paused,
    Resumed,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            Self::Paused => "Paused",
            Self::Resumed => "Resumed",
        }
    }
}

/// A snapshot, and what takes the place of what its machine had.
#[derive(Debug)]
pub(super) struct Loaded {
    /// The file with the state of its devices and virtual CPUs.
    pub(super) state: String,
    /// The file with the guest's memory. The machine uses it as long as it runs.
    pub(super) memory: String,
    /// Names of interfaces, and of their taps.
    pub(super) taps: Vec<(String, String)>,
    /// The hybrid vsock socket.
    pub(super) vsock: String,
}

/// How much of a machine's memory its snapshot's file has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    /// All of it.
    Whole,
    /// What is in the host's memory, and holes for the rest. That is as good for a machine whose memory was empty when
    /// it booted and of which nothing is in swap space (Firecracker's docs/snapshotting/snapshot-support.md).
    Touched,
}

impl Extent {
    fn name(self) -> &'static str {
        match self {
            Self::Whole => "Full",
            Self::Touched => "Diff",
        }
    }
}

/// The API of a running VMM.
#[derive(Debug)]
pub(super) struct Api {
    socket: PathBuf,
}

impl Api {
    pub(super) fn new(run_dir: &Path) -> Self {
        Self {
            socket: socket(dir(run_dir)),
        }
    }

    /// Brings the machine into a state.
    pub(super) async fn set_state(&self, state: State) -> Result<(), VmError> {
        let command = state.name();
        let body = json!({"state": command});
        let most = deadline::PROMPTLY;
        self.send(Method::PATCH, "/vm", &body, command, most).await
    }

    /// Writes a snapshot of the paused machine into these files.
    pub(super) async fn snapshot(
        &self,
        state: &str,
        memory: &str,
        extent: Extent,
    ) -> Result<(), VmError> {
        let body = json!({
            "snapshot_type": extent.name(),
            "snapshot_path": state,
            "mem_file_path": memory,
        });
        let (path, command) = ("/snapshot/create", "CreateSnapshot");
        self.send(Method::PUT, path, &body, command, deadline::MEMORY)
            .await
    }

    /// Waits until a VMM that has just started takes requests, the first of which will be [`load`](Self::load).
    pub(super) async fn listening(awaited: &Awaited) -> Result<(), VmError> {
        let listening = async {
            let listening = awaited.listening().await;
            listening.map_err(|source| VmError::Disconnected {
                command: LOAD,
                source,
            })
        };
        deadline::in_time(deadline::PROMPTLY, LOAD, listening).await
    }

    /// Makes a machine of a snapshot, which runs then.
    pub(super) async fn load(&self, snapshot: &Loaded) -> Result<(), VmError> {
        let taps = snapshot
            .taps
            .iter()
            .map(|(interface, tap)| json!({"iface_id": interface, "host_dev_name": tap}));
        let body = json!({
            "snapshot_path": snapshot.state,
            "mem_backend": {"backend_type": "File", "backend_path": snapshot.memory},
            "network_overrides": taps.collect::<Vec<_>>(),
            "vsock_override": {"uds_path": snapshot.vsock},
            "resume_vm": true,
        });
        self.send(Method::PUT, "/snapshot/load", &body, LOAD, deadline::MEMORY)
            .await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: &Value,
        command: &'static str,
        most: Duration,
    ) -> Result<(), VmError> {
        let sent = http::send(&self.socket, method, path, Some(body), command, most);
        sent.await?.done(command, why)
    }
}

/// What it says about a refusal.
fn why(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Fault {
        fault_message: String,
    }
    let fault: Fault = serde_json::from_slice(body).ok()?;
    Some(fault.fault_message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::Schema;
    use crate::stand_in::api::{Reply, serve};

    #[tokio::test]
    async fn a_snapshot_s_taps_are_named_as_the_published_schema_says() {
        let dir = tempfile::tempdir().unwrap();
        let api = Api::new(dir.path());
        std::fs::create_dir(super::dir(dir.path())).unwrap();
        let schema = Schema::of("firecracker.yaml");
        let check = move |request: &_| {
            if let Some(schema) = &schema {
                schema.check_request("", request);
            }
        };
        let served = serve(&api.socket, check, [Reply::of(204, "")]);
        let loaded = Loaded {
            state: "/proc/self/fd/9".to_owned(),
            memory: "/proc/self/fd/10".to_owned(),
            taps: vec![("net0".to_owned(), "hull0".to_owned())],
            vsock: "/proc/self/fd/11/guest.sock".to_owned(),
        };
        api.load(&loaded).await.unwrap();
        let asked = served.await.unwrap();
        let taps = &asked[0].body.as_ref().unwrap()["network_overrides"];
        assert_eq!(
            *taps,
            json!([{"iface_id": "net0", "host_dev_name": "hull0"}])
        );
    }
}
