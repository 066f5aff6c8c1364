//! `state`.

use std::collections::HashMap;
use std::path::Path;

use hull_sandbox::state::Status;
use serde::Serialize;

use super::{Context, print};
use crate::container::Container;
use crate::error::RuntimeError;
use crate::store::Record;

/// Prints a container's state as the [specification] has it, and what runc adds.
///
/// [specification]: https://github.com/opencontainers/runtime-spec/blob/main/runtime.md#state
pub(super) async fn state(context: &Context, id: &str) -> Result<(), RuntimeError> {
    let container = Container::find(&context.store, id).await?;
    let status = container.status().await?;
    let state = describe(&container.record, status);
    let text = serde_json::to_string_pretty(&state).expect("plain data encodes");
    print(&format!("{text}\n"))
}

/// A container's state, in the order in which runc has it: some compare it as text.
#[derive(Debug, Serialize)]
pub(super) struct State<'a> {
    #[serde(rename = "ociVersion")]
    oci_version: &'a str,
    id: &'a str,
    pub(super) pid: i32,
    pub(super) status: Status,
    bundle: &'a Path,
    rootfs: &'a Path,
    created: &'a str,
    #[serde(skip_serializing_if = "HashMap::is_empty")]
    annotations: &'a HashMap<String, String>,
    owner: &'static str,
}

/// A container's state.
pub(super) fn describe(record: &Record, status: Status) -> State<'_> {
    State {
        oci_version: &record.oci_version,
        id: &record.id,
        pid: match status {
            Status::Stopped => 0,
            Status::Created | Status::Running | Status::Paused => record.monitor.pid,
        },
        status,
        bundle: &record.bundle,
        rootfs: &record.rootfs,
        created: &record.created,
        annotations: &record.annotations,
        owner: "",
    }
}
