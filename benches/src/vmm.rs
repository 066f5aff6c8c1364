//! The VMM on its own, as hull starts it but for the devices: how long a boot to PID 1 takes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::init;
use crate::pod::Process;
use crate::timing::{self, Times};

/// Options of hull's VMM that belong to a device or name a descriptor, or that are given otherwise
/// here. Everything else stays: the machine, its accelerator, CPUs, memory and kernel arguments.
const REPLACED: [&str; 8] = [
    "-kernel", "-initrd", "-chardev", "-serial", "-mon", "-device", "-netdev", "-name",
];

/// A command line to boot with.
#[derive(Debug)]
pub(crate) struct Vmm {
    program: PathBuf,
    arguments: Vec<String>,
    pub(crate) accelerator: String,
}

impl Vmm {
    /// What `hulls` was started with, but its devices; the initramfs is written to `dir`.
    pub(crate) fn like(hulls: &Process, dir: &Path) -> Result<Self> {
        let of_process = |name: &str| {
            let path = format!("/proc/{}/{name}", hulls.pid);
            fs::read_link(&path).with_context(|| format!("cannot read {path}"))
        };
        // The kernel was handed over as an open file: /proc/self/fd/N.
        let descriptor = hulls.value("-kernel")?.rsplit('/').next();
        let kernel = of_process(&format!("fd/{}", descriptor.unwrap_or_default()))?;
        let initramfs = dir.join("bench-initramfs.img");
        fs::write(&initramfs, init::initramfs()).context("cannot write the initramfs")?;

        let mut arguments = machine_options(&hulls.arguments);
        let path = |path: PathBuf| path.to_string_lossy().into_owned();
        for (option, value) in [
            ("-kernel", path(kernel)),
            ("-initrd", path(initramfs)),
            ("-chardev", "stdio,id=console,signal=off".to_owned()),
            ("-serial", "chardev:console".to_owned()),
        ] {
            arguments.extend([option.to_owned(), value]);
        }
        Ok(Self {
            program: of_process("exe")?,
            arguments,
            accelerator: hulls.value("-accel")?.to_owned(),
        })
    }

    /// Boots once.
    pub(crate) fn boot(&self) -> Result<Times> {
        let mut command = Command::new(&self.program);
        timing::until_output(command.args(&self.arguments), init::LINE)
    }
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
