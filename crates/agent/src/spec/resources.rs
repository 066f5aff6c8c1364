//! `linux.resources` of a specification.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Resources {
    #[serde(default)]
    pub(crate) devices: Vec<DeviceRule>,
    #[serde(default)]
    pub(crate) memory: Memory,
    #[serde(default)]
    pub(crate) cpu: Cpu,
    #[serde(default)]
    pub(crate) pids: Pids,
    #[serde(rename = "blockIO", default)]
    pub(crate) block_io: BlockIo,
    #[serde(default)]
    pub(crate) hugepage_limits: Vec<Hugepage>,
    #[serde(default)]
    pub(crate) rdma: BTreeMap<String, Rdma>,
    /// cgroup v2 files and what to write to them, last.
    #[serde(default)]
    pub(crate) unified: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DeviceRule {
    pub(crate) allow: bool,
    /// "c", "b" or "a" (all, also when empty).
    #[serde(rename = "type", default)]
    pub(crate) kind: String,
    /// Every number when missing or negative.
    pub(crate) major: Option<i64>,
    pub(crate) minor: Option<i64>,
    /// Of "r", "w" and "m".
    #[serde(default)]
    pub(crate) access: String,
}

/// Bytes; -1 is unlimited.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Memory {
    pub(crate) limit: Option<i64>,
    pub(crate) reservation: Option<i64>,
    /// Memory and swap together.
    pub(crate) swap: Option<i64>,
    #[serde(default)]
    pub(crate) check_before_update: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Cpu {
    pub(crate) shares: Option<u64>,
    /// Microseconds per period; not positive is unlimited.
    pub(crate) quota: Option<i64>,
    pub(crate) burst: Option<u64>,
    pub(crate) period: Option<u64>,
    #[serde(default)]
    pub(crate) cpus: String,
    #[serde(default)]
    pub(crate) mems: String,
    pub(crate) idle: Option<i64>,
    pub(crate) realtime_runtime: Option<i64>,
    pub(crate) realtime_period: Option<u64>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pids {
    /// Not positive is unlimited.
    pub(crate) limit: Option<i64>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct BlockIo {
    pub(crate) weight: Option<u16>,
    #[serde(default)]
    pub(crate) weight_device: Vec<WeightDevice>,
    #[serde(default)]
    pub(crate) throttle_read_bps_device: Vec<ThrottleDevice>,
    #[serde(default)]
    pub(crate) throttle_write_bps_device: Vec<ThrottleDevice>,
    #[serde(rename = "throttleReadIOPSDevice", default)]
    pub(crate) throttle_read_iops_device: Vec<ThrottleDevice>,
    #[serde(rename = "throttleWriteIOPSDevice", default)]
    pub(crate) throttle_write_iops_device: Vec<ThrottleDevice>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WeightDevice {
    pub(crate) major: i64,
    pub(crate) minor: i64,
    pub(crate) weight: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ThrottleDevice {
    pub(crate) major: i64,
    pub(crate) minor: i64,
    pub(crate) rate: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Hugepage {
    /// "2MB" and the like.
    pub(crate) page_size: String,
    /// Bytes.
    pub(crate) limit: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Rdma {
    pub(crate) hca_handles: Option<u32>,
    pub(crate) hca_objects: Option<u32>,
}
