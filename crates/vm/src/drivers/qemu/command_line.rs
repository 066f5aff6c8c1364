//! QEMU's command line, from a [`VmConfig`].

use std::fmt::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use crate::accel::Accelerator;
use crate::command_line::CommandLine;
use crate::config::{Device, VmConfig};
use crate::error::VmError;
use crate::memory::Memory;
use crate::process;

use super::clock;

/// What QEMU keeps of translated instructions, MiB. Its own choice is a GiB: a guest that runs many programs fills
/// it, and is killed for it where the host limits what a pod uses. 188 programs in turn took
/// 126 s with 96 MiB and 129 s with 192, once each.
const TRANSLATED_MIB: u32 = 128;

/// What a network device offers its guest unless told otherwise: checksums and segmentation that the other side
/// does, in both directions. `guest_uso4` and their like are newer than the oldest QEMU here; without checksums they are
/// of no effect.
const OFFLOADS: [&str; 11] = [
    "csum",
    "guest_csum",
    "gso",
    "guest_tso4",
    "guest_tso6",
    "guest_ecn",
    "guest_ufo",
    "host_tso4",
    "host_tso6",
    "host_ecn",
    "host_ufo",
];

/// The sockets in a machine's directory.
#[derive(Debug)]
pub(super) struct Sockets {
    pub(super) qmp: PathBuf,
    pub(super) console: PathBuf,
    pub(super) vsock_vhost: PathBuf,
}

impl Sockets {
    pub(super) fn in_dir(run_dir: &Path) -> Self {
        Self {
            qmp: run_dir.join("qmp.sock"),
            console: run_dir.join("console.sock"),
            vsock_vhost: run_dir.join("vsock-vhost.sock"),
        }
    }
}

/// What QEMU is handed as open descriptors, so that it needs no right to open anything.
#[derive(Debug)]
pub(super) struct Handed {
    kernel: OwnedFd,
    initramfs: OwnedFd,
    memory: OwnedFd,
    vsock: OwnedFd,
    qmp_listener: OwnedFd,
    console_listener: OwnedFd,
}

impl Handed {
    pub(super) fn open(
        config: &VmConfig,
        memory: OwnedFd,
        sockets: &Sockets,
        qmp_listener: OwnedFd,
        console_listener: OwnedFd,
    ) -> Result<Self, VmError> {
        Ok(Self {
            kernel: process::open_file(&config.boot.kernel)?,
            initramfs: process::open_file(&config.boot.initramfs)?,
            memory,
            vsock: connect(&sockets.vsock_vhost)?,
            qmp_listener,
            console_listener,
        })
    }
}

/// A connection to a back end that listens already.
fn connect(path: &Path) -> Result<OwnedFd, VmError> {
    let stream = UnixStream::connect(path);
    let stream = stream.map_err(VmError::host(format!("connect to {}", path.display())))?;
    Ok(stream.into())
}

/// The command line for this machine.
pub(super) fn build(
    config: VmConfig,
    memory: Memory,
    accelerator: Accelerator,
    handed: Handed,
) -> Result<CommandLine, VmError> {
    let mut line = CommandLine::default();
    let file = line.path_of(handed.memory);
    add_machine(&mut line, &config, memory, &file, accelerator);
    for (option, file) in [("-kernel", handed.kernel), ("-initrd", handed.initramfs)] {
        let path = line.path_of(file);
        line.option(option, path);
    }
    line.option("-append", kernel_command_line(&config, memory, accelerator));
    let fd = line.hand_over(handed.console_listener);
    line.option(
        "-chardev",
        format!("socket,id=console,fd={fd},server=on,wait=on"),
    );
    line.option("-serial", "chardev:console".to_owned());
    let fd = line.hand_over(handed.qmp_listener);
    line.option(
        "-chardev",
        format!("socket,id=qmp,fd={fd},server=on,wait=off"),
    );
    line.option("-mon", "chardev=qmp,mode=control".to_owned());
    add_vhost_user(&mut line, "vsock", handed.vsock, "vhost-user-vsock-device");
    for (index, device) in config.devices.into_iter().enumerate() {
        add_device(&mut line, index, device, accelerator)?;
    }
    Ok(line)
}

/// A device whose other half is a process of ours.
fn add_vhost_user(line: &mut CommandLine, id: &str, socket: OwnedFd, device: &str) {
    let fd = line.hand_over(socket);
    line.option("-chardev", format!("socket,id={id},fd={fd}"));
    line.option("-device", format!("{device},chardev={id}"));
}

