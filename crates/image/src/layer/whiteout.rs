//! Entries that hide files of the layers below, and their form in overlayfs.

use std::ffi::OsStr;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, XattrFlags};

use super::attributes::OverlayXattr;
use super::error::{Escape, LayerError};

const PREFIX: &[u8] = b".wh.";

/// What a file name means for the layers below.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Meaning<'a> {
    /// An ordinary file.
    None,
    /// The named file of the layers below is gone.
    Hide(&'a OsStr),
    /// Everything in the directory's lower versions is gone.
    Opaque,
    /// Bookkeeping of aufs, which stands for no file.
    Bookkeeping,
}

/// What the name of the entry `path` means.
pub(super) fn meaning<'a>(name: &'a OsStr, path: &Path) -> Result<Meaning<'a>, LayerError> {
    let Some(hidden) = name.as_bytes().strip_prefix(PREFIX) else {
        return Ok(Meaning::None);
    };
    match hidden {
        b".wh..opq" => Ok(Meaning::Opaque),
        b"" | b"." | b".." => Err(LayerError::escape(path, Escape::Whiteout)),
        _ if hidden.starts_with(PREFIX) => Ok(Meaning::Bookkeeping),
        _ => Ok(Meaning::Hide(OsStr::from_bytes(hidden))),
    }
}

/// Makes overlayfs's whiteout: a character device 0:0, which needs no privilege since Linux 5.8.
pub(super) fn make(dir: BorrowedFd<'_>, name: &OsStr, path: &Path) -> Result<(), LayerError> {
    rustix::fs::mknodat(dir, name, FileType::CharacterDevice, Mode::empty(), 0)
        .map_err(LayerError::entry("make the whiteout of", path))
}

/// Marks a directory opaque.
pub(super) fn mark_opaque(
    dir: BorrowedFd<'_>,
    kind: OverlayXattr,
    path: &Path,
) -> Result<(), LayerError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(dir, ".", flags, Mode::empty())
        .and_then(|dir| rustix::fs::fsetxattr(dir, kind.opaque_name(), b"y", XattrFlags::empty()))
        .map_err(LayerError::entry("mark opaque", path))
}

/// Whether a directory is marked opaque.
pub(super) fn is_opaque(dir: BorrowedFd<'_>, kind: OverlayXattr) -> bool {
    let mut value = [0; 8];
    // A directory without the attribute, the common case, is an error like any other here.
    rustix::fs::fgetxattr(dir, kind.opaque_name(), &mut value)
        .is_ok_and(|length| value[..length] == *b"y")
}
