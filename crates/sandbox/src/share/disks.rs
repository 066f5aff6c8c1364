//! The directory of the share with the disks of the host: a node of each, which the file server shows the guest
//! as a file.
//!
//! Nobody can make a node in it but the pod process, by a mount of its own. For everybody else, the file server
//! and so the guest, it is mounted read-only.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, SFlag, mknodat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::error::SandboxError;
use crate::mount::tree;
use crate::spec::Disk;

/// Its name in the share, which is no container's id.
pub(super) const NAME: &str = ".disks";

/// The directory.
#[derive(Debug)]
pub(crate) struct Disks {
    dir: PathBuf,
}

impl Disks {
    /// In the directory that is shared.
    pub(super) fn of(shared: &Path) -> Self {
        Self {
            dir: shared.join(NAME),
        }
    }

    /// Makes it, before there is a guest: one could put its own in the place.
    pub(super) fn make(&self) -> Result<(), SandboxError> {
        super::create_dir(&self.dir)?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
        let read_only = flags | MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        let tmpfs = Some("tmpfs");
        mount(tmpfs, &self.dir, tmpfs, flags, Some("mode=700,size=64k"))
            .and_then(|()| {
                mount(
                    None::<&str>,
                    &self.dir,
                    None::<&str>,
                    read_only,
                    None::<&str>,
                )
            })
            .map_err(|error| self.cannot("mount")(error.into()))
    }

    /// Where the guest has it.
    pub(crate) fn guest_path(disk: &Disk) -> PathBuf {
        Path::new(super::GUEST_DIR).join(NAME).join(node(disk))
    }

    /// Shows it to the guest, if it is not there already.
    pub(crate) fn add(&self, disk: &Disk) -> Result<(), SandboxError> {
        let name = node(disk);
        let mode = match disk.read_only {
            true => Mode::S_IRUSR,
            false => Mode::S_IRUSR | Mode::S_IWUSR,
        };
        let number = libc::makedev(disk.major, disk.minor);
        match mknodat(
            self.writable()?,
            name.as_str(),
            SFlag::S_IFBLK,
            mode,
            number,
        ) {
            Ok(()) | Err(Errno::EEXIST) => Ok(()),
            Err(error) => Err(self.cannot(&format!("make {name} in"))(error.into())),
        }
    }

    /// The guest cannot open it any more.
    pub(crate) fn remove(&self, disk: &Disk) -> Result<(), SandboxError> {
        let name = node(disk);
        match unlinkat(self.writable()?, name.as_str(), UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(error) => Err(self.cannot(&format!("remove {name} from"))(error.into())),
        }
    }

    /// A mount of the directory that is nowhere, and gone when it is dropped.
    fn writable(&self) -> Result<OwnedFd, SandboxError> {
        tree::clone(&self.dir, false)
            .and_then(|tree| tree::make_writable(&tree).map(|()| tree))
            .map_err(self.cannot("open"))
    }

    fn cannot(&self, action: &str) -> impl FnOnce(std::io::Error) -> SandboxError {
        SandboxError::host(format!("{action} {}", self.dir.display()))
    }
}

/// The same for all containers that have the disk, so that they see what the others write.
fn node(disk: &Disk) -> String {
    let access = if disk.read_only { "r" } else { "w" };
    format!("b{}n{}{access}", disk.major, disk.minor)
}
