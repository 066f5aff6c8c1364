//! The table of the settings.

use std::path::Path;

use crate::choice::Choice;
use crate::config::Config;
use crate::error::ValueError;
use crate::nearest::nearest_key;
use crate::size::Size;
use crate::value::{Value, quoted};

/// A setting.
#[derive(Debug)]
pub(crate) struct Setting {
    /// Its table and its key in it.
    pub(crate) key: &'static str,
    /// What it is, in one line.
    pub(crate) documentation: &'static str,
    /// Whether an annotation can be allowed to change it.
    pub(crate) annotation: bool,
    /// The annotation of Kata Containers with the same meaning.
    pub(crate) kata: Option<Kata>,
    /// Its value as TOML; nothing when it is not set.
    pub(crate) show: fn(&Config) -> Option<String>,
    /// Gives it a value.
    pub(crate) apply: fn(&mut Config, &Value) -> Result<(), ValueError>,
}

/// An annotation of Kata Containers.
#[derive(Debug)]
pub(crate) struct Kata {
    /// Its name.
    pub(crate) name: &'static str,
    /// What its text says in Hull's terms.
    pub(crate) read: fn(&str) -> Value,
}

/// The least memory that a guest boots with.
const LEAST_MEMORY: Size = Size::from_mib(64);
/// ext4 needs some for itself.
const LEAST_DISK: Size = Size::from_mib(1);

/// QEMU's machine has room for four interfaces.
const MOST_SPARE_INTERFACES: u32 = 3;

