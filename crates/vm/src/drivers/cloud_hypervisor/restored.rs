//! How Cloud Hypervisor is started to go on from a snapshot (`docs/snapshot_restore.md` of its sources).
//!
//! The snapshot has the machine's configuration as the VMM had it, with the numbers of descriptors that it was handed.
//! The restored one gets a configuration of its own, with new ones, beside links to the snapshot's other files.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::command_line::CommandLine;
use crate::config::{Device, VmConfig};
use crate::confine::Identity;
use crate::error::VmError;
use crate::process;
use crate::snapshot::Snapshot;

use super::command_line::{Handed, begin, net_id, no_streams};

/// Its configuration of the machine.
const CONFIG: &str = "config.json";
/// The state of its devices and virtual CPUs.
const STATE: &str = "state.json";
/// The guest's memory.
const MEMORY: &str = "memory-ranges";
/// What it writes.
pub(super) const FILES: [&str; 3] = [CONFIG, STATE, MEMORY];

/// The directory that takes the snapshot's place for the VMM.
fn dir(run_dir: &Path) -> PathBuf {
    run_dir.join("restored")
}

/// The command line for a machine that goes on from `snapshot`, and what it finds.
pub(super) fn build(
    config: VmConfig,
    snapshot: &Snapshot,
    handed: Handed,
    identity: Identity,
) -> Result<CommandLine, VmError> {
    let dir = dir(&config.run_dir);
    let cannot = || VmError::host(format!("prepare {}", dir.display()));
    std::fs::create_dir(&dir).map_err(cannot())?;
    let mut line = begin(handed.api, handed.events, handed.outlet);
    for name in [STATE, MEMORY] {
        let path = line.path_of(snapshot.file(name)?);
        symlink(path, dir.join(name)).map_err(cannot())?;
    }
    let places = Places {
        memory: line.path_of(handed.memory),
        console: line.path_of(handed.console),
        vsock: {
            let dir = line.path_of(handed.vsock_dir);
            format!("{dir}/{}", config.vsock_name())
        },
    };
    let written = read(snapshot.file(CONFIG)?);
    let moved = written.and_then(|written| places.put_into(written).ok_or_else(unknown));
    let moved = moved.map_err(|source| snapshot.damaged(source))?;
    std::fs::write(dir.join(CONFIG), moved.to_string()).map_err(cannot())?;
    identity.give_all(&dir)?;
    let mut source = format!(
        "source_url=file://{},resume=true",
        line.path_of(process::open_place(&dir)?)
    );
    let nets = nets(&mut line, config.devices)?;
    if !nets.is_empty() {
        source.push_str(&format!(",net_fds=[{}]", nets.join(",")));
    }
    line.option("--restore", source);
    Ok(line)
}

/// The descriptors of the machine's taps, by the names of their devices.
fn nets(line: &mut CommandLine, devices: Vec<Device>) -> Result<Vec<String>, VmError> {
    let mut nets = Vec::new();
    for (index, device) in devices.into_iter().enumerate() {
        match device {
            Device::Net { tap, .. } => {
                let fd = line.hand_over(tap);
                nets.push(format!("{}@[{fd}]", net_id(index)));
            }
            Device::NetStream { .. } => return Err(no_streams()),
            Device::Fs { .. } | Device::Rng | Device::Balloon => {}
        }
    }
    Ok(nets)
}

/// Longest configuration, bytes. A VMM in its guest's hands may have written it.
const MAX_CONFIG: u64 = 1 << 20;

fn read(file: OwnedFd) -> io::Result<Value> {
    use std::io::Read;
    let file = std::fs::File::from(file).take(MAX_CONFIG);
    Ok(serde_json::from_reader(io::BufReader::new(file))?)
}

fn unknown() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("{CONFIG} is not that of a machine of ours"),
    )
}

/// What the VMM opens by its path.
#[derive(Debug)]
struct Places {
    memory: String,
    console: String,
    vsock: String,
}

impl Places {
    /// The configuration with these places in it, if it has such places.
    fn put_into(self, mut config: Value) -> Option<Value> {
        *config.pointer_mut("/memory/zones/0/file")? = self.memory.into();
        *config.pointer_mut("/serial/file")? = self.console.into();
        *config.pointer_mut("/vsock/socket")? = self.vsock.into();
        // It was loaded long ago, but the VMM would look for it.
        let payload = config.pointer_mut("/payload")?.as_object_mut()?;
        payload.remove("initramfs");
        Some(config)
    }
}

/// A snapshot that the VMM could have written of such a machine.
#[cfg(test)]
pub(super) fn sample(dir: &Path, config: &VmConfig) -> Snapshot {
    let old = serde_json::json!({
        "memory": {"size": 0, "zones": [{"id": "ram", "size": 1, "file": "/proc/self/fd/old"}]},
        "payload": {"kernel": "/x", "initramfs": "/proc/self/fd/old"},
        "serial": {"mode": "File", "file": "/proc/self/fd/old"},
        "vsock": {"cid": 3, "socket": "/proc/self/fd/old/guest.sock"},
        "net": [{"id": "net1", "fds": [-1]}],
    });
    let files = [(CONFIG, old.to_string()), (STATE, String::new())];
    let files = files.into_iter().chain([(MEMORY, String::new())]);
    crate::snapshot::written(dir, super::NAME, config, files)
}

#[cfg(test)]
mod tests {
    use super::super::command_line::sample_handed;
    use super::*;
    use crate::sample::{self, SIZE, net, value};
    use crate::snapshot::written;

    #[test]
    fn it_finds_everything_in_its_new_place() {
        let dir = tempfile::tempdir().unwrap();
        let config = sample::config_in(dir.path(), SIZE, vec![Device::Rng, net(true)]);
        let snapshot = super::sample(&dir.path().join("taken"), &config);
        let line = build(config, &snapshot, sample_handed(), Identity::Bare).unwrap();
        let source = value(&line.arguments, "--restore");
        assert!(
            source.starts_with("source_url=file:///proc/self/fd/"),
            "{source}"
        );
        assert!(source.contains(",resume=true,net_fds=[net1@["), "{source}");
        let restored = super::dir(dir.path());
        let config = std::fs::read_to_string(restored.join(CONFIG)).unwrap();
        assert!(!config.contains("/proc/self/fd/old"), "{config}");
        for name in [STATE, MEMORY] {
            let link = std::fs::read_link(restored.join(name)).unwrap();
            assert!(link.starts_with("/proc/self/fd"), "{link:?}");
        }
    }

    #[test]
    fn a_configuration_of_another_kind_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let config = sample::config_in(dir.path(), SIZE, vec![]);
        for text in ["", "{}", "[1]"] {
            let files = [(CONFIG, text), (STATE, ""), (MEMORY, "")];
            let files = files.map(|(name, text)| (name, text.to_owned()));
            let taken = dir.path().join("taken");
            let snapshot = written(&taken, super::super::NAME, &config, files);
            let again = sample::config_in(dir.path(), SIZE, vec![]);
            let error = build(again, &snapshot, sample_handed(), Identity::Bare).unwrap_err();
            assert!(matches!(error, VmError::NotASnapshot { .. }), "{error}");
            std::fs::remove_dir_all(super::dir(dir.path())).unwrap();
            std::fs::remove_dir_all(taken).unwrap();
        }
    }
}
