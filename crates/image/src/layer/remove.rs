//! Removes a directory tree of any depth with two file descriptors.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, Dir, Mode, OFlags};
use rustix::io::Errno;

/// Removes `name` in `parent` with everything below it. What is not there is no error.
///
/// Nobody else may rename directories in the tree meanwhile: the way back up is `..`.
pub(crate) fn remove_tree(parent: BorrowedFd<'_>, name: &OsStr) -> Result<(), Errno> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR) => {}
        Err(error) => return Err(error),
    }
    let mut names = vec![name.to_owned()];
    let mut dir = enter(parent, name)?;
    while let Some(name) = names.last() {
        if let Some(child) = empty_or_first_dir(&dir)? {
            dir = enter(dir.as_fd(), &child)?;
            names.push(child);
        } else {
            let up = rustix::fs::openat(&dir, "..", DIR_FLAGS, Mode::empty())?;
            rustix::fs::unlinkat(&up, name.as_os_str(), AtFlags::REMOVEDIR)?;
            dir = up;
            names.pop();
        }
    }
    Ok(())
}

const DIR_FLAGS: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Opens a directory to empty it, giving its owner the rights for it where they are missing.
fn enter(parent: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd, Errno> {
    let open = || rustix::fs::openat(parent, name, DIR_FLAGS, Mode::empty());
    let dir = match open() {
        Err(Errno::ACCESS) => {
            rustix::fs::chmodat(parent, name, Mode::RWXU, AtFlags::empty())?;
            open()?
        }
        other => other?,
    };
    Ok(dir)
}

/// Unlinks what is no directory; the first directory that is met is handed back.
fn empty_or_first_dir(dir: &OwnedFd) -> Result<Option<OsString>, Errno> {
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        let name = OsStr::from_bytes(name);
        let unlink = || rustix::fs::unlinkat(dir, name, AtFlags::empty());
        let result = match unlink() {
            Err(Errno::ACCESS) => {
                rustix::fs::fchmod(dir, Mode::RWXU)?;
                unlink()
            }
            other => other,
        };
        match result {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR) => return Ok(Some(name.to_owned())),
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deep_and_locked_trees_are_removed() {
        let temp = tempfile::tempdir().unwrap();
        let root: OwnedFd = std::fs::File::open(temp.path()).unwrap().into();
        let mut dir = root.try_clone().unwrap();
        // More than there may be open files.
        for _ in 0..1200 {
            rustix::fs::mkdirat(&dir, "d", Mode::RWXU).unwrap();
            rustix::fs::mknodat(&dir, "f", rustix::fs::FileType::RegularFile, Mode::RUSR, 0)
                .unwrap();
            dir = rustix::fs::openat(&dir, "d", DIR_FLAGS, Mode::empty()).unwrap();
        }
        std::fs::create_dir_all(temp.path().join("d/locked/x")).unwrap();
        rustix::fs::chmod(temp.path().join("d/locked"), Mode::empty()).unwrap();
        drop(dir);
        remove_tree(root.as_fd(), OsStr::new("d")).unwrap();
        remove_tree(root.as_fd(), OsStr::new("f")).unwrap();
        remove_tree(root.as_fd(), OsStr::new("missing")).unwrap();
        assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 0);
    }
}
