//! Firecracker's configuration, from a [`VmConfig`].

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;

use nix::sys::memfd::{MFdFlags, memfd_create};
use serde_json::{Value, json};

use crate::config::{Device, GUEST_CID, VmConfig};
use crate::error::VmError;
use crate::memory::Memory;
use crate::process::path_of;

/// Most virtual CPUs.
const MAX_VCPUS: u32 = 32;

/// What it finds by descriptors.
#[derive(Debug)]
pub(super) struct Places {
    pub(super) kernel: OwnedFd,
    pub(super) initramfs: OwnedFd,
    pub(super) vsock_dir: OwnedFd,
}

/// The file's content, and the descriptors that it names.
#[derive(Debug)]
pub(super) struct ConfigFile {
    pub(super) json: Value,
    pub(super) inherited: Vec<OwnedFd>,
}

impl ConfigFile {
    /// `name_of` lets a tap stay without its descriptor, and says what it is called.
    pub(super) fn new(
        config: VmConfig,
        memory: Memory,
        places: Places,
        name_of: impl Fn(OwnedFd) -> Result<String, VmError>,
    ) -> Result<Self, VmError> {
        if config.max.vcpus > MAX_VCPUS {
            return Err(VmError::Unsupported {
                driver: super::NAME,
                what: "more than 32 virtual CPUs",
            });
        }
        let mut json = json!({
            "boot-source": {
                "kernel_image_path": path_of(&places.kernel),
                "initrd_path": path_of(&places.initramfs),
                "boot_args": kernel_command_line(&config, memory),
            },
            "machine-config": {
                "vcpu_count": config.max.vcpus,
                "mem_size_mib": memory.total_mib,
            },
            "drives": [],
            "vsock": {
                "guest_cid": GUEST_CID,
                "uds_path": vsock(&config, &places.vsock_dir),
            },
        });
        let mut interfaces = Vec::new();
        for device in config.devices {
            match device {
                Device::Net { tap, mac, mtu, .. } => interfaces.push(json!({
                    "iface_id": interface_id(interfaces.len()),
                    "host_dev_name": name_of(tap)?,
                    "guest_mac": mac.to_string(),
                    "mtu": mtu,
                })),
                Device::Rng => json["entropy"] = json!({}),
                Device::Balloon => {
                    json["balloon"] = json!({
                        "amount_mib": 0,
                        "deflate_on_oom": true,
                        "free_page_reporting": true,
                    });
                }
                Device::NetStream { .. } => return Err(no_streams()),
                Device::Fs { .. } => return Err(unsupported("virtio-fs")),
            }
        }
        json["network-interfaces"] = interfaces.into();
        Ok(Self {
            json,
            inherited: vec![places.kernel, places.initramfs, places.vsock_dir],
        })
    }
}

/// The hybrid vsock socket, in this directory that the VMM has open.
pub(super) fn vsock(config: &VmConfig, dir: &OwnedFd) -> String {
    format!("{}/{}", path_of(dir), config.vsock_name())
}

/// What the machine's interface with this index is called.
pub(super) fn interface_id(index: usize) -> String {
    format!("net{index}")
}

/// It takes frames from taps only.
pub(super) fn no_streams() -> VmError {
    unsupported("a network interface over a stream socket")
}

fn unsupported(what: &'static str) -> VmError {
    VmError::Unsupported {
        driver: super::NAME,
        what,
    }
}

fn kernel_command_line(config: &VmConfig, memory: Memory) -> String {
    // reboot=k: a reset through the keyboard's controller ends it, as there is nothing to power off with.
    let own = "console=ttyS0 8250.nr_uarts=1 acpi=off pci=off reboot=k i8042.noaux i8042.nokbd";
    config.kernel_command_line(own, memory.limit_mib)
}

/// A file without a name that has this content.
pub(super) fn write(json: &Value) -> Result<OwnedFd, VmError> {
    let cannot = || VmError::host("write the VMM's configuration");
    let file = memfd_create("config", MFdFlags::MFD_CLOEXEC);
    let mut file = File::from(file.map_err(|errno| cannot()(errno.into()))?);
    file.write_all(json.to_string().as_bytes())
        .map_err(cannot())?;
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use super::super::LAYOUT;
    use super::*;
    use crate::config::MachineSize;
    use crate::sample::{self, SIZE, fd, net};
    use crate::schema::Schema;

    fn file(max: MachineSize, devices: Vec<Device>) -> Result<Value, VmError> {
        let config = sample::config(max, devices);
        let places = Places {
            kernel: fd(),
            initramfs: fd(),
            vsock_dir: fd(),
        };
        let memory = Memory::new(config.size, config.max, LAYOUT);
        let file = ConfigFile::new(config, memory, places, |_| Ok("hull0".to_owned()))?;
        Ok(file.json)
    }

    #[test]
    fn nothing_but_a_tap_is_named() {
        let file = file(SIZE, vec![net(true)]).unwrap();
        assert!(!file.to_string().contains("/run/x"), "{file}");
        assert!(!file.to_string().contains("/guest/"), "{file}");
        let net = &file["network-interfaces"][0];
        assert_eq!(net["host_dev_name"], "hull0");
        assert_eq!(net["guest_mac"], "02:00:00:00:00:01");
    }

    #[test]
    fn what_a_guest_grows_into_it_leaves_alone_at_boot() {
        let max = MachineSize {
            vcpus: 4,
            memory_mib: 1024,
        };
        let file = file(max, vec![]).unwrap();
        let size = json!({"vcpu_count": 4, "mem_size_mib": 1024});
        assert_eq!(file["machine-config"], size);
        let arguments = file["boot-source"]["boot_args"].as_str().unwrap();
        assert!(arguments.ends_with(" maxcpus=2 mem=256M extra=1"));
    }

    #[test]
    fn what_it_cannot_do_is_refused() {
        let vcpus = 33;
        let many = MachineSize { vcpus, ..SIZE };
        assert!(matches!(
            file(many, vec![]),
            Err(VmError::Unsupported { .. })
        ));
        let share = Device::Fs {
            tag: "x".to_owned(),
            socket: "/run/x/fs.sock".into(),
        };
        assert!(matches!(
            file(SIZE, vec![share]),
            Err(VmError::Unsupported { .. })
        ));
    }

    #[test]
    fn every_part_is_as_the_published_schema_says() {
        let Some(schema) = Schema::of("firecracker.yaml") else {
            return;
        };
        let file = file(SIZE, vec![net(true), Device::Rng, Device::Balloon]).unwrap();
        let parts = file.as_object().unwrap();
        for (part, value) in parts {
            let definition = match part.as_str() {
                "boot-source" => "BootSource",
                "machine-config" => "MachineConfiguration",
                "vsock" => "Vsock",
                "entropy" => "EntropyDevice",
                "balloon" => "Balloon",
                "network-interfaces" => "NetworkInterface",
                "drives" => "Drive",
                other => panic!("{other} is not in the schema"),
            };
            let values = match value {
                Value::Array(values) => values.as_slice(),
                value => std::slice::from_ref(value),
            };
            for value in values {
                schema.check(definition, value);
            }
        }
    }
}
