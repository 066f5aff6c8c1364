//! `linux.seccomp` of a specification.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Seccomp {
    /// "SCMP_ACT_ERRNO" and the like, as every action here.
    pub(crate) default_action: String,
    pub(crate) default_errno_ret: Option<u32>,
    #[serde(default)]
    pub(crate) architectures: Vec<String>,
    #[serde(default)]
    pub(crate) flags: Vec<String>,
    pub(crate) listener_path: Option<PathBuf>,
    #[serde(default)]
    pub(crate) syscalls: Vec<SeccompRule>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SeccompRule {
    pub(crate) names: Vec<String>,
    pub(crate) action: String,
    pub(crate) errno_ret: Option<u32>,
    #[serde(default)]
    pub(crate) args: Vec<SeccompArgument>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SeccompArgument {
    pub(crate) index: u32,
    pub(crate) value: u64,
    #[serde(default)]
    pub(crate) value_two: u64,
    /// "SCMP_CMP_EQ" and the like.
    pub(crate) op: String,
}
