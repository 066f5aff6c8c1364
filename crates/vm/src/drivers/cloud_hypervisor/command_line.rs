//! Cloud Hypervisor's command line, from a [`VmConfig`].

use std::os::fd::OwnedFd;

use crate::command_line::CommandLine;
use crate::config::{Boot, Device, GUEST_CID, VmConfig};
use crate::error::VmError;
use crate::memory::Memory;
use crate::process;

/// Requests that the file server takes at once, as with every other VMM.
const FS_QUEUE: u32 = 1024;

/// What the VMM is handed as open descriptors, so that it needs no right to open anything.
#[derive(Debug)]
pub(super) struct Handed {
    pub(super) memory: OwnedFd,
    pub(super) vsock_dir: OwnedFd,
    pub(super) outlet: OwnedFd,
    pub(super) api: OwnedFd,
    pub(super) console: OwnedFd,
    pub(super) events: OwnedFd,
}

/// What the guest boots.
#[derive(Debug)]
pub(super) struct Payload {
    kernel: OwnedFd,
    initramfs: OwnedFd,
}

impl Payload {
    pub(super) fn open(boot: &Boot) -> Result<Self, VmError> {
        Ok(Self {
            kernel: process::open_file(&boot.kernel)?,
            initramfs: process::open_file(&boot.initramfs)?,
        })
    }
}

/// The command line for a machine that boots.
pub(super) fn build(
    config: VmConfig,
    memory: Memory,
    payload: Payload,
    handed: Handed,
) -> Result<CommandLine, VmError> {
    let mut line = begin(handed.api, handed.events, handed.outlet);
    for (option, file) in [
        ("--kernel", payload.kernel),
        ("--initramfs", payload.initramfs),
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
    for (index, device) in config.devices.into_iter().enumerate() {
        add_device(&mut line, index, device)?;
    }
    Ok(line)
}

/// What does not depend on the machine.
pub(super) fn begin(api: OwnedFd, events: OwnedFd, outlet: OwnedFd) -> CommandLine {
    let mut line = CommandLine::default();
    let fd = line.hand_over(api);
    line.option("--api-socket", format!("fd={fd}"));
    let fd = line.hand_over(events);
    line.option("--event-monitor", format!("fd={fd}"));
    line.hand_over(outlet);
    line.option("--seccomp", "true".to_owned());
    line
}

/// What the network device is called that is the machine's device with this index.
pub(super) fn net_id(index: usize) -> String {
    format!("net{index}")
}

fn add_device(line: &mut CommandLine, index: usize, device: Device) -> Result<(), VmError> {
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
            let mut net = format!("id={},fd=[{fd}],mac={mac}", net_id(index));
            if !offload {
                net.push_str(",offload_tso=off,offload_ufo=off,offload_csum=off");
            }
            line.option("--net", net);
        }
        Device::NetStream { .. } => return Err(no_streams()),
        Device::Rng => line.option("--rng", "src=/dev/urandom".to_owned()),
        Device::Balloon => line.option(
            "--balloon",
            "size=0,deflate_on_oom=on,free_page_reporting=on".to_owned(),
        ),
    }
    Ok(())
}

/// It takes frames from taps only.
pub(super) fn no_streams() -> VmError {
    VmError::Unsupported {
        driver: super::NAME,
        what: "a network interface over a stream socket",
    }
}

fn kernel_command_line(config: &VmConfig, memory: Memory) -> String {
    let own = "console=ttyS0 8250.nr_uarts=1 i8042.noaux i8042.nokbd";
    config.kernel_command_line(own, memory.limit_mib)
}

/// Descriptors of nothing.
#[cfg(test)]
pub(super) fn sample_handed() -> Handed {
    use crate::sample::fd;
    Handed {
        memory: fd(),
        vsock_dir: fd(),
        outlet: fd(),
        api: fd(),
        console: fd(),
        events: fd(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::LAYOUT;
    use super::*;
    use crate::config::MachineSize;
    use crate::sample::{self, MAC, SIZE, fd, net, value};

    fn line(max: MachineSize, devices: Vec<Device>) -> Result<Vec<String>, VmError> {
        let config = sample::config(max, devices);
        let payload = Payload {
            kernel: fd(),
            initramfs: fd(),
        };
        let handed = sample_handed();
        let memory = Memory::new(config.size, config.max, LAYOUT);
        Ok(build(config, memory, payload, handed)?.arguments)
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
            assert!(value.starts_with("id=net0,fd=[") && value.contains("],mac=02:00:00:00:00:01"));
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
