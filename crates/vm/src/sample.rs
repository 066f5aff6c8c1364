//! For the drivers' tests: a machine that they describe in their VMM's words.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;

use crate::accel::Acceleration;
use crate::config::{Boot, Device, MacAddress, MachineSize, VmConfig};

/// What it has at first.
pub(crate) const SIZE: MachineSize = MachineSize {
    vcpus: 2,
    memory_mib: 256,
};

/// The address of [`net`].
pub(crate) const MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 1]);

/// All of it. What is in `/run/x` and `/guest` no VMM is to be told.
pub(crate) fn config(max: MachineSize, devices: Vec<Device>) -> VmConfig {
    VmConfig {
        id: "test".to_owned(),
        run_dir: "/run/x".into(),
        boot: Boot {
            kernel: "/guest/vmlinux".into(),
            initramfs: "/guest/initramfs.img".into(),
            arguments: vec!["extra=1".to_owned()],
        },
        size: SIZE,
        max,
        acceleration: Acceleration::Auto,
        vsock: "/run/x/vsock/guest.sock".into(),
        devices,
        network_namespace: None,
    }
}

/// The same in a directory that is there, which a VMM may enter.
pub(crate) fn config_in(dir: &Path, max: MachineSize, devices: Vec<Device>) -> VmConfig {
    std::fs::create_dir_all(dir.join("vsock")).unwrap();
    VmConfig {
        run_dir: dir.to_owned(),
        vsock: dir.join("vsock/guest.sock"),
        ..config(max, devices)
    }
}

/// A descriptor of nothing.
pub(crate) fn fd() -> OwnedFd {
    File::open("/dev/null").unwrap().into()
}

/// An interface behind a tap, which the host's kernel could serve.
pub(crate) fn net(offload: bool) -> Device {
    Device::Net {
        tap: fd(),
        vhost: Some(fd()),
        mac: MAC,
        mtu: 1400,
        offload,
    }
}

/// What stands behind an option.
pub(crate) fn value<'a>(arguments: &'a [String], option: &str) -> &'a str {
    let at = arguments
        .iter()
        .position(|argument| argument == option)
        .unwrap();
    &arguments[at + 1]
}
