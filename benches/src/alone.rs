//! The VMMs on their own, with Hull's kernel and a machine as large as Hull's: how long a boot to PID 1 takes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use hull_vm::Vmm;
use serde_json::json;

use crate::init;
use crate::pod::{Pod, Process};
use crate::timing;

/// Options of hull's QEMU that belong to a device or name a descriptor, or that are given otherwise
/// here. Everything else stays: the machine, its accelerator, CPUs, memory and kernel arguments.
const REPLACED: [&str; 8] = [
    "-kernel", "-initrd", "-chardev", "-serial", "-mon", "-device", "-netdev", "-name",
];

/// A command line to boot with.
#[derive(Debug)]
pub(crate) struct Alone {
    program: PathBuf,
    arguments: Vec<String>,
}

/// What is booted.
#[derive(Debug)]
struct Payload {
    kernel: String,
    initramfs: String,
    /// The kernel's command line, as Hull has it for this VMM.
    arguments: String,
}

impl Payload {
    /// As in `pod`; the initramfs is written to `dir`.
    fn like(pod: &Pod<'_>, dir: &Path) -> Result<Self> {
        let arguments = timing::output(&mut pod.exec(&[], &["cat", "/proc/cmdline"]))?;
        // Devices are told by the VMM, and how much memory is there at first is the agent's.
        let kept = arguments
            .split_whitespace()
            .filter(|word| !word.starts_with("virtio_mmio.") && !word.starts_with("mem="));
        let initramfs = dir.join("bench-initramfs.img");
        fs::write(&initramfs, init::initramfs()).context("cannot write the initramfs")?;
        Ok(Self {
            kernel: text(&harness::guest().join("vmlinux")),
            initramfs: text(&initramfs),
            arguments: kept.collect::<Vec<_>>().join(" "),
        })
    }
}

impl Alone {
    /// The QEMU of `pod` with the same machine, but its devices. Files are written to `dir`.
    pub(crate) fn qemu(pod: &Pod<'_>, dir: &Path) -> Result<Self> {
        let hulls = pod.vmm(Vmm::Qemu)?;
        Ok(Self {
            program: program(hulls)?,
            arguments: qemu(hulls, Payload::like(pod, dir)?),
        })
    }

    /// The same for `vmm`, which is that of `pod`; others than QEMU have a machine of one CPU and this memory.
    pub(crate) fn like(pod: &Pod<'_>, vmm: Vmm, memory_mib: u32, dir: &Path) -> Result<Self> {
        let arguments = match vmm {
            Vmm::Qemu => return Self::qemu(pod, dir),
            Vmm::CloudHypervisor => cloud_hypervisor(Payload::like(pod, dir)?, memory_mib),
            Vmm::Firecracker => {
                let file = dir.join("bench-firecracker.json");
                let json = firecracker(&Payload::like(pod, dir)?, memory_mib);
                fs::write(&file, json.to_string())
                    .with_context(|| format!("cannot write {}", file.display()))?;
                vec![
                    "--no-api".to_owned(),
                    "--config-file".to_owned(),
                    text(&file),
                ]
            }
        };
        Ok(Self {
            program: program(pod.vmm(vmm)?)?,
            arguments,
        })
    }

    /// Boots once, to the first word of PID 1.
    pub(crate) fn boot(&self) -> Result<Duration> {
        let mut command = Command::new(&self.program);
        timing::to_output(command.args(&self.arguments), init::LINE)
    }
}

fn program(process: &Process) -> Result<PathBuf> {
    let link = format!("/proc/{}/exe", process.pid);
    fs::read_link(&link).with_context(|| format!("cannot read {link}"))
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn cloud_hypervisor(payload: Payload, memory_mib: u32) -> Vec<String> {
    let options = [
        ("--kernel", payload.kernel),
        ("--initramfs", payload.initramfs),
        ("--cmdline", payload.arguments),
        ("--cpus", "boot=1".to_owned()),
        ("--memory", format!("size={memory_mib}M")),
        ("--serial", "tty".to_owned()),
        ("--console", "off".to_owned()),
    ];
    let words = options.map(|(option, value)| [option.to_owned(), value]);
    words.into_iter().flatten().collect()
}

fn firecracker(payload: &Payload, memory_mib: u32) -> serde_json::Value {
    json!({
        "boot-source": {
            "kernel_image_path": payload.kernel,
            "initrd_path": payload.initramfs,
            "boot_args": payload.arguments,
        },
        "machine-config": { "vcpu_count": 1, "mem_size_mib": memory_mib },
        "drives": [],
    })
}

fn qemu(hulls: &Process, payload: Payload) -> Vec<String> {
    let mut arguments = machine_options(&hulls.arguments);
    for (option, value) in [
        ("-kernel", payload.kernel),
        ("-initrd", payload.initramfs),
        ("-chardev", "stdio,id=console,signal=off".to_owned()),
        ("-serial", "chardev:console".to_owned()),
    ] {
        arguments.extend([option.to_owned(), value]);
    }
    arguments
}

fn machine_options(all: &[String]) -> Vec<String> {
    let mut kept: Vec<String> = Vec::new();
    let mut words = all.iter().peekable();
    while let Some(option) = words.next() {
        let value = words.next_if(|word| !word.starts_with('-'));
        let memory = value.is_some_and(|value| value.starts_with("memory-backend"));
        if REPLACED.contains(&option.as_str()) || (option == "-object" && !memory) {
            continue;
        }
        kept.push(option.clone());
        kept.extend(value.map(|value| own_memory(value)));
    }
    kept
}

/// Hull hands QEMU a file for the guest's memory; here QEMU makes the same by itself.
fn own_memory(value: &str) -> String {
    let parts = value
        .split(',')
        .filter(|part| !part.starts_with("mem-path="));
    let parts: Vec<_> = parts.collect();
    parts
        .join(",")
        .replace("memory-backend-file", "memory-backend-memfd")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_stays_and_its_devices_go() {
        let words = |line: &str| -> Vec<String> { line.split(' ').map(str::to_owned).collect() };
        let hulls = "-no-reboot -machine microvm -kernel /proc/self/fd/7 -object memory-backend-file,id=ram,mem-path=/x \
                     -object rng-random,id=r -device virtio-rng-device -accel tcg -serial chardev:console";
        assert_eq!(
            machine_options(&words(hulls)),
            words("-no-reboot -machine microvm -object memory-backend-memfd,id=ram -accel tcg")
        );
    }
}
