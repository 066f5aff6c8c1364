//! Devices of the host that a container asks for.

use std::collections::HashSet;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::sys::stat::{major, minor};
use oci_spec::runtime::{LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType, Mount, Spec};
use serde::{Deserialize, Serialize};

use super::is_bind;
use crate::error::SandboxError;
use crate::mount::origin;

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

/// Settles the device nodes of the host that are mounted, which is how an engine without privileges gives a container
/// devices: one with all devices has its machine's in place of those that only the host has, and one that gets some
/// may use them. Answers with the destinations of those that the guest has as well.
///
/// # Errors
/// When the engine's paths cannot be looked at.
pub(super) fn settle_bound(
    spec: &mut Spec,
    bundle: &Path,
) -> Result<HashSet<PathBuf>, SandboxError> {
    let has_all = may_use_all(spec) || is_privileged_podman(spec);
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    let devices = || Ok(mounts.iter().map(|mount| bound(mount, bundle)).collect());
    let devices: Vec<_> =
        origin::there(devices).map_err(SandboxError::host("look for devices among the volumes"))?;
    let mut devices = devices.into_iter();
    let (mut used, mut destinations) = (Vec::new(), HashSet::new());
    mounts.retain(|mount| match devices.next().flatten() {
        None => true,
        Some(device) if is_everywhere(&device) => {
            used.push(rule(&device));
            destinations.insert(mount.destination().clone());
            true
        }
        Some(_) => !has_all,
    });
    spec.set_mounts(Some(mounts));
    if has_all || used.is_empty() {
        return Ok(destinations);
    }
    let mut linux = spec.linux().clone().unwrap_or_default();
    let mut resources = linux.resources().clone().unwrap_or_default();
    let mut rules = resources.devices().clone().unwrap_or_default();
    rules.extend(used);
    resources.set_devices(Some(rules));
    linux.set_resources(Some(resources));
    spec.set_linux(Some(linux));
    Ok(destinations)
}

/// That the container may use it.
fn rule(device: &LinuxDevice) -> LinuxDeviceCgroup {
    let mut rule = LinuxDeviceCgroup::default();
    rule.set_allow(true)
        .set_typ(Some(device.typ()))
        .set_major(Some(device.major()))
        .set_minor(Some(device.minor()))
        .set_access(Some("rwm".to_owned()));
    rule
}

/// The device that is mounted from the host, if it is one. To be asked where the engine's paths are.
fn bound(mount: &Mount, bundle: &Path) -> Option<LinuxDevice> {
    let source = mount.source().as_ref().filter(|_| is_bind(mount))?;
    let found = std::fs::metadata(bundle.join(source)).ok()?;
    let kind = if found.file_type().is_char_device() {
        LinuxDeviceType::C
    } else if found.file_type().is_block_device() {
        LinuxDeviceType::B
    } else {
        return None;
    };
    let mut device = LinuxDevice::default();
    device
        .set_typ(kind)
        .set_major(i64::try_from(major(found.rdev())).ok()?)
        .set_minor(i64::try_from(minor(found.rdev())).ok()?);
    Some(device)
}

/// Podman says so of a container, whose rules for devices an ordinary user cannot set.
fn is_privileged_podman(spec: &Spec) -> bool {
    let annotations = spec.annotations().as_ref();
    let said = annotations.and_then(|all| all.get("io.podman.annotations.privileged"));
    said.is_some_and(|said| said == "TRUE")
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

    #[test]
    fn devices_that_are_mounted_are_the_guests() {
        let masked =
            json!({"destination": "/etc/masked", "source": "/dev/null", "options": ["bind"]});
        let mut own = spec(&json!([]), &json!([]));
        own.set_mounts(Some(serde_json::from_value(json!([masked])).unwrap()));
        let of_guest = settle_bound(&mut own, Path::new("/b")).unwrap();
        assert_eq!(of_guest, [PathBuf::from("/etc/masked")].into());
        assert_eq!(own.mounts().as_ref().map(Vec::len), Some(1));

        // A privileged container keeps them, and what is no device.
        let text = json!({"destination": "/srv", "source": "/", "options": ["bind"]});
        let mut privileged = own.clone();
        privileged.set_mounts(Some(serde_json::from_value(json!([masked, text])).unwrap()));
        let said = [(
            "io.podman.annotations.privileged".to_owned(),
            "TRUE".to_owned(),
        )];
        privileged.set_annotations(Some(said.into()));
        settle_bound(&mut privileged, Path::new("/b")).unwrap();
        assert_eq!(privileged.mounts().as_ref().map(Vec::len), Some(2));
    }
}
