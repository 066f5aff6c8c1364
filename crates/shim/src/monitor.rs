//! What a front end leaves on the host for a container: told in the `options` of the Task API's `Create`, where each
//! runtime says what it likes.

use std::path::PathBuf;

use containerd_shim_protos::protobuf::well_known_types::any::Any;
use hull_vm::process::ProcessRecord;
use serde::{Deserialize, Serialize};

use crate::rpc_status::invalid;

const TYPE_URL: &str = "hull.v1.Monitor";

/// What there is on the host.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Monitor {
    /// The process that stands for the container with its engine.
    pub process: Option<ProcessRecord>,
    /// As in [`CreateContainer`](hull_sandbox::CreateContainer::notify_dir).
    pub notify_dir: Option<PathBuf>,
}

/// The options that name `monitor`.
pub(crate) fn to_options(monitor: &Monitor) -> Any {
    Any {
        type_url: TYPE_URL.to_owned(),
        value: serde_json::to_vec(monitor).expect("plain data encodes"),
        ..Any::default()
    }
}

/// The monitor that `options` name, if they are of this kind. containerd's say what runc shall do.
///
/// # Errors
/// When they are malformed.
pub(crate) fn from_options(options: Option<&Any>) -> ttrpc::Result<Monitor> {
    match options {
        Some(options) if options.type_url == TYPE_URL => serde_json::from_slice(&options.value)
            .map_err(|_| invalid("the monitor is not described in JSON")),
        Some(_) | None => Ok(Monitor::default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_monitor_is_told_and_other_options_are_not_one() {
        let monitor = Monitor {
            process: Some(ProcessRecord {
                pid: 7,
                start_ticks: 9,
            }),
            notify_dir: Some("/run/x".into()),
        };
        let options = to_options(&monitor);
        assert_eq!(from_options(Some(&options)).unwrap(), monitor);
        let none = Monitor::default();
        assert_eq!(from_options(Some(&Any::default())).unwrap(), none);
        assert_eq!(from_options(None).unwrap(), none);
        let malformed = Any {
            value: b"[7]".to_vec(),
            ..options
        };
        assert!(from_options(Some(&malformed)).is_err());
    }
}
