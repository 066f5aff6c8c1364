//! Devices of the host that a container asks for.

use std::path::PathBuf;

use oci_spec::runtime::{LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType, Spec};
use serde::{Deserialize, Serialize};

use crate::error::SandboxError;

/// A disk of the host's that a container has: a raw block volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Disk {
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) read_only: bool,
    /// Where the container has it.
    pub(crate) path: PathBuf,
}

/// Takes the host's devices out of `spec` for a container that may use every device: its machine's are the
/// guest's. For another container, says which of its devices are disks of the host; they stay in `spec`, and the
/// rules for their numbers do not, as they have others in the guest.
///
/// # Errors
/// [`SandboxError::Unsupported`] for a container that asks by itself for what is no disk. The guest has no device
/// of that number, or quite another one.
pub(super) fn take_disks(spec: &mut Spec) -> Result<Vec<Disk>, SandboxError> {
    let Some(mut linux) = spec.linux().clone() else {
        return Ok(Vec::new());
    };
    let devices = linux.devices().clone().unwrap_or_default();
    let (mut kept, hosts): (Vec<_>, Vec<_>) = devices.into_iter().partition(is_everywhere);
    if hosts.is_empty() {
        return Ok(Vec::new());
    }
    let mut disks = Vec::new();
    if !may_use_all(spec) {
        let mut resources = linux.resources().clone().unwrap_or_default();
        let mut rules = resources.devices().clone().unwrap_or_default();
        for device in &hosts {
            disks.push(disk(device, &rules)?);
        }
        rules.retain(|rule| !hosts.iter().any(|device| is_for(rule, device)));
        resources.set_devices(Some(rules));
        linux.set_resources(Some(resources));
        kept.extend(hosts);
    }
    linux.set_devices(Some(kept));
    spec.set_linux(Some(linux));
    Ok(disks)
}

fn disk(device: &LinuxDevice, rules: &[LinuxDeviceCgroup]) -> Result<Disk, SandboxError> {
    let number = |number: i64| u32::try_from(number).ok();
    let numbers = (number(device.major()), number(device.minor()));
    let (LinuxDeviceType::B, (Some(major), Some(minor))) = (device.typ(), numbers) else {
        return Err(SandboxError::Unsupported(
            "devices of the host that are no disks",
        ));
    };
    let writable = rules.iter().any(|rule| {
        let access = rule.access().as_deref().unwrap_or("rwm");
        rule.allow() && is_for(rule, device) && access.contains('w')
    });
    Ok(Disk {
        major,
        minor,
        read_only: !writable,
        path: device.path().clone(),
    })
}

/// Whether a rule is for this device and no other.
fn is_for(rule: &LinuxDeviceCgroup, device: &LinuxDevice) -> bool {
    rule.typ() == Some(device.typ())
        && rule.major() == Some(device.major())
        && rule.minor() == Some(device.minor())
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

    fn device(kind: &str) -> Value {
        json!({"path": "/dev/data", "type": kind, "major": 254, "minor": 16})
    }

    fn rules(kind: &str, access: &str) -> Value {
        json!([
            {"allow": false, "access": "rwm"},
            {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm"},
            {"allow": true, "type": kind, "major": 254, "minor": 16, "access": access},
        ])
    }

    #[test]
    fn a_disk_is_as_writable_as_its_rule_says() {
        for (access, read_only) in [("rwm", false), ("rw", false), ("r", true)] {
            let mut spec = spec(&json!([device("b")]), &rules("b", access));
            let disks = take_disks(&mut spec).unwrap();
            assert_eq!(
                disks,
                [Disk {
                    major: 254,
                    minor: 16,
                    read_only,
                    path: "/dev/data".into()
                }]
            );
            let linux = spec.linux().as_ref().unwrap();
            assert_eq!(linux.devices().as_ref().map(Vec::len), Some(1));
            let resources = linux.resources().as_ref().unwrap();
            // The rule for the host's number is gone, the others are not.
            assert_eq!(resources.devices().as_ref().map(Vec::len), Some(2));
        }
    }

    #[test]
    fn what_is_no_disk_is_refused() {
        let refused = take_disks(&mut spec(&json!([device("c")]), &rules("c", "rwm")));
        assert!(matches!(refused, Err(SandboxError::Unsupported(_))));
    }

    #[test]
    fn what_every_machine_has_is_kept() {
        let devices = json!([
            {"path": "/dev/null", "type": "c", "major": 1, "minor": 3},
            {"path": "/dev/net/tun", "type": "c", "major": 10, "minor": 200},
        ]);
        let mut spec = spec(&devices, &json!([]));
        assert!(take_disks(&mut spec).unwrap().is_empty());
        let kept = spec.linux().as_ref().unwrap().devices().as_ref();
        assert_eq!(kept.map(Vec::len), Some(2));
    }

    #[test]
    fn a_privileged_container_has_those_of_its_guest() {
        let all = json!([{"allow": true, "access": "rwm"}]);
        let mut spec = spec(&json!([device("b")]), &all);
        assert!(take_disks(&mut spec).unwrap().is_empty());
        let kept = spec.linux().as_ref().unwrap().devices().as_ref();
        assert_eq!(kept.map(Vec::len), Some(0));
    }
}
