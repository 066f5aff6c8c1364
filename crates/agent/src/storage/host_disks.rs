//! Disks of the host: block devices over the files that stand for them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use hull_agent_api::agent::Disk;
use hull_loop::{Access, LoopDevice};
use tokio::sync::Mutex;

use crate::error::AgentError;
use crate::spec::{DeviceKind, DeviceRule, Spec};

/// The devices that containers have.
#[derive(Debug, Default)]
pub(crate) struct HostDisks {
    /// By file and access: all containers that have a disk have to see what the others write.
    known: Mutex<HashMap<(PathBuf, bool), Weak<LoopDevice>>>,
}

impl HostDisks {
    /// Makes what a container asks for, and gives the devices in `spec` their numbers. They last as long as the answer.
    pub(crate) async fn attach(
        &self,
        disks: &[Disk],
        spec: &mut Spec,
    ) -> Result<Vec<Arc<LoopDevice>>, AgentError> {
        let mut attached = Vec::new();
        for disk in disks {
            let device = self.device(disk).await?;
            enter(spec, disk, device.minor())?;
            attached.push(device);
        }
        Ok(attached)
    }

    async fn device(&self, disk: &Disk) -> Result<Arc<LoopDevice>, AgentError> {
        // Held meanwhile: of two containers one makes it.
        let mut known = self.known.lock().await;
        known.retain(|_, device| device.strong_count() > 0);
        let file = PathBuf::from(&disk.file);
        let key = (file.clone(), disk.read_only);
        if let Some(device) = known.get(&key).and_then(Weak::upgrade) {
            return Ok(device);
        }
        let making = tokio::task::spawn_blocking({
            let (file, read_only) = key.clone();
            move || over(&file, read_only)
        });
        let device = making
            .await
            .map_err(|panicked| cannot(&file)(panicked.into()))?;
        let device = Arc::new(device?);
        known.insert(key, Arc::downgrade(&device));
        Ok(device)
    }
}

/// A block device over a file of the host's. The host has a cache of its own.
pub(super) fn over(file: &Path, read_only: bool) -> Result<LoopDevice, AgentError> {
    let access = Access {
        read_only,
        direct: true,
    };
    LoopDevice::over(file, access).map_err(cannot(file))
}

fn cannot(file: &Path) -> impl FnOnce(std::io::Error) -> AgentError {
    AgentError::io(format!("make a disk of {}", file.display()))
}

/// Writes the device's number, and that the container may use it, into `spec`.
fn enter(spec: &mut Spec, disk: &Disk, minor: u32) -> Result<(), AgentError> {
    let devices = &mut spec.linux.devices;
    let named = devices
        .iter_mut()
        .find(|device| device.kind == DeviceKind::Block && device.path == disk.path);
    let device = named.ok_or_else(|| AgentError::Invalid {
        field: "disk path",
        value: disk.path.clone(),
    })?;
    device.major = hull_loop::MAJOR;
    device.minor = minor;
    spec.linux.resources.devices.push(DeviceRule {
        allow: true,
        kind: "b".to_owned(),
        major: Some(hull_loop::MAJOR.into()),
        minor: Some(minor.into()),
        access: if disk.read_only { "rm" } else { "rwm" }.to_owned(),
    });
    Ok(())
}

/// Lets go of them: what is written to them is on the host's disks then.
pub(super) async fn detach(disks: Vec<Arc<LoopDevice>>) {
    if disks.is_empty() {
        return;
    }
    // The last one to close a device waits for what is still to be written.
    if let Err(panicked) = tokio::task::spawn_blocking(move || drop(disks)).await {
        log::error!("cannot let go of a disk: {panicked}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> Spec {
        Spec::parse(
            br#"{"ociVersion":"1.0.2","root":{"path":"/r"},"process":{},
                "linux":{"devices":[{"path":"/dev/xvda","type":"b","major":254,"minor":16,"fileMode":432}]}}"#,
        )
        .unwrap()
    }

    fn disk(path: &str) -> Disk {
        Disk {
            path: path.to_owned(),
            read_only: true,
            ..Disk::default()
        }
    }

    #[test]
    fn a_disk_has_the_number_that_the_guest_gave_it() {
        let mut spec = spec();
        enter(&mut spec, &disk("/dev/xvda"), 3).unwrap();
        let device = &spec.linux.devices[0];
        assert_eq!((device.major, device.minor), (7, 3));
        assert_eq!(device.file_mode, Some(0o660));
        let rule = &spec.linux.resources.devices[0];
        assert_eq!((rule.minor, rule.access.as_str()), (Some(3), "rm"));
    }

    #[test]
    fn a_disk_that_the_specification_does_not_name_is_refused() {
        assert!(enter(&mut spec(), &disk("/dev/xvdb"), 3).is_err());
    }
}
