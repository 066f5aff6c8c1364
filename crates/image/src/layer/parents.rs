//! Gives directories that a layer has files in and no entry for the attributes that they have in
//! the layers below, since the uppermost directory's attributes are the ones seen in an overlay.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use super::attributes::{OverlayXattr, Ownership};
use super::beneath::{self, Found, Tree};
use super::error::LayerError;
use super::whiteout;

/// Completes `implicit` directories in `dir` from the directories in `lower`, uppermost first.
pub(crate) fn complete_parents(
    dir: &Path,
    implicit: &[PathBuf],
    lower: &[PathBuf],
    overlay_xattr: OverlayXattr,
    ownership: Ownership,
) -> Result<(), LayerError> {
    if implicit.is_empty() {
        return Ok(());
    }
    let tree = Tree::open(dir)?;
    let lower: Vec<Tree> = lower
        .iter()
        .map(|dir| Tree::open(dir))
        .collect::<Result<_, _>>()?;
    // Deepest first: what is done below a directory does not change it, but its new permissions
    // may keep its owner out.
    for path in implicit.iter().rev() {
        let Some(stat) = find(&lower, path, overlay_xattr)? else {
            continue;
        };
        let to = match tree.open_dir(path, OFlags::RDONLY) {
            Ok(to) => to,
            // A later entry of the layer took its place.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => continue,
            Err(error) => return Err(LayerError::entry("open", path)(error)),
        };
        copy_attributes(&to, &stat, ownership, path)?;
    }
    Ok(())
}

/// The attributes of `path` as the layers in `lower` show it, if it is a directory there.
fn find(
    lower: &[Tree],
    path: &Path,
    overlay_xattr: OverlayXattr,
) -> Result<Option<Stat>, LayerError> {
    let failed = |error| LayerError::entry("find the lower version of", path)(error);
    for tree in lower {
        match find_in(tree, path, overlay_xattr).map_err(failed)? {
            Lower::Directory(stat) => return Ok(Some(stat)),
            Lower::Hidden => return Ok(None),
            Lower::Missing => {}
        }
    }
    Ok(None)
}

enum Lower {
    Directory(Stat),
    /// Not here, and hidden in the layers below.
    Hidden,
    /// Not here; the layers below decide.
    Missing,
}

fn find_in(tree: &Tree, path: &Path, overlay_xattr: OverlayXattr) -> Result<Lower, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut dir: OwnedFd = tree.open_dir_without_links(Path::new(""), OFlags::RDONLY)?;
    let mut hidden_below = false;
    for name in path {
        hidden_below |= whiteout::is_opaque(dir.as_fd(), overlay_xattr);
        match beneath::look(dir.as_fd(), name)? {
            Found::Directory => dir = rustix::fs::openat(&dir, name, flags, Mode::empty())?,
            Found::Nothing if !hidden_below => return Ok(Lower::Missing),
            Found::Nothing | Found::Whiteout | Found::Other => return Ok(Lower::Hidden),
        }
    }
    rustix::fs::fstat(&dir).map(Lower::Directory)
}

fn copy_attributes(
    to: &OwnedFd,
    stat: &Stat,
    ownership: Ownership,
    path: &Path,
) -> Result<(), LayerError> {
    debug_assert_eq!(FileType::from_raw_mode(stat.st_mode), FileType::Directory);
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    let result = rustix::fs::fchown(to, Some(uid), Some(gid));
    super::attributes::judge_chown(result, ownership, path)?;
    let time = Timespec {
        tv_sec: stat.st_mtime,
        tv_nsec: stat.st_mtime_nsec.cast_signed(),
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode))
        .and_then(|()| rustix::fs::futimens(to, &times))
        .map_err(LayerError::entry("set permissions and time of", path))
}
