//! What a container is to its pod, as the engine's annotations say.

use std::collections::HashMap;

use oci_spec::runtime::Spec;

/// A container's part in a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// It is a pod by itself: `ctr run`, Docker, nerdctl.
    Single,
    /// It stands for a pod, which has further containers.
    Sandbox,
    /// It is one of the pod with this id.
    Member(String),
}

/// The annotations of containerd's CRI plugin and of CRI-O: kind of container, id of its sandbox.
const ANNOTATIONS: [(&str, &str); 2] = [
    (
        "io.kubernetes.cri.container-type",
        "io.kubernetes.cri.sandbox-id",
    ),
    (
        "io.kubernetes.cri-o.ContainerType",
        "io.kubernetes.cri-o.SandboxID",
    ),
];

impl Role {
    /// As its specification says.
    #[must_use]
    pub fn of(spec: &Spec) -> Self {
        let none = HashMap::new();
        let annotations = spec.annotations().as_ref().unwrap_or(&none);
        for (kind, sandbox) in ANNOTATIONS {
            match annotations.get(kind).map(String::as_str) {
                Some("sandbox") => return Self::Sandbox,
                Some("container") => {
                    if let Some(sandbox) = annotations.get(sandbox) {
                        return Self::Member(sandbox.clone());
                    }
                }
                Some(_) | None => {}
            }
        }
        Self::Single
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn role(annotations: serde_json::Value) -> Role {
        let spec = json!({"ociVersion": "1.0.2", "annotations": annotations});
        Role::of(&serde_json::from_value(spec).unwrap())
    }

    #[test]
    fn engines_say_what_a_container_is() {
        assert_eq!(role(json!({})), Role::Single);
        assert_eq!(
            role(
                json!({"io.kubernetes.cri.container-type": "sandbox", "io.kubernetes.cri.sandbox-id": "s"})
            ),
            Role::Sandbox
        );
        assert_eq!(
            role(
                json!({"io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-id": "s"})
            ),
            Role::Member("s".to_owned())
        );
        assert_eq!(
            role(
                json!({"io.kubernetes.cri-o.ContainerType": "container", "io.kubernetes.cri-o.SandboxID": "t"})
            ),
            Role::Member("t".to_owned())
        );
    }
}
