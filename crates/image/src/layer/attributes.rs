//! Owners, permissions, times and extended attributes.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::Note;
use super::error::LayerError;
use crate::tar_stream::{Entry, Timestamp};

/// Which extended attribute says to overlayfs that a directory hides what is below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OverlayXattr {
    /// `trusted.overlay.opaque`: overlayfs reads it by default. Needs `CAP_SYS_ADMIN` in the
    /// initial user namespace.
    Trusted,
    /// `user.overlay.opaque`: the overlay must be mounted with the option `userxattr`, as it must
    /// in a user namespace anyway.
    User,
}

impl OverlayXattr {
    /// The one that can be set on `dir`.
    ///
    /// # Errors
    /// When the file system has no extended attributes at all.
    pub fn probe(dir: &Path) -> std::io::Result<Self> {
        let set = |kind: Self| {
            let name = kind.opaque_name();
            rustix::fs::lsetxattr(dir, name, b"n", XattrFlags::empty())?;
            match rustix::fs::lremovexattr(dir, name) {
                // Another process, which asks the same, was faster.
                Err(Errno::NODATA) => Ok(()),
                removed => removed,
            }
        };
        match set(Self::Trusted) {
            Ok(()) => Ok(Self::Trusted),
            Err(_) => Ok(set(Self::User).map(|()| Self::User)?),
        }
    }

    /// Option that an overlay mount of the layers needs.
    #[must_use]
    pub fn mount_option(self) -> Option<&'static str> {
        match self {
            Self::Trusted => None,
            Self::User => Some("userxattr"),
        }
    }

    pub(super) fn opaque_name(self) -> &'static str {
        match self {
            Self::Trusted => "trusted.overlay.opaque",
            Self::User => "user.overlay.opaque",
        }
    }
}

/// What happens to owners that cannot be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ownership {
    /// An error.
    Strict,
    /// The file belongs to the unpacking user and loses its set-user-id and set-group-id bits,
    /// as they would give away that user's rights.
    Tolerant,
}

impl Ownership {
    /// Strict for root with all user ids, tolerant for everybody else.
    #[must_use]
    pub fn of_process() -> Self {
        let is_root = rustix::process::geteuid().is_root();
        let all_ids = fs::read_to_string("/proc/self/uid_map")
            .is_ok_and(|map| map.split_ascii_whitespace().eq(["0", "0", "4294967295"]));
        if is_root && all_ids {
            Self::Strict
        } else {
            Self::Tolerant
        }
    }
}

/// Owner and group as the kernel takes them.
pub(super) fn owner(entry: &Entry, path: &Path) -> Result<(u32, u32), LayerError> {
    let id = |value: u64| {
        u32::try_from(value)
            .ok()
            .filter(|id| *id != u32::MAX)
            .ok_or_else(|| LayerError::bad(path, "its owner or group is out of range"))
    };
    Ok((id(entry.uid)?, id(entry.gid)?))
}

/// Whether an owner could be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owned {
    Yes,
    Dropped,
}

/// Judges the outcome of a chown.
pub(super) fn judge_chown(
    result: Result<(), Errno>,
    ownership: Ownership,
    path: &Path,
) -> Result<Owned, LayerError> {
    match (result, ownership) {
        (Ok(()), _) => Ok(Owned::Yes),
        // The id has no mapping in this user namespace, or the process is not root in it.
        (Err(Errno::INVAL | Errno::PERM), Ownership::Tolerant) => Ok(Owned::Dropped),
        (Err(error), _) => Err(LayerError::entry("set the owner of", path)(error)),
    }
}

/// Sets the owner of an open file.
pub(super) fn chown(
    file: impl AsFd,
    (uid, gid): (u32, u32),
    ownership: Ownership,
    path: &Path,
) -> Result<Owned, LayerError> {
    let result = rustix::fs::fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    judge_chown(result, ownership, path)
}

/// Sets the owner of `name` in `dir`, not of what a symbolic link points to.
pub(super) fn chown_at(
    dir: BorrowedFd<'_>,
    name: &std::ffi::OsStr,
    (uid, gid): (u32, u32),
    ownership: Ownership,
    path: &Path,
) -> Result<Owned, LayerError> {
    let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    let result = rustix::fs::chownat(dir, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW);
    judge_chown(result, ownership, path)
}

/// Permission bits to set for an entry whose chown came out like this.
pub(super) fn mode(entry: &Entry, owned: Owned) -> Mode {
    let set_ids = Mode::SUID | Mode::SGID;
    let mode = Mode::from_raw_mode(entry.mode);
    match owned {
        Owned::Yes => mode,
        Owned::Dropped => mode - set_ids,
    }
}

/// Both times are the entry's modification time, as archives keep no other.
pub(super) fn times(mtime: Timestamp) -> Timestamps {
    let time = Timespec {
        tv_sec: mtime.seconds,
        tv_nsec: mtime.nanoseconds.into(),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

/// Whether layers may carry this extended attribute. Those of overlayfs would let a layer redirect
/// lookups in the layers below; other `security` and `trusted` ones belong to the host.
fn is_permitted(name: &[u8]) -> bool {
    match name {
        b"security.capability" | b"system.posix_acl_access" | b"system.posix_acl_default" => true,
        _ => name.starts_with(b"user.") && !name.starts_with(b"user.overlay."),
    }
}

/// Sets an entry's extended attributes on an open file; hands back those that were left out.
pub(super) fn set_xattrs(
    file: BorrowedFd<'_>,
    entry: &Entry,
    path: &Path,
) -> Result<Vec<Note>, LayerError> {
    let mut skipped = Vec::new();
    for (name, value) in &entry.xattrs {
        let result = if is_permitted(name) && !name.contains(&0) {
            rustix::fs::fsetxattr(file, name.as_slice(), value, XattrFlags::empty())
        } else {
            Err(Errno::NOTSUP)
        };
        match result {
            Ok(()) => {}
            Err(Errno::NOTSUP | Errno::PERM) => skipped.push(Note::XattrSkipped {
                path: path.to_string_lossy().into_owned(),
                name: String::from_utf8_lossy(name).into_owned(),
            }),
            Err(error) => {
                return Err(LayerError::entry("set an extended attribute of", path)(
                    error,
                ));
            }
        }
    }
    Ok(skipped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_who_ask_at_the_same_time_get_the_same_answer() {
        let dir = tempfile::tempdir().unwrap();
        let alone = OverlayXattr::probe(dir.path()).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..2000 {
                        assert_eq!(OverlayXattr::probe(dir.path()).unwrap(), alone);
                    }
                });
            }
        });
    }
}
