//! From the CRI's description of a pod to the pod's configuration.

use std::path::Path;

use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::sandbox_api::CreateSandboxRequest;
use hull_sandbox::{Limits, PodConfig, SandboxError};

use super::{PendingPod, files};
use crate::client::report::chain;
use crate::pod_request::{HOST_IPC, HOST_NETWORK, HOST_PID, PodRequest, settings};
use crate::rpc_status::{invalid, rpc_error};

mod generated {
    #![allow(warnings, clippy::all, clippy::pedantic, clippy::restriction)]

    include!(concat!(env!("OUT_DIR"), "/mod.rs"));
}

use generated::cri::NamespaceMode;
pub(super) use generated::cri::{DnsConfig, PodSandboxConfig};

/// What the options of `CreateSandbox` are.
const MESSAGE: &str = "runtime.v1.PodSandboxConfig";

/// Decides what the pod is given, and writes the files that its containers find.
pub(super) fn configure(
    pending: &PendingPod,
    state_dir: &Path,
    request: &CreateSandboxRequest,
) -> ttrpc::Result<PodConfig> {
    let options = request.options.get_or_default();
    let kind = options.type_url.rsplit('/').next().unwrap_or_default();
    if kind != MESSAGE {
        return Err(invalid(&format!(
            "a sandbox is described by a {MESSAGE}, not by {kind:?}"
        )));
    }
    let sandbox = PodSandboxConfig::parse_from_bytes(&options.value)
        .map_err(|error| invalid(&format!("the description of the sandbox: {error}")))?;
    let annotations = sandbox.annotations.iter().chain(&request.annotations);
    let settings = settings(pending.config_file.as_deref(), annotations)
        .map_err(|error| invalid(&chain(&error)))?;
    let decided = pod_request(pending, &sandbox, &request.netns_path)
        .and_then(|pod| pod.config(&settings))
        .map_err(|error| rpc_error(&error))?;
    files::write(state_dir, &decided.hostname, sandbox.dns_config.as_ref())
        .map_err(|error| rpc_error(&error))?;
    Ok(decided)
}

fn pod_request(
    pending: &PendingPod,
    sandbox: &PodSandboxConfig,
    network_namespace: &str,
) -> Result<PodRequest, SandboxError> {
    let linux = sandbox.linux.get_or_default();
    let context = linux.security_context.get_or_default();
    let namespaces = context.namespace_options.get_or_default();
    for (mode, why) in [
        (namespaces.network, HOST_NETWORK),
        (namespaces.pid, HOST_PID),
        (namespaces.ipc, HOST_IPC),
    ] {
        if mode == NamespaceMode::NODE.into() {
            return Err(SandboxError::Unsupported(why));
        }
    }
    if network_namespace.is_empty() {
        return Err(SandboxError::Unsupported(HOST_NETWORK));
    }
    let resources = linux.resources.get_or_default();
    Ok(PodRequest {
        id: pending.id.clone(),
        namespace: pending.namespace.clone(),
        hostname: sandbox.hostname.clone(),
        limits: Limits::new(
            Some(resources.memory_limit_in_bytes),
            Some(resources.cpu_quota),
            Some(resources.cpu_period),
        ),
        network_namespace: Some(network_namespace.into()),
        cgroup: cgroup(&linux.cgroup_parent, &pending.id),
        // The kubelet limits the group that it is in.
        host_limits: None,
        sysctls: linux.sysctls.clone().into_iter().collect(),
        // It is made when the sandbox is started, and not by way of the Task API.
        placeholder: false,
    })
}

/// The group of a sandbox below its pod's, as containerd names it for its own sandboxer.
fn cgroup(parent: &str, id: &str) -> Option<String> {
    let path = match parent.rsplit('/').next().unwrap_or_default() {
        "" => return None,
        slice if slice.ends_with(".slice") => format!("{slice}:cri-containerd:{id}"),
        _ => format!("{}/{id}", parent.trim_end_matches('/')),
    };
    Some(path)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use containerd_shim_protos::protobuf::MessageField;

    use super::*;
    use generated::cri::{
        LinuxContainerResources, LinuxPodSandboxConfig, LinuxSandboxSecurityContext,
        NamespaceOption,
    };

    fn pending() -> PendingPod {
        PendingPod {
            id: "abc".to_owned(),
            namespace: "k8s.io".to_owned(),
            bundle: "/bundle".into(),
            config_file: None,
        }
    }

    #[test]
    fn a_pod_is_as_large_as_its_containers_and_in_its_control_group() {
        let sandbox = PodSandboxConfig {
            hostname: "web".to_owned(),
            linux: MessageField::some(LinuxPodSandboxConfig {
                cgroup_parent: "/kubepods/pod1".to_owned(),
                sysctls: HashMap::from([("net.core.somaxconn".to_owned(), "64".to_owned())]),
                resources: MessageField::some(LinuxContainerResources {
                    cpu_period: 100_000,
                    cpu_quota: 150_000,
                    memory_limit_in_bytes: 256 << 20,
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        let request = pod_request(&pending(), &sandbox, "/run/netns/x").unwrap();
        assert_eq!(
            (request.limits.vcpus(), request.limits.memory_mib()),
            (Some(2), Some(256))
        );
        assert_eq!(request.cgroup.as_deref(), Some("/kubepods/pod1/abc"));
        assert_eq!(request.hostname, "web");
        assert_eq!(request.sysctls["net.core.somaxconn"], "64");
    }

    #[test]
    fn systemds_slices_are_named_its_way() {
        let slice = "/kubepods.slice/kubepods-pod1.slice";
        assert_eq!(
            cgroup(slice, "abc").as_deref(),
            Some("kubepods-pod1.slice:cri-containerd:abc")
        );
        assert_eq!(cgroup("", "abc"), None);
    }

    #[test]
    fn namespaces_of_the_host_are_refused() {
        let none = PodSandboxConfig::default();
        let refused = pod_request(&pending(), &none, "").unwrap_err();
        assert!(matches!(refused, SandboxError::Unsupported(HOST_NETWORK)));
        let node = NamespaceMode::NODE.into();
        let options = [
            NamespaceOption {
                pid: node,
                ..Default::default()
            },
            NamespaceOption {
                ipc: node,
                ..Default::default()
            },
        ];
        for (options, why) in options.into_iter().zip([HOST_PID, HOST_IPC]) {
            let context = LinuxSandboxSecurityContext {
                namespace_options: MessageField::some(options),
                ..Default::default()
            };
            let sandbox = PodSandboxConfig {
                linux: MessageField::some(LinuxPodSandboxConfig {
                    security_context: MessageField::some(context),
                    ..Default::default()
                }),
                ..Default::default()
            };
            let refused = pod_request(&pending(), &sandbox, "/run/netns/x").unwrap_err();
            assert!(matches!(refused, SandboxError::Unsupported(said) if said == why));
        }
    }
}
