//! Which pod a container is in.

use std::path::{Path, PathBuf};

use hull_shim::engine::{self, Role};
use oci_spec::runtime::Spec;

use crate::error::RuntimeError;
use crate::store::{Record, Store};

/// The pod of a container to be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// One that runs, with this state directory.
    Joins(PathBuf),
    /// One of its own, or the first of one.
    New(PathBuf, Role),
}

/// The network namespace that the engine has made for a container.
pub(crate) fn network(spec: &Spec) -> Option<PathBuf> {
    engine::network_namespace(spec)?.path().clone()
}

impl Place {
    /// The pod's state directory.
    pub(crate) fn dir(&self) -> &Path {
        match self {
            Self::Joins(dir) | Self::New(dir, _) => dir,
        }
    }

    /// Where a container with this specification belongs. CRI-O's annotations say so; Podman and Docker let it
    /// join the network of another container, and a virtual machine has one network.
    ///
    /// # Errors
    /// When the known containers cannot be read.
    pub(crate) fn find(
        store: &Store,
        state: &Path,
        spec: &Spec,
        id: &str,
    ) -> Result<Self, RuntimeError> {
        let own = |pod| state_dir(state, store.root(), pod);
        let role = Role::of(spec);
        let known = store.all()?;
        let pod = match &role {
            Role::Member(sandbox) => own(sandbox),
            Role::Sandbox => own(id),
            Role::Single => match network(spec).and_then(|network| sharing(&known, &network)) {
                Some(other) => other.pod.clone(),
                None => own(id),
            },
        };
        match known.iter().any(|record| record.pod == pod) {
            true => Ok(Self::Joins(pod)),
            false => Ok(Self::New(pod, role)),
        }
    }
}

/// A container in the same network.
fn sharing<'a>(known: &'a [Record], network: &Path) -> Option<&'a Record> {
    let wanted = engine::namespace_identity(network).ok()?;
    known.iter().find(|record| {
        let namespace = format!("/proc/{}/ns/net", record.monitor.pid);
        record.monitor.is_alive()
            && engine::namespace_identity(Path::new(&namespace)).ok() == Some(wanted)
    })
}

/// The state directory of a pod. Ids are unique below one root, and too long for the path of a socket.
fn state_dir(state: &Path, root: &Path, pod: &str) -> PathBuf {
    let parts = [root.as_os_str().as_encoded_bytes(), pod.as_bytes()];
    state.join(engine::state_dir_name("oci", &parts))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn place(store: &Store, linux: serde_json::Value, annotations: serde_json::Value) -> Place {
        let spec = json!({"ociVersion": "1.0.2", "linux": linux, "annotations": annotations});
        let spec = serde_json::from_value(spec).unwrap();
        Place::find(store, Path::new("/s"), &spec, "id").unwrap()
    }

    #[test]
    fn a_container_joins_the_pod_of_the_network_that_it_joins() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path().to_owned());
        let own = json!({"namespaces": [{"type": "network", "path": "/proc/self/ns/net"}]});
        assert!(matches!(
            place(&store, own.clone(), json!({})),
            Place::New(_, Role::Single)
        ));
        let record = json!({
            "id": "first", "pod": "/s/pod", "bundle": "/b", "rootfs": "/r", "created": "",
            "monitor": hull_vm::process::ProcessRecord::of(std::process::id().cast_signed()).unwrap(),
            "oci_version": "1.0.2", "annotations": {}, "process": null, "cgroup": null, "execs": [], "deleting": false,
        });
        let lock = store.lock().unwrap();
        store
            .add(&lock, &serde_json::from_value(record).unwrap())
            .unwrap();
        assert_eq!(place(&store, own, json!({})), Place::Joins("/s/pod".into()));
        let new = json!({"namespaces": [{"type": "network"}]});
        assert!(matches!(place(&store, new, json!({})), Place::New(..)));
    }

    #[test]
    fn containers_of_a_sandbox_have_one_state_directory() {
        let store = Store::new("/nowhere".into());
        let of = |kind, sandbox| {
            let annotations = json!({
                "io.kubernetes.cri-o.ContainerType": kind,
                "io.kubernetes.cri-o.SandboxID": sandbox,
            });
            match place(&store, json!({}), annotations) {
                Place::New(dir, _) | Place::Joins(dir) => dir,
            }
        };
        assert_eq!(of("sandbox", "id"), of("container", "id"));
        assert_ne!(of("container", "id"), of("container", "other"));
    }
}
