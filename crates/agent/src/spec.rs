//! The parts of an OCI runtime specification that a guest acts on.
//!
//! Only what is honoured (or refused) is named; unknown fields are ignored, as the specification
//! asks of a runtime. `Option` and `default` follow what the specification makes optional.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::AgentError;

mod linux;
mod resources;

pub(crate) use linux::{Device, DeviceKind, IdMapping, Linux, NamespaceKind, Personality};
pub(crate) use resources::{BlockIo, Cpu, DeviceRule, Memory, Resources, ThrottleDevice};
#[cfg(test)]
pub(crate) use {
    linux::Namespace,
    resources::{Hugepage, Pids},
};

/// A container, in guest terms.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Spec {
    #[serde(default)]
    pub(crate) oci_version: String,
    pub(crate) root: Root,
    pub(crate) process: Process,
    #[serde(default)]
    pub(crate) hostname: String,
    #[serde(default)]
    pub(crate) domainname: String,
    #[serde(default)]
    pub(crate) mounts: Vec<Mount>,
    #[serde(default)]
    pub(crate) hooks: Hooks,
    #[serde(default)]
    pub(crate) annotations: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) linux: Linux,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Root {
    pub(crate) path: PathBuf,
    #[serde(default)]
    pub(crate) readonly: bool,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Process {
    #[serde(default)]
    pub(crate) terminal: bool,
    pub(crate) console_size: Option<ConsoleSize>,
    #[serde(default)]
    pub(crate) user: User,
    #[serde(default)]
    pub(crate) args: Vec<String>,
    #[serde(default)]
    pub(crate) env: Vec<String>,
    #[serde(default)]
    pub(crate) cwd: PathBuf,
    pub(crate) capabilities: Option<Capabilities>,
    #[serde(default)]
    pub(crate) rlimits: Vec<Rlimit>,
    #[serde(default)]
    pub(crate) no_new_privileges: bool,
    pub(crate) apparmor_profile: Option<String>,
    pub(crate) selinux_label: Option<String>,
    pub(crate) oom_score_adj: Option<i32>,
    pub(crate) io_priority: Option<IoPriority>,
    pub(crate) scheduler: Option<Scheduler>,
    #[serde(rename = "execCPUAffinity")]
    pub(crate) exec_cpu_affinity: Option<CpuAffinity>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct User {
    #[serde(default)]
    pub(crate) uid: u32,
    #[serde(default)]
    pub(crate) gid: u32,
    pub(crate) umask: Option<u32>,
    #[serde(default)]
    pub(crate) additional_gids: Vec<u32>,
}

/// In characters.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct ConsoleSize {
    pub(crate) height: u16,
    pub(crate) width: u16,
}

/// Capability names ("CAP_CHOWN") of each set.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Capabilities {
    #[serde(default)]
    pub(crate) bounding: Vec<String>,
    #[serde(default)]
    pub(crate) effective: Vec<String>,
    #[serde(default)]
    pub(crate) inheritable: Vec<String>,
    #[serde(default)]
    pub(crate) permitted: Vec<String>,
    #[serde(default)]
    pub(crate) ambient: Vec<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Rlimit {
    /// "RLIMIT_NOFILE" and the like.
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) soft: u64,
    pub(crate) hard: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct IoPriority {
    pub(crate) class: String,
    #[serde(default)]
    pub(crate) priority: u16,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Scheduler {
    pub(crate) policy: String,
    #[serde(default)]
    pub(crate) nice: i32,
    #[serde(default)]
    pub(crate) priority: i32,
    #[serde(default)]
    pub(crate) flags: Vec<String>,
    /// Nanoseconds, as `deadline` and `period`.
    #[serde(default)]
    pub(crate) runtime: u64,
    #[serde(default)]
    pub(crate) deadline: u64,
    #[serde(default)]
    pub(crate) period: u64,
}

/// CPU lists ("0-3,7") of an exec'd process.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct CpuAffinity {
    /// While it enters the container.
    #[serde(default)]
    pub(crate) initial: String,
    /// Once it runs.
    #[serde(rename = "final", default)]
    pub(crate) last: String,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Mount {
    pub(crate) destination: PathBuf,
    #[serde(rename = "type", default)]
    pub(crate) kind: String,
    #[serde(default)]
    pub(crate) source: String,
    #[serde(default)]
    pub(crate) options: Vec<String>,
    #[serde(default)]
    pub(crate) uid_mappings: Vec<IdMapping>,
    #[serde(default)]
    pub(crate) gid_mappings: Vec<IdMapping>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Hooks {
    #[serde(default)]
    pub(crate) prestart: Vec<Hook>,
    #[serde(default)]
    pub(crate) create_runtime: Vec<Hook>,
    #[serde(default)]
    pub(crate) create_container: Vec<Hook>,
    #[serde(default)]
    pub(crate) start_container: Vec<Hook>,
    #[serde(default)]
    pub(crate) poststart: Vec<Hook>,
    #[serde(default)]
    pub(crate) poststop: Vec<Hook>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Hook {
    pub(crate) path: PathBuf,
    #[serde(default)]
    pub(crate) args: Vec<String>,
    #[serde(default)]
    pub(crate) env: Vec<String>,
    /// Seconds.
    pub(crate) timeout: Option<u64>,
}

impl Spec {
    /// Reads a specification and checks what every use of it relies on.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, AgentError> {
        let spec: Self = from_json("spec", bytes)?;
        let invalid = |field, value: &dyn ToString| AgentError::Invalid {
            field,
            value: value.to_string(),
        };
        if !spec.oci_version.starts_with("1.") {
            return Err(invalid("spec.ociVersion", &spec.oci_version));
        }
        if !spec.root.path.is_absolute() {
            return Err(invalid("spec.root.path", &spec.root.path.display()));
        }
        check_cwd(&spec.process)?;
        let mut kinds: Vec<_> = spec.linux.namespaces.iter().map(|ns| ns.kind).collect();
        kinds.sort_unstable();
        if let Some(twice) = kinds.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(invalid(
                "spec.linux.namespaces",
                &format!("{:?} twice", twice[0]),
            ));
        }
        let creates_user = spec.linux.creates(NamespaceKind::User);
        if creates_user && spec.linux.uid_mappings.is_empty() {
            return Err(invalid("spec.linux.uidMappings", &"none"));
        }
        for hook in spec.hooks.all() {
            if !hook.path.is_absolute() {
                return Err(invalid("spec.hooks path", &hook.path.display()));
            }
        }
        Ok(spec)
    }
}

/// Relative to nothing there would be no telling where it is.
pub(crate) fn check_cwd(process: &Process) -> Result<(), AgentError> {
    if process.cwd.as_os_str().is_empty() || process.cwd.is_absolute() {
        return Ok(());
    }
    Err(AgentError::Invalid {
        field: "process.cwd",
        value: process.cwd.display().to_string(),
    })
}

impl Hooks {
    fn all(&self) -> impl Iterator<Item = &Hook> {
        [
            &self.prestart,
            &self.create_runtime,
            &self.create_container,
            &self.start_container,
            &self.poststart,
            &self.poststop,
        ]
        .into_iter()
        .flatten()
    }
}

/// Reads JSON in which `null` means the same as nothing, as encoders of other languages have it.
pub(crate) fn from_json<T: DeserializeOwned>(
    field: &'static str,
    bytes: &[u8],
) -> Result<T, AgentError> {
    let failed = |source| AgentError::Json { field, source };
    let mut value: Value = serde_json::from_slice(bytes).map_err(failed)?;
    drop_nulls(&mut value);
    serde_json::from_value(value).map_err(failed)
}

fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_specification_is_enough() {
        let spec = Spec::parse(
            br#"{"ociVersion":"1.0.2","root":{"path":"/r"},"process":{"args":["sh"],"env":null},
                "linux":{"namespaces":[{"type":"pid"},{"type":"mount"}],"resources":null}}"#,
        )
        .unwrap();
        assert!(spec.linux.creates(NamespaceKind::Pid));
        assert!(!spec.linux.creates(NamespaceKind::Network));
        assert!(spec.process.env.is_empty());
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            r#"{"ociVersion":"2.0","root":{"path":"/r"},"process":{}}"#,
            r#"{"ociVersion":"1.0","root":{"path":"r"},"process":{}}"#,
            r#"{"ociVersion":"1.0","root":{"path":"/r"}}"#,
            r#"{"ociVersion":"1.0","root":{"path":"/r"},"process":{},
                "linux":{"namespaces":[{"type":"pid"},{"type":"pid"}]}}"#,
            r#"{"ociVersion":"1.0","root":{"path":"/r"},"process":{},
                "linux":{"namespaces":[{"type":"user"}]}}"#,
            r#"{"ociVersion":"1.0","root":{"path":"/r"},"process":{},
                "hooks":{"poststop":[{"path":"x"}]}}"#,
            r#"{"ociVersion":"1.0","root":{"path":"/r"},"process":{"cwd":"x"}}"#,
            "not JSON",
        ] {
            assert!(Spec::parse(text.as_bytes()).is_err(), "{text}");
        }
    }
}