/// All settings, in the order in which they are shown.
pub(crate) static SETTINGS: &[Setting] = &[
    Setting {
        key: "vm.vmm",
        documentation: "what runs the virtual machine: \"qemu\", \"cloud-hypervisor\" or \"firecracker\"",
        annotation: true,
        kata: None,
        show: |config| Some(quoted(config.vm.vmm.name())),
        apply: |config, value| value.choice().map(|vmm| config.vm.vmm = vmm),
    },
    Setting {
        key: "vm.acceleration",
        documentation: "\"kvm\", \"tcg\" (QEMU's translator), or \"auto\": KVM where it works, else the translator",
        annotation: true,
        kata: None,
        show: |config| Some(quoted(config.vm.acceleration.name())),
        apply: |config, value| value.choice().map(|chosen| config.vm.acceleration = chosen),
    },
    Setting {
        key: "vm.file_sharing",
        documentation: "how the guest reaches the host's files: \"virtio-fs\", \"vsock\" (FUSE over vsock, slower), or \"auto\": virtio-fs where the VMM has it",
        annotation: true,
        kata: None,
        show: |config| Some(quoted(config.vm.file_sharing.name())),
        apply: |config, value| value.choice().map(|chosen| config.vm.file_sharing = chosen),
    },
    Setting {
        key: "vm.start",
        documentation: "how a guest comes up: \"boot\", or \"template\", from a snapshot of one that has booted",
        annotation: true,
        kata: None,
        show: |config| Some(quoted(config.vm.start.name())),
        apply: |config, value| value.choice().map(|start| config.vm.start = start),
    },
    Setting {
        key: "vm.template_dir",
        documentation: "the directory with such snapshots, an absolute path; without it `templates` in Hull's data",
        annotation: true,
        kata: None,
        show: |config| config.vm.template_dir.as_deref().map(path),
        apply: |config, value| value.path().map(|path| config.vm.template_dir = Some(path)),
    },
    Setting {
        key: "vm.vcpus",
        documentation: "virtual CPUs of a pod whose limits do not say, 1 to 64",
        annotation: true,
        kata: Some(Kata {
            name: "io.katacontainers.config.hypervisor.default_vcpus",
            read: kata_vcpus,
        }),
        show: |config| Some(config.vm.vcpus.to_string()),
        apply: |config, value| value.integer(1, 64).map(|vcpus| config.vm.vcpus = vcpus),
    },
    Setting {
        key: "vm.memory",
        documentation: "guest memory of a pod whose limits do not say, 64MiB or more",
        annotation: true,
        kata: Some(Kata {
            name: "io.katacontainers.config.hypervisor.default_memory",
            read: kata_memory,
        }),
        show: |config| Some(size(config.vm.memory)),
        apply: |config, value| {
            value
                .size_from(LEAST_MEMORY)
                .map(|size| config.vm.memory = size)
        },
    },
    Setting {
        key: "vm.max_vcpus",
        documentation: "virtual CPUs that a pod grows to at most, 1 to 64, as far as the host has them",
        annotation: true,
        kata: Some(Kata {
            name: "io.katacontainers.config.hypervisor.default_max_vcpus",
            read: kata_max_vcpus,
        }),
        show: |config| Some(config.vm.max_vcpus.to_string()),
        apply: |config, value| {
            value
                .integer(1, 64)
                .map(|vcpus| config.vm.max_vcpus = vcpus)
        },
    },
    Setting {
        key: "vm.max_memory",
        documentation: "guest memory that a pod grows to at most, 64MiB or more",
        annotation: true,
        kata: None,
        show: |config| Some(size(config.vm.max_memory)),
        apply: |config, value| {
            value
                .size_from(LEAST_MEMORY)
                .map(|size| config.vm.max_memory = size)
        },
    },
    Setting {
        key: "vm.memory_overhead",
        documentation: "what a guest gets beside its containers' memory limits",
        annotation: true,
        kata: None,
        show: |config| Some(size(config.vm.memory_overhead)),
        apply: |config, value| value.size().map(|size| config.vm.memory_overhead = size),
    },
    Setting {
        key: "vm.host_memory_overhead",
        documentation: "what a pod that is one container may take of the host beside its guest's memory",
        annotation: true,
        kata: None,
        show: |config| Some(size(config.vm.host_memory_overhead)),
        apply: |config, value| {
            value
                .size()
                .map(|size| config.vm.host_memory_overhead = size)
        },
    },
    Setting {
        key: "root.kind",
        documentation: "a container's root: \"shared\", the host's directory, or \"image\", which the guest mounts: an EROFS image and a layer of its own over it, or the container's own file system",
        annotation: true,
        kata: None,
        show: |config| Some(quoted(config.root.kind.name())),
        apply: |config, value| value.choice().map(|kind| config.root.kind = kind),
    },
    Setting {
        key: "root.cache_dir",
        documentation: "the directory with images of roots, an absolute path; without it `root-images` in Hull's data",
        annotation: true,
        kata: None,
        show: |config| config.root.cache_dir.as_deref().map(path),
        apply: |config, value| value.path().map(|path| config.root.cache_dir = Some(path)),
    },
    Setting {
        key: "root.cache_size",
        documentation: "how much of the disk images of roots take together as far as no pod uses them",
        annotation: true,
        kata: None,
        show: |config| Some(size(config.root.cache_size)),
        apply: |config, value| value.size().map(|size| config.root.cache_size = size),
    },
    Setting {
        key: "root.disk_size",
        documentation: "how much may be written over an image, to a disk that grows with it; 0: the guest's memory takes it",
        annotation: true,
        kata: None,
        show: |config| Some(size(config.root.disk_size)),
        apply: |config, value| {
            let size = value.size()?;
            config.root.disk_size = match size.bytes() {
                0 => size,
                _ => value.size_from(LEAST_DISK)?,
            };
            Ok(())
        },
    },
    Setting {
        key: "guest.kernel",
        documentation: "the guest's kernel, an absolute path; without it the one beside the program",
        annotation: true,
        kata: Some(Kata {
            name: "io.katacontainers.config.hypervisor.kernel",
            read: |text| Value::Text(text.into()),
        }),
        show: |config| config.guest.kernel.as_deref().map(path),
        apply: |config, value| value.path().map(|path| config.guest.kernel = Some(path)),
    },
    Setting {
        key: "guest.initramfs",
        documentation: "the guest's first file system, an absolute path; without it the one beside the program",
        annotation: true,
        kata: Some(Kata {
            name: "io.katacontainers.config.hypervisor.initrd",
            read: |text| Value::Text(text.into()),
        }),
        show: |config| config.guest.initramfs.as_deref().map(path),
        apply: |config, value| value.path().map(|path| config.guest.initramfs = Some(path)),
    },
    Setting {
        key: "network.spare_interfaces",
        documentation: "how many interfaces a pod of an engine can get after its start, 0 to 3",
        annotation: true,
        kata: None,
        show: |config| Some(config.network.spare_interfaces.to_string()),
        apply: |config, value| {
            value
                .integer(0, MOST_SPARE_INTERFACES)
                .map(|count| config.network.spare_interfaces = count)
        },
    },
    Setting {
        key: "annotations.allow",
        documentation: "keys of the settings that a pod's annotations may change",
        annotation: false,
        kata: None,
        show: |config| {
            let keys: Vec<String> = config
                .annotations
                .allow
                .iter()
                .map(|key| quoted(key))
                .collect();
            Some(format!("[{}]", keys.join(", ")))
        },
        apply: |config, value| allowed_keys(value).map(|keys| config.annotations.allow = keys),
    },
    Setting {
        key: "log.level",
        documentation: "how much the pod process logs: \"error\", \"warn\", \"info\", \"debug\", \"trace\"",
        annotation: true,
        kata: None,
        show: |config| Some(quoted(config.log.level.name())),
        apply: |config, value| value.choice().map(|level| config.log.level = level),
    },
];

