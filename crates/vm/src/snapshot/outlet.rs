//! Where a running VMM writes its snapshots.
//!
//! A VMM comes to no directory of the caller's by its path: it was not given any. So it has, from its start, a directory
//! open that it may only look into, and a snapshot's directory is mounted there while it is written. For a caller who
//! may not mount, the VMM's directory is the place where the files are until they are moved.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde::{Deserialize, Serialize};

use super::{Description, DeviceShape, Shape, holes};
use crate::config::VmConfig;
use crate::driver::VmRecord;
use crate::error::VmError;
use crate::process::{self, ProcessRecord};

/// What a snapshot's directory is called in the VMM's own.
const MOUNT_POINT: &str = "out";

/// What is needed to find an outlet again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutletRecord {
    /// What the machine has.
    shape: Shape,
    /// The number by which the VMM has the directory open.
    descriptor: RawFd,
}

/// Where a VMM writes.
#[derive(Debug)]
pub(crate) struct Outlet {
    record: OutletRecord,
    dir: PathBuf,
}

fn dir(run_dir: &Path) -> PathBuf {
    run_dir.join("snapshot")
}

impl Outlet {
    /// Makes one, and what its VMM has to have open, under the same number.
    pub(crate) fn make(config: &VmConfig) -> Result<(Self, OwnedFd), VmError> {
        let dir = dir(&config.run_dir);
        let make = |dir: &Path, mode| {
            let made = std::fs::create_dir(dir).and_then(|()| {
                // Whatever this process takes from the modes of what it makes.
                std::fs::set_permissions(dir, std::fs::Permissions::from_mode(mode))
            });
            made.map_err(VmError::host(format!("create {}", dir.display())))
        };
        make(&dir, 0o711)?;
        make(&dir.join(MOUNT_POINT), 0o700)?;
        let place = process::open_place(&dir)?;
        let record = OutletRecord {
            shape: Shape::of(config),
            descriptor: place.as_raw_fd(),
        };
        Ok((Self { record, dir }, place))
    }

    /// That of a machine that another process has started; none if that was an older version of ours.
    pub(crate) fn find(record: &VmRecord) -> Option<Self> {
        Some(Self {
            record: record.outlet.clone()?,
            dir: dir(&record.run_dir),
        })
    }

    pub(crate) fn record(&self) -> &OutletRecord {
        &self.record
    }

    /// Makes the snapshot's directory, for this VMM of this driver to write into.
    fn begin(
        &self,
        driver: &'static str,
        to: &Path,
        vmm: ProcessRecord,
    ) -> Result<Writing, VmError> {
        let shape = self.record.shape.clone();
        let is_elsewhere = |device: &DeviceShape| matches!(device, DeviceShape::Fs { .. });
        if shape.devices.iter().any(is_elsewhere) {
            return Err(VmError::Unsupported {
                driver,
                what: "take a snapshot of a machine with virtio-fs",
            });
        }
        let uid = vmm.uid().map_err(|source| VmError::Disconnected {
            command: "snapshot",
            source,
        })?;
        let made = std::fs::DirBuilder::new().mode(0o700).create(to);
        made.map_err(VmError::host(format!("create {}", to.display())))?;
        // From here on it is removed again.
        let mut writing = Writing {
            dir: to.to_owned(),
            description: Description {
                driver: driver.to_owned(),
                shape,
            },
            meanwhile: None,
            seen_as: format!("/proc/self/fd/{}/{MOUNT_POINT}", self.record.descriptor),
            done: false,
        };
        let at = self.dir.join(MOUNT_POINT);
        let mounted = mount(Some(to), &at, None::<&str>, MsFlags::MS_BIND, None::<&str>);
        let place = match mounted {
            Ok(()) => {
                writing.meanwhile = Some(Meanwhile::Mounted(at.clone()));
                to
            }
            Err(Errno::EPERM) => {
                writing.meanwhile = Some(Meanwhile::Elsewhere(at.clone()));
                &at
            }
            Err(errno) => {
                let cannot = VmError::host(format!("mount {} on {}", to.display(), at.display()));
                return Err(cannot(errno.into()));
            }
        };
        if uid != nix::unistd::geteuid().as_raw() {
            let given = std::os::unix::fs::chown(place, Some(uid), Some(uid));
            given.map_err(VmError::host(format!(
                "give {} to the VMM",
                place.display()
            )))?;
        }
        Ok(writing)
    }
}