fn add_machine(
    line: &mut CommandLine,
    config: &VmConfig,
    memory: Memory,
    file: &str,
    accelerator: Accelerator,
) {
    // Under KVM the guest has the paravirtual clock. TCG's guest takes the time from the RTC, for
    // which it would wait a second if there were none.
    let (rtc, accel, cpu) = match accelerator {
        Accelerator::Kvm => ("off", "kvm".to_owned(), "host"),
        Accelerator::Tcg => {
            let accel = format!("tcg,thread=multi,tb-size={TRANSLATED_MIB}");
            ("on", accel, "max")
        }
    };
    for flag in ["-nodefaults", "-no-user-config", "-no-reboot"] {
        line.arguments.push(flag.to_owned());
    }
    line.option("-name", format!("hull-{}", config.id));
    line.option(
        "-machine",
        format!(
            "microvm,acpi=off,x-option-roms=off,rtc={rtc},pit=off,pic=off,\
                 isa-serial=on,memory-backend=ram"
        ),
    );
    // virtio 1.0, which the back ends speak, not the drafts before it.
    line.option("-global", "virtio-mmio.force-legacy=false".to_owned());
    line.option("-accel", accel);
    line.option("-cpu", cpu.to_owned());
    line.option("-smp", config.max.vcpus.to_string());
    line.option("-m", format!("{}M", memory.total_mib));
    // vhost-user back ends map the guest's memory, so it is shared.
    line.option(
        "-object",
        format!(
            "memory-backend-file,id=ram,size={}M,share=on,mem-path={file}",
            memory.total_mib
        ),
    );
    line.option("-display", "none".to_owned());
    line.option(
        "-sandbox",
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny".to_owned(),
    );
}

fn add_device(
    line: &mut CommandLine,
    index: usize,
    device: Device,
    accelerator: Accelerator,
) -> Result<(), VmError> {
    match device {
        Device::Fs { tag, socket } => {
            let device = format!("vhost-user-fs-device,tag={tag},queue-size=1024");
            add_vhost_user(line, &format!("fs{index}"), connect(&socket)?, &device);
        }
        Device::Net {
            tap,
            vhost,
            mac,
            mtu,
            offload,
        } => {
            let fd = line.hand_over(tap);
            let mut netdev = format!("tap,id=net{index},fd={fd}");
            // A translated guest's interrupts are QEMU's own affair.
            if let Some(vhost) = vhost.filter(|_| accelerator == Accelerator::Kvm) {
                let fd = line.hand_over(vhost);
                write!(netdev, ",vhost=on,vhostfd={fd}").expect("a String takes everything");
            }
            line.option("-netdev", netdev);
            let mut device =
                format!("virtio-net-device,netdev=net{index},mac={mac},host_mtu={mtu}");
            if !offload {
                device.extend(OFFLOADS.map(|name| format!(",{name}=off")));
            }
            line.option("-device", device);
        }
        Device::NetStream { socket, mac, mtu } => {
            let fd = line.hand_over(socket);
            line.option(
                "-netdev",
                format!("stream,id=net{index},server=off,addr.type=fd,addr.str={fd}"),
            );
            line.option(
                "-device",
                format!("virtio-net-device,netdev=net{index},mac={mac},host_mtu={mtu}"),
            );
        }
        Device::Rng => {
            line.option(
                "-object",
                format!("rng-random,id=rng{index},filename=/dev/urandom"),
            );
            line.option("-device", format!("virtio-rng-device,rng=rng{index}"));
        }
        Device::Balloon => line.option(
            "-device",
            "virtio-balloon-device,deflate-on-oom=on,free-page-reporting=on".to_owned(),
        ),
    }
    Ok(())
}

fn kernel_command_line(config: &VmConfig, memory: Memory, accelerator: Accelerator) -> String {
    // reboot=t: a triple fault ends the VMM (-no-reboot), as there is no ACPI to power off with.
    let mut own = "console=ttyS0 8250.nr_uarts=1 acpi=off pci=off reboot=t i8042.noaux i8042.nokbd"
        .to_owned();
    if accelerator == Accelerator::Tcg {
        // The counter is the host's. Left to compare it with its timer, whose ticks are late when the
        // host is busy, the guest would believe the timer: its time would run slow and coarse.
        let khz = clock::tsc_khz();
        write!(own, " tsc_early_khz={khz} tsc=reliable no_timer_check")
            .expect("a string takes any text");
        // The APIC's timer counts nanoseconds. And what costs time at boot and brings nothing here: with
        // one CPU, replacing code that has been translated already.
        own.push_str(" lapic_timer_khz=1000000 noreplace-smp");
    }
    config.kernel_command_line(&own, memory.limit_mib)
}