/// The setting with this key.
pub(crate) fn setting(key: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.key == key)
}

/// The keys of all settings.
pub(crate) fn keys() -> impl Iterator<Item = &'static str> {
    SETTINGS.iter().map(|setting| setting.key)
}

/// The tables that hold the settings, each once for each of its settings.
pub(crate) fn tables() -> impl Iterator<Item = &'static str> {
    keys().filter_map(|key| Some(key.rsplit_once('.')?.0))
}

fn size(size: Size) -> String {
    let text = size.to_string();
    // Bytes are an integer.
    if text.ends_with('B') {
        quoted(&text)
    } else {
        text
    }
}

fn path(path: &Path) -> String {
    quoted(&path.to_string_lossy())
}

fn allowed_keys(value: &Value) -> Result<Vec<&'static str>, ValueError> {
    let texts = value.texts().ok_or(ValueError::Keys)?;
    let known = texts.into_iter().map(|text| match setting(text) {
        Some(setting) if setting.annotation => Ok(setting.key),
        Some(setting) => Err(ValueError::NeverAnnotation(setting.key)),
        None => Err(ValueError::NoSuchKey {
            key: text.into(),
            nearest: nearest_key(text),
        }),
    });
    known.collect()
}

/// Kata Containers gives a guest the next whole number of CPUs.
fn kata_vcpus(text: &str) -> Value {
    match text.split_once('.') {
        Some((whole, part)) => match (whole.parse::<u32>(), part.parse::<u32>()) {
            (Ok(whole), Ok(part)) => Value::Integer(i64::from(whole) + i64::from(part > 0)),
            _ => Value::Text(text.into()),
        },
        None => Value::from_annotation(text),
    }
}

/// 0 is all that the host has to Kata Containers.
fn kata_max_vcpus(text: &str) -> Value {
    match Value::from_annotation(text) {
        Value::Integer(0) => Value::Integer(64),
        other => other,
    }
}

/// Kata Containers counts in MiB when there is no unit.
fn kata_memory(text: &str) -> Value {
    match Value::from_annotation(text) {
        Value::Integer(mib) => Value::Text(format!("{mib}MiB")),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn katas_annotations_are_documented_with_what_they_set() {
        let page = include_str!("../../../docs/configuration.md");
        for setting in SETTINGS {
            let Some(kata) = &setting.kata else { continue };
            let row = format!("| `{}` | `{}`", kata.name, setting.key);
            assert!(page.contains(&row), "missing: {row}");
        }
    }
}
