//! What a front end leaves on the host: for a container it is told in the `options` of the Task API's `Create`, where
//! each runtime says what it likes, and for a process in the `spec` of `Exec`, which containerd names another type for.

use std::path::PathBuf;

use containerd_shim_protos::protobuf::well_known_types::any::Any;
use hull_vm::process::ProcessRecord;
use serde::{Deserialize, Serialize};

use crate::rpc_status::invalid;

const TYPE_URL: &str = "hull.v1.Monitor";
const PROCESS_TYPE_URL: &str = "hull.v1.MonitoredProcess";
const OCI_PROCESS_TYPE_URL: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";

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

/// A process that is added, with what stands for it on the host.
#[derive(Debug, Serialize, Deserialize)]
struct MonitoredProcess {
    /// An OCI `process` object, as JSON.
    process: String,
    monitor: ProcessRecord,
}

/// The `spec` of a process that `monitor` stands for, if anything does.
pub(crate) fn to_process_spec(
    process: &oci_spec::runtime::Process,
    monitor: Option<ProcessRecord>,
) -> Any {
    let process = serde_json::to_string(process).expect("a process encodes");
    let (type_url, value) = match monitor {
        Some(monitor) => {
            let monitored = MonitoredProcess { process, monitor };
            let value = serde_json::to_vec(&monitored).expect("plain data encodes");
            (PROCESS_TYPE_URL, value)
        }
        None => (OCI_PROCESS_TYPE_URL, process.into_bytes()),
    };
    Any {
        type_url: type_url.to_owned(),
        value,
        ..Any::default()
    }
}

/// The OCI `process` object of a `spec`, as JSON, and the monitor that it names.
///
/// # Errors
/// When it is malformed.
pub(crate) fn from_process_spec(spec: Any) -> ttrpc::Result<(String, Option<ProcessRecord>)> {
    let malformed = || invalid("the process to add is not described in JSON");
    if spec.type_url == PROCESS_TYPE_URL {
        let monitored: MonitoredProcess =
            serde_json::from_slice(&spec.value).map_err(|_| malformed())?;
        return Ok((monitored.process, Some(monitored.monitor)));
    }
    let process = String::from_utf8(spec.value).map_err(|_| malformed())?;
    Ok((process, None))
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

    #[test]
    fn a_process_is_told_with_its_monitor_or_without() {
        let process = oci_spec::runtime::Process::default();
        let json = serde_json::to_string(&process).unwrap();
        let record = ProcessRecord {
            pid: 7,
            start_ticks: 9,
        };
        for monitor in [None, Some(record)] {
            let spec = to_process_spec(&process, monitor);
            assert_eq!(from_process_spec(spec).unwrap(), (json.clone(), monitor));
        }
        let malformed = Any {
            type_url: PROCESS_TYPE_URL.to_owned(),
            value: json.into_bytes(),
            ..Any::default()
        };
        assert!(from_process_spec(malformed).is_err());
    }
}
