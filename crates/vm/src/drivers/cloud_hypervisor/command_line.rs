//! Cloud Hypervisor's command line, from a [`VmConfig`].

use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use crate::config::{Device, GUEST_CID, VmConfig};
use crate::error::VmError;
use crate::memory::Memory;
use crate::process;

/// Requests that the file server takes at once, as with every other VMM.
const FS_QUEUE: u32 = 1024;

/// What the VMM is handed as open descriptors, so that it needs no right to open anything.
#[derive(Debug)]
pub(super) struct Handed {
    kernel: OwnedFd,
    initramfs: OwnedFd,
    memory: OwnedFd,
    vsock_dir: OwnedFd,
    api: OwnedFd,
    console: OwnedFd,
    events: OwnedFd,
}

impl Handed {
    pub(super) fn open(
        config: &VmConfig,
        memory: OwnedFd,
        api: OwnedFd,
        console: OwnedFd,
        events: OwnedFd,
    ) -> Result<Self, VmError> {
        Ok(Self {
            kernel: process::open_file(&config.boot.kernel)?,
            initramfs: process::open_file(&config.boot.initramfs)?,
            memory,
            vsock_dir: process::open_place(config.vsock_dir())?,
            api,
            console,
            events,
        })
    }
}

/// Arguments, and the descriptors that they name.
#[derive(Debug)]
pub(super) struct CommandLine {
    pub(super) arguments: Vec<String>,
    pub(super) inherited: Vec<OwnedFd>,
}

impl CommandLine {
    pub(super) fn new(config: VmConfig, memory: Memory, handed: Handed) -> Result<Self, VmError> {
        let mut line = Self {
            arguments: Vec::new(),
            inherited: Vec::new(),
        };
        let fd = line.hand_over(handed.api);
        line.option("--api-socket", format!("fd={fd}"));
        let fd = line.hand_over(handed.events);
        line.option("--event-monitor", format!("fd={fd}"));
        line.option("--seccomp", "true".to_owned());
        for (option, file) in [
            ("--kernel", handed.kernel),
            ("--initramfs", handed.initramfs),
        ] {
            let path = line.path_of(file);
            line.option(option, path);
        }
        line.option("--cmdline", kernel_command_line(&config, memory));
        line.option(
            "--cpus",
            format!("boot={vcpus},max={vcpus}", vcpus = config.max.vcpus),
        );
        // One zone, as only a zone can be a file of ours. vhost-user back ends map it, so it is shared.
        let path = line.path_of(handed.memory);
        line.option("--memory", "size=0,shared=on".to_owned());
        line.option(
            "--memory-zone",
            format!("id=ram,size={}M,file={path},shared=on", memory.total_mib),
        );
        let path = line.path_of(handed.console);
        line.option("--serial", format!("file={path}"));
        line.option("--console", "off".to_owned());
        let dir = line.path_of(handed.vsock_dir);
        let name = config.vsock_name();
        line.option("--vsock", format!("cid={GUEST_CID},socket={dir}/{name}"));
        for device in config.devices {
            line.device(device)?;
        }
        Ok(line)
    }

    fn hand_over(&mut self, fd: OwnedFd) -> RawFd {
        let number = fd.as_raw_fd();
        self.inherited.push(fd);
        number
    }

    /// A path under which the VMM opens the file.
    fn path_of(&mut self, file: OwnedFd) -> String {
        let path = process::path_of(&file);
        self.inherited.push(file);
        path
    }

    fn option(&mut self, name: &str, value: String) {
        self.arguments.extend([name.to_owned(), value]);
    }

