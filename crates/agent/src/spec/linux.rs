//! `linux` of a specification.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Resources;

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Linux {
    #[serde(default)]
    pub(crate) namespaces: Vec<Namespace>,
    #[serde(default)]
    pub(crate) uid_mappings: Vec<IdMapping>,
    #[serde(default)]
    pub(crate) gid_mappings: Vec<IdMapping>,
    #[serde(default)]
    pub(crate) time_offsets: BTreeMap<String, TimeOffset>,
    #[serde(default)]
    pub(crate) devices: Vec<Device>,
    #[serde(default)]
    pub(crate) resources: Resources,
    #[serde(default)]
    pub(crate) sysctl: BTreeMap<String, String>,
    pub(crate) seccomp: Option<serde_json::Value>,
    #[serde(default)]
    pub(crate) rootfs_propagation: String,
    #[serde(default)]
    pub(crate) masked_paths: Vec<PathBuf>,
    #[serde(default)]
    pub(crate) readonly_paths: Vec<PathBuf>,
    pub(crate) mount_label: Option<String>,
    pub(crate) personality: Option<Personality>,
    pub(crate) intel_rdt: Option<serde_json::Value>,
    pub(crate) net_devices: Option<BTreeMap<String, serde_json::Value>>,
    pub(crate) memory_policy: Option<serde_json::Value>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum NamespaceKind {
    Mount,
    Pid,
    Network,
    Ipc,
    Uts,
    User,
    Cgroup,
    Time,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Namespace {
    #[serde(rename = "type")]
    pub(crate) kind: NamespaceKind,
    /// A namespace to join; a new one without.
    pub(crate) path: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct IdMapping {
    #[serde(rename = "containerID")]
    pub(crate) container_id: u32,
    #[serde(rename = "hostID")]
    pub(crate) host_id: u32,
    pub(crate) size: u32,
}

#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct TimeOffset {
    #[serde(default)]
    pub(crate) secs: i64,
    #[serde(default)]
    pub(crate) nanosecs: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum DeviceKind {
    #[serde(rename = "c", alias = "u")]
    Character,
    #[serde(rename = "b")]
    Block,
    #[serde(rename = "p")]
    Fifo,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Device {
    pub(crate) path: PathBuf,
    #[serde(rename = "type")]
    pub(crate) kind: DeviceKind,
    #[serde(default)]
    pub(crate) major: u32,
    #[serde(default)]
    pub(crate) minor: u32,
    pub(crate) file_mode: Option<u32>,
    #[serde(default)]
    pub(crate) uid: u32,
    #[serde(default)]
    pub(crate) gid: u32,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Personality {
    /// "LINUX" or "LINUX32".
    pub(crate) domain: String,
    #[serde(default)]
    pub(crate) flags: Vec<String>,
}

impl Linux {
    /// The namespace of this kind, where the container has its own or joins one.
    pub(crate) fn namespace(&self, kind: NamespaceKind) -> Option<&Namespace> {
        self.namespaces.iter().find(|ns| ns.kind == kind)
    }

    /// Whether the container gets a new namespace of this kind.
    pub(crate) fn creates(&self, kind: NamespaceKind) -> bool {
        self.namespace(kind).is_some_and(|ns| ns.path.is_none())
    }
}
