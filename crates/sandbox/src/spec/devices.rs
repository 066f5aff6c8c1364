//! Devices of the host that a container asks for.

use oci_spec::runtime::{LinuxDevice, LinuxDeviceType, Spec};

use crate::error::SandboxError;

/// Takes the host's devices out of `spec` for a container that may use every device: its machine's are the
/// guest's.
///
/// # Errors
/// [`SandboxError::Unsupported`] for a container that asks for one by itself. The guest has none of that number,
/// or quite another one.
pub(super) fn leave_to_host(spec: &mut Spec) -> Result<(), SandboxError> {
    let Some(mut linux) = spec.linux().clone() else {
        return Ok(());
    };
    let devices = linux.devices().clone().unwrap_or_default();
    let (kept, hosts): (Vec<_>, Vec<_>) = devices.into_iter().partition(is_everywhere);
    if hosts.is_empty() {
        return Ok(());
    }
    if !may_use_all(spec) {
        return Err(SandboxError::Unsupported(
            "devices of the host (raw block volumes among them)",
        ));
    }
    linux.set_devices(Some(kept));
    spec.set_linux(Some(linux));
    Ok(())
}

/// Whether it has the same number on every machine: memory and terminals (`null`, `random`, `tty`, `ptmx`),
/// `/dev/net/tun` and `/dev/fuse`.
fn is_everywhere(device: &LinuxDevice) -> bool {
    let number = (device.major(), device.minor());
    match device.typ() {
        LinuxDeviceType::C | LinuxDeviceType::U => {
            matches!(number, (1 | 5, _) | (10, 200 | 229))
        }
        LinuxDeviceType::P => true,
        LinuxDeviceType::A | LinuxDeviceType::B => false,
    }
}

/// What privileged containers are: all devices are allowed.
fn may_use_all(spec: &Spec) -> bool {
    let resources = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.resources().as_ref());
    let rules = resources.and_then(|resources| resources.devices().as_ref());
    rules.into_iter().flatten().any(|rule| {
        let any = |number: Option<i64>| number.is_none_or(|number| number < 0);
        rule.allow()
            && rule.typ().is_none_or(|kind| kind == LinuxDeviceType::A)
            && any(rule.major())
            && any(rule.minor())
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn spec(devices: &Value, rules: &Value) -> Spec {
        serde_json::from_value(json!({
            "ociVersion": "1.0.2",
            "linux": {"devices": devices, "resources": {"devices": rules}},
        }))
        .unwrap()
    }

    fn disk() -> Value {
        json!({"path": "/dev/data", "type": "b", "major": 254, "minor": 16})
    }

    #[test]
    fn a_disk_of_the_host_is_refused() {
        let rules = json!([
            {"allow": false, "access": "rwm"},
            {"allow": true, "type": "b", "major": 254, "minor": 16, "access": "rw"},
        ]);
        let refused = leave_to_host(&mut spec(&json!([disk()]), &rules));
        assert!(matches!(refused, Err(SandboxError::Unsupported(_))));
    }

    #[test]
    fn what_every_machine_has_is_kept() {
        let devices = json!([
            {"path": "/dev/null", "type": "c", "major": 1, "minor": 3},
            {"path": "/dev/net/tun", "type": "c", "major": 10, "minor": 200},
        ]);
        let mut spec = spec(&devices, &json!([]));
        leave_to_host(&mut spec).unwrap();
        let kept = spec.linux().as_ref().unwrap().devices().as_ref();
        assert_eq!(kept.map(Vec::len), Some(2));
    }

    #[test]
    fn a_privileged_container_has_those_of_its_guest() {
        let mut spec = spec(&json!([disk()]), &json!([{"allow": true, "access": "rwm"}]));
        leave_to_host(&mut spec).unwrap();
        let kept = spec.linux().as_ref().unwrap().devices().as_ref();
        assert_eq!(kept.map(Vec::len), Some(0));
    }
}
