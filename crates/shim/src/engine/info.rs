//! `-info`: what this runtime is.

use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::types::introspection::{RuntimeInfo, RuntimeVersion};

use super::{EngineError, answer};

/// Writes a `containerd.types.RuntimeInfo` to the standard output.
///
/// # Errors
/// When nobody reads it.
pub fn info() -> Result<(), EngineError> {
    let info = RuntimeInfo {
        name: "io.containerd.hull.v2".to_owned(),
        version: Some(RuntimeVersion {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..Default::default()
        })
        .into(),
        ..Default::default()
    };
    answer(&info.write_to_bytes().expect("plain data encodes"))
}
