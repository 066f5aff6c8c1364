//! Cloud Hypervisor's command line, from a [`VmConfig`].

use std::os::fd::OwnedFd;

use crate::command_line::CommandLine;
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

/// The command line for this machine.
pub(super) fn build(
    config: VmConfig,
    memory: Memory,
    handed: Handed,
) -> Result<CommandLine, VmError> {
    let mut line = CommandLine::default();
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
        add_device(&mut line, device)?;
    }
    Ok(line)
}

fn add_device(line: &mut CommandLine, device: Device) -> Result<(), VmError> {
    match device {
        Device::Fs { tag, socket } => {
            let path = line.path_of(process::open_place(&socket)?);
            line.option(
                "--fs",
                format!("tag={tag},socket={path},num_queues=1,queue_size={FS_QUEUE}"),
            );
        }
        // The VMM moves the packets itself: it does not know vhost-net.
        Device::Net {
            tap, mac, offload, ..
        } => {
            let fd = line.hand_over(tap);
            // It looks up by itself what the largest packet is, if the tap is in its namespace. If not, the guest
            // has room for the largest there is, as long as others may cut segments for it.
            let mut net = format!("fd=[{fd}],mac={mac}");
            if !offload {
                net.push_str(",offload_tso=off,offload_ufo=off,offload_csum=off");
            }
            line.option("--net", net);
        }
        Device::NetStream { .. } => {
            return Err(VmError::Unsupported {
                driver: super::NAME,
                what: "a network interface over a stream socket",
            });
        }
        Device::Rng => line.option("--rng", "src=/dev/urandom".to_owned()),
        Device::Balloon => line.option(
            "--balloon",
            "size=0,deflate_on_oom=on,free_page_reporting=on".to_owned(),
        ),
    }
    Ok(())
}

fn kernel_command_line(config: &VmConfig, memory: Memory) -> String {
    let own = "console=ttyS0 8250.nr_uarts=1 i8042.noaux i8042.nokbd";
    config.kernel_command_line(own, memory.limit_mib)
}

#[cfg(test)]
mod tests {
    use super::super::LAYOUT;
    use super::*;
    use crate::config::MachineSize;
    use crate::sample::{self, MAC, SIZE, fd, net, value};

    fn line(max: MachineSize, devices: Vec<Device>) -> Result<Vec<String>, VmError> {
        let config = sample::config(max, devices);
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
        Ok(build(config, memory, handed)?.arguments)
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
        for offload in [true, false] {
            let line = line(SIZE, vec![net(offload)]).unwrap();
            let value = value(&line, "--net");
            assert!(value.starts_with("fd=[") && value.contains("],mac=02:00:00:00:00:01"));
            assert_eq!(value.contains("offload_csum=off"), !offload);
        }
        let stream = Device::NetStream {
            socket: fd(),
            mac: MAC,
            mtu: 1400,
        };
        assert!(matches!(
            line(SIZE, vec![stream]),
            Err(VmError::Unsupported { .. })
        ));
    }
}