/// Makes the directory `to` for this VMM of this driver to write a snapshot into, if it is known how it comes there.
pub(crate) fn begin(
    outlet: Option<&Outlet>,
    driver: &'static str,
    to: &Path,
    vmm: ProcessRecord,
) -> Result<Writing, VmError> {
    let outlet = outlet.ok_or(VmError::Unsupported {
        driver,
        what: "take a snapshot of a machine that an older version of Hull has started",
    })?;
    outlet.begin(driver, to, vmm)
}

/// How the VMM comes to the directory.
#[derive(Debug)]
enum Meanwhile {
    /// It is mounted here.
    Mounted(PathBuf),
    /// It does not, as this process may not mount. It writes here, and the files are moved.
    Elsewhere(PathBuf),
}

/// A snapshot that is being written. It is removed unless it is finished.
#[derive(Debug)]
pub(crate) struct Writing {
    dir: PathBuf,
    description: Description,
    meanwhile: Option<Meanwhile>,
    seen_as: String,
    done: bool,
}

impl Writing {
    /// The directory's path for the VMM.
    pub(crate) fn seen_as(&self) -> &str {
        &self.seen_as
    }

    /// Once the VMM has written these `files`: takes them over and describes them.
    pub(crate) async fn finish(mut self, files: &'static [&'static str]) -> Result<(), VmError> {
        let cannot = VmError::host(format!("take over the snapshot {}", self.dir.display()));
        // A guest's memory is read and brought to the disk.
        let taking = tokio::task::spawn_blocking(move || self.take_back(files));
        let taken = taking.await.unwrap_or_else(|panicked| Err(panicked.into()));
        taken.map_err(cannot)
    }

    fn take_back(&mut self, files: &[&str]) -> io::Result<()> {
        match self.meanwhile.take() {
            Some(Meanwhile::Mounted(at)) => umount2(&at, MntFlags::MNT_DETACH)?,
            Some(Meanwhile::Elsewhere(at)) => {
                for file in files {
                    std::fs::rename(at.join(file), self.dir.join(file))?;
                }
            }
            None => {}
        }
        // First of all the directory, so that the VMM exchanges nothing in it any more.
        take_over(&self.dir, libc::O_DIRECTORY, 0o700)?;
        for file in files {
            // Whoever is let through the directory may read them: VMMs with other users.
            take_over(&self.dir.join(file), libc::O_NONBLOCK, 0o644)?;
        }
        self.description.write(&self.dir)?;
        self.done = true;
        Ok(())
    }

    fn give_up(&mut self) -> io::Result<()> {
        match self.meanwhile.take() {
            Some(Meanwhile::Mounted(at)) => umount2(&at, MntFlags::MNT_DETACH)?,
            Some(Meanwhile::Elsewhere(at)) => {
                for file in std::fs::read_dir(at)? {
                    std::fs::remove_file(file?.path())?;
                }
            }
            None => {}
        }
        std::fs::remove_dir_all(&self.dir)
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        if let Err(error) = self.give_up() {
            tracing::error!(%error, dir = %self.dir.display(), "cannot remove an unfinished snapshot");
        }
    }
}

