//! What real VMMs have answered: status lines, headers and bodies as they came over the socket.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::api::Reply;

/// What a driver's tests replay.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Recorded {
    /// What said it.
    #[expect(dead_code, reason = "for people who read the file")]
    vmm: String,
    /// By what the driver was to do.
    requests: BTreeMap<String, Exchange>,
    /// What it told of a machine that went on from a snapshot, one event each.
    #[serde(default)]
    pub(crate) restored: Vec<serde_json::Value>,
    /// The same when it could not boot.
    #[serde(default)]
    pub(crate) failed_boot: Vec<serde_json::Value>,
}

/// A request, and how it ends well and badly.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Exchange {
    /// Method and path.
    pub(crate) request: String,
    done: String,
    refused: String,
    /// What a person is told of the refusal.
    pub(crate) words: String,
}

impl Recorded {
    pub(crate) fn read(text: &str) -> Self {
        serde_json::from_str(text).unwrap()
    }

    pub(crate) fn exchange(&self, what: &str) -> &Exchange {
        &self.requests[what]
    }
}

impl Exchange {
    pub(crate) fn done(&self) -> Reply {
        Reply::bytes(&self.done)
    }

    pub(crate) fn refused(&self) -> Reply {
        Reply::bytes(&self.refused)
    }
}
