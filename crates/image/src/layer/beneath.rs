//! Access to a directory tree that never leaves it.

use std::ffi::OsStr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::error::{Escape, LayerError};

/// How often an `openat2` that raced with a rename elsewhere is tried again.
const MAX_RACES: u32 = 1000;

/// A directory tree.
#[derive(Debug)]
pub(super) struct Tree {
    root: OwnedFd,
}

/// What stands at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    Nothing,
    Directory,
    /// A whiteout of ours.
    Whiteout,
    Other,
}

impl Tree {
    pub(super) fn open(dir: &Path) -> Result<Self, LayerError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root =
            rustix::fs::open(dir, flags, Mode::empty()).map_err(|error| LayerError::Open {
                dir: dir.to_owned(),
                source: error.into(),
            })?;
        Ok(Self { root })
    }

    /// Opens a directory. Symbolic links are followed as long as they stay in the tree.
    pub(super) fn open_dir(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        self.open_with(path, flags, ResolveFlags::empty())
    }

    /// Opens a directory without following any symbolic link.
    pub(super) fn open_dir_without_links(
        &self,
        path: &Path,
        flags: OFlags,
    ) -> Result<OwnedFd, Errno> {
        self.open_with(path, flags, ResolveFlags::NO_SYMLINKS)
    }

    fn open_with(&self, path: &Path, flags: OFlags, more: ResolveFlags) -> Result<OwnedFd, Errno> {
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        let flags = flags | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve =
            ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV | more;
        let mut races = 0;
        loop {
            // The kernel gives up with EAGAIN when a rename anywhere on the system meets "..".
            match rustix::fs::openat2(&self.root, path, flags, Mode::empty(), resolve) {
                Err(Errno::AGAIN) if races < MAX_RACES => races += 1,
                other => return other,
            }
        }
    }
}

/// What stands at `name` in `dir`.
pub(super) fn look(dir: BorrowedFd<'_>, name: &OsStr) -> Result<Found, Errno> {
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(found(&stat)),
        Err(Errno::NOENT) => Ok(Found::Nothing),
        Err(error) => Err(error),
    }
}

fn found(stat: &Stat) -> Found {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Found::Directory,
        FileType::CharacterDevice if stat.st_rdev == 0 => Found::Whiteout,
        _ => Found::Other,
    }
}

/// An archive's path, relative, without `.` and doubled slashes. Empty for the root.
pub(super) fn relative(path: &[u8], limit: usize) -> Result<PathBuf, LayerError> {
    let path = Path::new(OsStr::from_bytes(path));
    if path.as_os_str().len() > limit {
        return Err(LayerError::Limit {
            what: "bytes in a path",
            limit: limit as u64,
        });
    }
    if path.as_os_str().as_bytes().contains(&0) {
        return Err(LayerError::bad(path, "its path contains a zero byte"));
    }
    let mut clean = PathBuf::with_capacity(path.as_os_str().len());
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::CurDir => {}
            Component::ParentDir => return Err(LayerError::escape(path, Escape::DotDot)),
            Component::RootDir | Component::Prefix(_) => {
                return Err(LayerError::escape(path, Escape::Absolute));
            }
        }
    }
    Ok(clean)
}