/// Makes something that a VMM has made ours alone. A VMM in its guest's hands may have put a link there instead.
fn take_over(path: &Path, flag: i32, mode: u32) -> io::Result<()> {
    let file = File::options()
        .read(true)
        .write(flag != libc::O_DIRECTORY)
        .custom_flags(libc::O_NOFOLLOW | flag)
        .open(path)?;
    let found = file.metadata()?;
    let has_other_names = found.is_file() && found.nlink() != 1;
    if has_other_names || !(found.is_file() || found.is_dir()) {
        let message = format!("{} is not what a VMM writes", path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    std::os::unix::fs::fchown(&file, Some(uid.as_raw()), Some(gid.as_raw()))?;
    file.set_permissions(std::fs::Permissions::from_mode(mode))?;
    if found.is_file() {
        holes::dig(&file)?;
        file.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::Snapshot;
    use super::*;
    use crate::config::Device;
    use crate::sample::{self, SIZE};

    const DRIVER: &str = "some";

    fn own() -> ProcessRecord {
        ProcessRecord::of(std::process::id().try_into().unwrap()).unwrap()
    }

    /// One, and what its VMM has open.
    fn outlet(run_dir: &Path) -> (Outlet, OwnedFd) {
        let mut config = sample::config(SIZE, vec![]);
        config.run_dir = run_dir.to_owned();
        Outlet::make(&config).unwrap()
    }

    #[tokio::test]
    async fn a_snapshot_is_there_when_it_is_whole() {
        let run_dir = tempfile::tempdir().unwrap();
        let dir = run_dir.path().join("taken");
        let (outlet, _open) = outlet(run_dir.path());
        let writing = outlet.begin(DRIVER, &dir, own()).unwrap();
        std::fs::write(Path::new(writing.seen_as()).join("memory"), "x").unwrap();
        Snapshot::open(&dir).unwrap_err();
        writing.finish(&["memory"]).await.unwrap();
        let snapshot = Snapshot::open(&dir).unwrap();
        assert_eq!(snapshot.shape(), &outlet.record.shape);
        snapshot.file("memory").unwrap();
    }

    #[test]
    fn what_is_there_already_is_left_alone() {
        let run_dir = tempfile::tempdir().unwrap();
        let dir = run_dir.path().join("taken");
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("precious"), "").unwrap();
        let (outlet, _open) = outlet(run_dir.path());
        outlet.begin(DRIVER, &dir, own()).unwrap_err();
        assert!(dir.join("precious").exists());
    }

    #[test]
    fn an_unfinished_one_is_removed() {
        let run_dir = tempfile::tempdir().unwrap();
        let dir = run_dir.path().join("taken");
        let (outlet, _open) = outlet(run_dir.path());
        let writing = outlet.begin(DRIVER, &dir, own()).unwrap();
        let part = Path::new(writing.seen_as()).join("memory");
        std::fs::write(&part, "").unwrap();
        drop(writing);
        assert!(!dir.exists() && !part.exists());
    }

    #[test]
    fn what_a_file_server_holds_is_in_no_snapshot() {
        let run_dir = tempfile::tempdir().unwrap();
        let share = Device::Fs {
            tag: "x".to_owned(),
            socket: "/run/x/fs.sock".into(),
        };
        let mut config = sample::config(SIZE, vec![share]);
        config.run_dir = run_dir.path().to_owned();
        let outlet = Outlet::make(&config).unwrap().0;
        let dir = run_dir.path().join("taken");
        let error = outlet.begin(DRIVER, &dir, own()).unwrap_err();
        assert!(matches!(error, VmError::Unsupported { .. }), "{error}");
        assert!(!dir.exists());
    }

    #[tokio::test]
    async fn a_vmm_s_links_are_not_followed() {
        let run_dir = tempfile::tempdir().unwrap();
        let precious = run_dir.path().join("precious");
        std::fs::write(&precious, "").unwrap();
        std::fs::set_permissions(&precious, std::fs::Permissions::from_mode(0o600)).unwrap();
        let (outlet, _open) = outlet(run_dir.path());
        let dir = run_dir.path().join("taken");
        type Plant = fn(&Path, &Path) -> io::Result<()>;
        let plants: [Plant; 2] = [
            |precious, at| std::os::unix::fs::symlink(precious, at),
            |precious, at| std::fs::hard_link(precious, at),
        ];
        for plant in plants {
            let writing = outlet.begin(DRIVER, &dir, own()).unwrap();
            plant(&precious, &dir.join("memory")).unwrap();
            writing.finish(&["memory"]).await.unwrap_err();
            assert!(!dir.exists());
            let mode = precious.metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }
}