#[cfg(test)]
mod tests {
    use super::super::LAYOUT;
    use super::*;
    use crate::config::MachineSize;
    use crate::sample::{self, SIZE, fd, net, value};

    fn arguments(devices: Vec<Device>, accelerator: Accelerator) -> Vec<String> {
        growing(SIZE, devices, accelerator)
    }

    fn growing(max: MachineSize, devices: Vec<Device>, accelerator: Accelerator) -> Vec<String> {
        let config = sample::config(max, devices);
        let handed = Handed {
            kernel: fd(),
            initramfs: fd(),
            memory: fd(),
            vsock: fd(),
            qmp_listener: fd(),
            console_listener: fd(),
        };
        let memory = Memory::new(config.size, config.max, LAYOUT);
        build(config, memory, accelerator, handed)
            .unwrap()
            .arguments
    }

    #[test]
    fn tcg_is_told_the_counter_frequency_and_kvm_is_not() {
        let tcg = arguments(vec![], Accelerator::Tcg);
        assert!(value(&tcg, "-append").contains("tsc_early_khz="));
        assert!(value(&tcg, "-append").ends_with(" extra=1"));
        assert_eq!(value(&tcg, "-accel"), "tcg,thread=multi,tb-size=128");
        let kvm = arguments(vec![], Accelerator::Kvm);
        assert!(!value(&kvm, "-append").contains("tsc_early_khz="));
        assert_eq!(value(&kvm, "-cpu"), "host");
    }

    #[test]
    fn the_kernel_moves_packets_only_under_kvm() {
        for (accelerator, kernel) in [(Accelerator::Kvm, true), (Accelerator::Tcg, false)] {
            let line = arguments(vec![net(true)], accelerator);
            assert_eq!(value(&line, "-netdev").contains("vhostfd="), kernel);
        }
    }

    #[test]
    fn a_guest_does_its_work_itself_where_nobody_does_it_for_it() {
        for offload in [true, false] {
            let line = arguments(vec![net(offload)], Accelerator::Kvm);
            let device = line
                .iter()
                .find(|argument| argument.starts_with("virtio-net-device"))
                .unwrap();
            let off: Vec<&str> = device
                .split(',')
                .filter(|it| it.ends_with("=off"))
                .collect();
            assert_eq!(off.is_empty(), offload, "{device}");
            assert_eq!(off.contains(&"csum=off"), !offload, "{device}");
            assert_eq!(off.contains(&"host_tso4=off"), !offload, "{device}");
        }
    }

    #[test]
    fn memory_is_shared_for_the_back_ends() {
        let line = arguments(vec![], Accelerator::Kvm);
        assert!(
            line.iter()
                .any(|argument| argument.contains("size=256M,share=on"))
        );
    }

    #[test]
    fn what_a_guest_grows_into_it_leaves_alone_at_boot() {
        let max = MachineSize {
            vcpus: 4,
            memory_mib: 1024,
        };
        let line = growing(max, vec![], Accelerator::Kvm);
        assert_eq!((value(&line, "-smp"), value(&line, "-m")), ("4", "1024M"));
        assert!(value(&line, "-append").contains(" maxcpus=2 mem=256M "));
        let line = arguments(vec![], Accelerator::Kvm);
        assert_eq!((value(&line, "-smp"), value(&line, "-m")), ("2", "256M"));
        let append = value(&line, "-append");
        assert!(!append.contains("maxcpus=") && !append.contains(" mem="));
    }

    #[test]
    fn files_and_sockets_come_as_descriptors_not_as_paths() {
        let line = arguments(vec![], Accelerator::Kvm);
        for option in ["-kernel", "-initrd"] {
            assert!(value(&line, option).starts_with("/proc/self/fd/"));
        }
        assert!(
            !line.iter().any(|argument| argument.contains("/run/x")),
            "{line:?}"
        );
    }
}
