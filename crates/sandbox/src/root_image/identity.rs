//! What tells one chain of layers from another: a digest of everything that a change of a file changes.
//!
//! Contents are not read. What a process writes to a file, or does to its attributes, changes the time that
//! only the kernel sets (`st_ctim` in inode(7)), and what stands in its place has another number. Device numbers belong to
//! it: a file system whose times and numbers somebody has made up cannot stand for another one.

use std::fmt;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::statfs::FsType;
use sha2::{Digest, Sha256};

use super::{RootImageError, cannot, file_system};
use crate::mount::layers::Layers;
use crate::mount::{MountSpec, origin};

/// Changes with what an image holds of the same layers.
const FORMAT: u64 = 1;

/// File systems (`linux/magic.h`) that set the change time of an inode by themselves and give a number to one at a time. In
/// others, such as those in images or of a process, times and numbers are what somebody has made up.
const KEEPING_TIME: [u32; 9] = [
    0xef53,      // ext4
    0x5846_5342, // xfs
    0x9123_683e, // btrfs
    0xca45_1a4e, // bcachefs
    0xf2f5_2010, // f2fs
    0x2fc1_2fc1, // zfs
    0x794c_7630, // overlayfs: as those below it do
    0x0102_1994, // tmpfs
    0x8584_58f6, // ramfs
];

/// The digest, written as hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    digest: [u8; 32],
    /// What the files hold together.
    pub(super) bytes: u64,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.digest
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Identity {
    /// Of what `root` shows: an overlay, or a bind mount of a directory.
    pub(super) fn of(root: &MountSpec) -> Result<Self, RootImageError> {
        let mut hasher = Hasher::default();
        hasher.number(FORMAT);
        let layers = Layers::of(root).ok_or(RootImageError::Unsupported)?;
        origin::there(|| {
            let each = |hasher: &mut Hasher, dirs: &[PathBuf], kind| {
                dirs.iter().try_for_each(|dir| hasher.layer(dir, kind))
            };
            Ok(each(&mut hasher, &layers.lower, Kind::Fixed)
                .and_then(|()| each(&mut hasher, &layers.upper, Kind::Own)))
        })
        .map_err(cannot("look at", Path::new(&root.source)))??;
        Ok(Self {
            digest: hasher.digest.finalize().into(),
            bytes: hasher.bytes,
        })
    }
}

/// Of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Many containers have it.
    Fixed,
    /// The container's own, in which there is nothing at first: that it is another directory than that of another
    /// container means nothing.
    Own,
}

#[derive(Default)]
struct Hasher {
    digest: Sha256,
    bytes: u64,
}

impl Hasher {
    fn number(&mut self, number: u64) {
        self.digest.update(number.to_le_bytes());
    }

    /// The length comes first, so that two texts cannot be taken for two others.
    fn text(&mut self, text: &[u8]) {
        self.number(u64::try_from(text.len()).expect("a length is no more than 64 bits"));
        self.digest.update(text);
    }

    fn layer(&mut self, dir: &Path, kind: Kind) -> Result<(), RootImageError> {
        let file_system = file_system(dir)?;
        if !KEEPING_TIME
            .iter()
            .any(|magic| file_system == FsType((*magic).into()))
        {
            return Err(RootImageError::Unsupported);
        }
        let found = fs::metadata(dir).map_err(cannot("look at", dir))?;
        match kind {
            Kind::Fixed => self.file(&found),
            Kind::Own => {
                for number in [found.mode(), found.uid(), found.gid()] {
                    self.number(number.into());
                }
            }
        }
        self.tree(dir)
    }

    /// What is in a directory, and below: one directory after the other, as a tenant's may be nested as deep as paths go.
    fn tree(&mut self, dir: &Path) -> Result<(), RootImageError> {
        let read = |dir: &Path| fs::read_dir(dir)?.collect::<io::Result<Vec<_>>>();
        let mut waiting = vec![dir.to_owned()];
        while let Some(dir) = waiting.pop() {
            let mut entries = read(&dir).map_err(cannot("read", &dir))?;
            entries.sort_by_key(fs::DirEntry::file_name);
            self.number(u64::try_from(entries.len()).expect("a count is no more than 64 bits"));
            for entry in entries {
                let found = entry.metadata().map_err(cannot("look at", &entry.path()))?;
                self.text(entry.file_name().as_bytes());
                self.file(&found);
                if found.is_dir() {
                    waiting.push(entry.path());
                } else if found.is_file() {
                    self.bytes = self.bytes.saturating_add(found.size());
                }
            }
        }
        Ok(())
    }

    fn file(&mut self, found: &Metadata) {
        for number in [found.mode(), found.uid(), found.gid()] {
            self.number(number.into());
        }
        for number in [found.dev(), found.ino(), found.rdev(), found.size()] {
            self.number(number);
        }
        for number in [
            found.mtime(),
            found.mtime_nsec(),
            found.ctime(),
            found.ctime_nsec(),
        ] {
            self.digest.update(number.to_le_bytes());
        }
    }
}
