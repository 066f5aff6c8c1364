//! Snapshots of machines: what a VMM wrote of one that stood still, for any number of others that go on from there.
//!
//! A snapshot is a directory with the VMM's own files and a description, which is written last: without it the
//! snapshot is not a whole one. The VMM's files hold all that the guest had in its memory, so they are nobody else's.

mod holes;
pub(crate) mod outlet;
mod shape;

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::VmConfig;
use crate::error::VmError;

pub(crate) use outlet::Outlet;
pub use outlet::OutletRecord;
pub use shape::{DeviceShape, Shape};

/// The description's name.
const DESCRIPTION: &str = "snapshot.json";

/// A whole snapshot.
#[derive(Debug)]
pub struct Snapshot {
    dir: PathBuf,
    description: Description,
}

/// What is in the description.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    /// [`Driver::name`](crate::Driver::name).
    driver: String,
    shape: Shape,
}

impl Snapshot {
    /// Opens the snapshot in `dir`.
    ///
    /// # Errors
    /// When there is none, or not a whole one.
    pub fn open(dir: &Path) -> Result<Self, VmError> {
        let read = || -> io::Result<Description> {
            let file = File::open(dir.join(DESCRIPTION))?;
            Ok(serde_json::from_reader(io::BufReader::new(file))?)
        };
        let description = read().map_err(|source| unsound(dir, source))?;
        Ok(Self {
            dir: dir.to_owned(),
            description,
        })
    }

    /// The name of the driver whose VMM wrote it, and which alone can read it.
    #[must_use]
    pub fn driver(&self) -> &str {
        &self.description.driver
    }

    /// What a machine has to have that goes on from here.
    #[must_use]
    pub fn shape(&self) -> &Shape {
        &self.description.shape
    }

    /// That a machine of this driver with this configuration can go on from here.
    pub(crate) fn check(&self, driver: &str, config: &VmConfig) -> Result<(), VmError> {
        let other = |differs: String| {
            Err(VmError::OtherMachine {
                dir: self.dir.clone(),
                differs,
            })
        };
        if self.driver() != driver {
            return other(format!("of {}, not of {driver}", self.driver()));
        }
        let (had, asked) = (self.shape(), Shape::of(config));
        if *had != asked {
            return other(format!("with {had}, not with {asked}"));
        }
        Ok(())
    }

    /// What is wrong with it, which was written whole.
    pub(crate) fn damaged(&self, source: io::Error) -> VmError {
        unsound(&self.dir, source)
    }

    /// One of the VMM's files, to be handed over.
    pub(crate) fn file(&self, name: &str) -> Result<OwnedFd, VmError> {
        let path = self.dir.join(name);
        let file = File::options()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(&path);
        let file = file.map_err(VmError::host(format!("open {}", path.display())))?;
        Ok(file.into())
    }
}

fn unsound(dir: &Path, source: io::Error) -> VmError {
    let dir = dir.to_owned();
    VmError::NotASnapshot { dir, source }
}

impl Description {
    fn write(&self, dir: &Path) -> io::Result<()> {
        let new = dir.join("snapshot.json.new");
        let mut file = File::options().write(true).create_new(true).open(&new)?;
        serde_json::to_writer(&mut file, self)?;
        file.sync_all()?;
        std::fs::rename(new, dir.join(DESCRIPTION))
    }
}

/// A snapshot that a VMM could have written.
#[cfg(test)]
pub(crate) fn written(
    dir: &Path,
    driver: &str,
    config: &VmConfig,
    files: impl IntoIterator<Item = (&'static str, String)>,
) -> Snapshot {
    std::fs::create_dir_all(dir).unwrap();
    for (name, text) in files {
        std::fs::write(dir.join(name), text).unwrap();
    }
    let description = Description {
        driver: driver.to_owned(),
        shape: Shape::of(config),
    };
    description.write(dir).unwrap();
    Snapshot::open(dir).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Device, MachineSize};
    use crate::sample::{self, SIZE, net};

    fn snapshot(config: &VmConfig) -> (tempfile::TempDir, Snapshot) {
        let dir = tempfile::tempdir().unwrap();
        let snapshot = written(dir.path(), "qemu", config, []);
        (dir, snapshot)
    }

    #[test]
    fn only_the_same_machine_goes_on() {
        let devices = || vec![net(true), Device::Rng];
        let config = sample::config(SIZE, devices());
        let (_dir, snapshot) = snapshot(&config);
        snapshot.check("qemu", &config).unwrap();
        let larger = MachineSize {
            vcpus: 2,
            memory_mib: 512,
        };
        let others = [
            ("firecracker", sample::config(SIZE, devices())),
            ("qemu", sample::config(larger, devices())),
            ("qemu", sample::config(SIZE, vec![Device::Rng, net(true)])),
            ("qemu", sample::config(SIZE, vec![net(false), Device::Rng])),
        ];
        for (driver, config) in others {
            let error = snapshot.check(driver, &config).unwrap_err();
            assert!(matches!(error, VmError::OtherMachine { .. }), "{error}");
        }
    }

    #[test]
    fn a_difference_is_told() {
        let config = sample::config(SIZE, vec![net(true)]);
        let (_dir, snapshot) = snapshot(&config);
        let error = snapshot.check("qemu", &sample::config(SIZE, vec![]));
        let error = error.unwrap_err().to_string();
        assert!(
            error.ends_with(
                "is of a machine with 2 CPUs, 256 MiB and net 02:00:00:00:00:01, not with 2 CPUs, 256 MiB and no \
                 devices"
            ),
            "{error}"
        );
    }

    #[test]
    fn what_is_not_whole_is_no_snapshot() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("memory"), "").unwrap();
        for description in [None, Some(""), Some("{}")] {
            if let Some(description) = description {
                std::fs::write(dir.path().join(DESCRIPTION), description).unwrap();
            }
            let error = Snapshot::open(dir.path()).unwrap_err();
            assert!(matches!(error, VmError::NotASnapshot { .. }), "{error}");
        }
    }
}