    fn device(&mut self, device: Device) -> Result<(), VmError> {
        match device {
            Device::Fs { tag, socket } => {
                let path = self.path_of(process::open_place(&socket)?);
                self.option(
                    "--fs",
                    format!("tag={tag},socket={path},num_queues=1,queue_size={FS_QUEUE}"),
                );
            }
            // The VMM moves the packets itself: it does not know vhost-net.
            Device::Net {
                tap, mac, offload, ..
            } => {
                let fd = self.hand_over(tap);
                // It looks up by itself what the largest packet is, if the tap is in its namespace. If not, the guest
                // has room for the largest there is, as long as others may cut segments for it.
                let mut net = format!("fd=[{fd}],mac={mac}");
                if !offload {
                    net.push_str(",offload_tso=off,offload_ufo=off,offload_csum=off");
                }
                self.option("--net", net);
            }
            Device::NetStream { .. } => {
                return Err(VmError::Unsupported {
                    driver: super::NAME,
                    what: "a network interface over a stream socket",
                });
            }
            Device::Rng => self.option("--rng", "src=/dev/urandom".to_owned()),
            Device::Balloon => self.option(
                "--balloon",
                "size=0,deflate_on_oom=on,free_page_reporting=on".to_owned(),
            ),
        }
        Ok(())
    }
}

fn kernel_command_line(config: &VmConfig, memory: Memory) -> String {
    let own = "console=ttyS0 8250.nr_uarts=1 i8042.noaux i8042.nokbd";
    config.kernel_command_line(own, memory.limit_mib)
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::super::LAYOUT;
    use super::*;
    use crate::accel::Acceleration;
    use crate::config::{Boot, MacAddress, MachineSize};

    const SIZE: MachineSize = MachineSize {
        vcpus: 2,
        memory_mib: 256,
    };

    fn line(max: MachineSize, devices: Vec<Device>) -> Result<Vec<String>, VmError> {
        let config = VmConfig {
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
        };
        let handed = Handed {
            kernel: fd(),
            initramfs: fd(),
            memory: fd(),
            vsock_dir: fd(),
            api: fd(),
            console: fd(),
            events: fd(),
        };
        let memory = Memory::new(config.size, config.max, LAYOUT);
        Ok(CommandLine::new(config, memory, handed)?.arguments)
    }

    fn fd() -> OwnedFd {
        File::open("/dev/null").unwrap().into()
    }

    fn value<'a>(arguments: &'a [String], option: &str) -> &'a str {
        let at = arguments
            .iter()
            .position(|argument| argument == option)
            .unwrap();
        &arguments[at + 1]
    }

    #[test]
    fn nothing_is_named_by_its_path() {
        let line = line(SIZE, vec![]).unwrap();
        for option in ["--kernel", "--initramfs"] {
            assert!(value(&line, option).starts_with("/proc/self/fd/"));
        }
        assert!(value(&line, "--vsock").ends_with("/guest.sock"));
        assert!(
            !line.iter().any(|argument| argument.contains("/run/x")),
            "{line:?}"
        );
    }

    #[test]
    fn what_a_guest_grows_into_it_leaves_alone_at_boot() {
        let max = MachineSize {
            vcpus: 4,
            memory_mib: 1024,
        };
        let line = line(max, vec![]).unwrap();
        assert_eq!(value(&line, "--cpus"), "boot=4,max=4");
        assert!(value(&line, "--memory-zone").starts_with("id=ram,size=1024M,file=/proc/self/fd/"));
        assert!(value(&line, "--cmdline").ends_with(" maxcpus=2 mem=256M extra=1"));
    }

    #[test]
    fn a_tap_is_handed_over_and_a_stream_is_refused() {
        let mac = MacAddress([2, 0, 0, 0, 0, 1]);
        for offload in [true, false] {
            let tap = Device::Net {
                tap: fd(),
                vhost: None,
                mac,
                mtu: 1400,
                offload,
            };
            let line = line(SIZE, vec![tap]).unwrap();
            let net = value(&line, "--net");
            assert!(net.starts_with("fd=[") && net.contains("],mac=02:00:00:00:00:01"));
            assert_eq!(net.contains("offload_csum=off"), !offload);
        }
        let stream = Device::NetStream {
            socket: fd(),
            mac,
            mtu: 1400,
        };
        assert!(matches!(
            line(SIZE, vec![stream]),
            Err(VmError::Unsupported { .. })
        ));
    }
}
