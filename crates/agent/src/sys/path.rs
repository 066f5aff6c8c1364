//! Paths inside a container's root, resolved so that no symbolic link leads out of it.

use std::collections::VecDeque;
use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, SFlag, fstat};

use super::check_fd;

/// As the kernel has it.
const MAX_LINKS: usize = 40;

/// What a missing last component is made into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Missing {
    Directory,
    File,
}

/// Opens `path` as the root `root` would see it: absolute links and ".." stay inside.
pub(crate) fn open_in_root(
    root: BorrowedFd<'_>,
    path: &Path,
    flags: OFlag,
    mode: Mode,
) -> io::Result<OwnedFd> {
    open(root, path, flags, mode, libc::RESOLVE_NO_MAGICLINKS)
}

/// Whether no part of `path` in `root` is a symbolic link. What is missing is none.
pub(crate) fn is_without_links(root: BorrowedFd<'_>, path: &Path) -> io::Result<bool> {
    match open(
        root,
        path,
        OFlag::O_PATH,
        Mode::empty(),
        libc::RESOLVE_NO_SYMLINKS,
    ) {
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        other => other.map(|_| true),
    }
}

/// `resolve` comes on top of staying inside.
fn open(
    root: BorrowedFd<'_>,
    path: &Path,
    flags: OFlag,
    mode: Mode,
    resolve: u64,
) -> io::Result<OwnedFd> {
    // An empty path would name no file; the root is meant.
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: open_how is plain integers, for which zero means "not used".
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = u64::from((flags | OFlag::O_CLOEXEC).bits().cast_unsigned());
    how.mode = u64::from(mode.bits());
    how.resolve = libc::RESOLVE_IN_ROOT | resolve;
    // SAFETY: the path is NUL-terminated and how is initialised and of the size given; both outlive
    // the call.
    check_fd(unsafe {
        libc::syscall(
            libc::SYS_openat2,
            root.as_raw_fd(),
            path.as_ptr(),
            &raw const how,
            size_of::<libc::open_how>(),
        )
    })
}

/// A handle on `path` in `root`, made first where it is missing, with its parent directories. Where a link leads
/// nowhere, that is what is made.
pub(crate) fn ensure_in_root(
    root: BorrowedFd<'_>,
    path: &Path,
    missing: Missing,
) -> io::Result<OwnedFd> {
    match open_in_root(root, path, OFlag::O_PATH, Mode::empty()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        other => return other,
    }
    let mut ahead = VecDeque::from(normal_components(path));
    let mut way = vec![open_in_root(
        root,
        Path::new("/"),
        OFlag::O_PATH,
        Mode::empty(),
    )?];
    let mut links = 0;
    while let (Some(name), Some(directory)) = (ahead.pop_front(), way.last()) {
        if name == ".." {
            way.truncate(1.max(way.len() - 1));
            continue;
        }
        let opened = match open_here(directory, &name) {
            Err(Errno::ENOENT) => {
                make(
                    directory,
                    &name,
                    ahead.is_empty() && missing == Missing::File,
                )?;
                open_here(directory, &name)?
            }
            other => other?,
        };
        let Some(target) = link_target(&opened)? else {
            way.push(opened);
            continue;
        };
        links += 1;
        if links > MAX_LINKS {
            return Err(Errno::ELOOP.into());
        }
        if target.is_absolute() {
            way.truncate(1);
        }
        for name in names(&target).into_iter().rev() {
            ahead.push_front(name);
        }
    }
    way.pop().ok_or_else(|| Errno::ENOENT.into())
}

/// What has this name in `directory`, be it a link.
fn open_here(directory: &OwnedFd, name: &OsStr) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    nix::fcntl::openat(directory, name, flags, Mode::empty())
}

/// Where a link leads; nothing for what is none.
fn link_target(fd: &OwnedFd) -> nix::Result<Option<PathBuf>> {
    let kind = SFlag::from_bits_truncate(fstat(fd)?.st_mode) & SFlag::S_IFMT;
    match kind == SFlag::S_IFLNK {
        true => nix::fcntl::readlinkat(fd, "").map(|target| Some(target.into())),
        false => Ok(None),
    }
}

fn make(directory: &OwnedFd, name: &OsStr, file: bool) -> io::Result<()> {
    if file {
        let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        nix::fcntl::openat(directory, name, flags, Mode::from_bits_truncate(0o644))?;
    } else {
        nix::sys::stat::mkdirat(directory, name, Mode::from_bits_truncate(0o755))?;
    }
    Ok(())
}

/// The names in `path`, ".." among them.
fn names(path: &Path) -> Vec<OsString> {
    let components = path.components();
    components
        .filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir))
        .map(|part| part.as_os_str().to_owned())
        .collect()
}

/// The names in `path`, ".." applied as far as the root.
pub(crate) fn normal_components(path: &Path) -> Vec<OsString> {
    let mut normal = Vec::new();
    for name in names(path) {
        if name == ".." {
            normal.pop();
        } else {
            normal.push(name);
        }
    }
    normal
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::AsFd;

    use super::*;

    fn open(root: &Path) -> OwnedFd {
        fs::File::open(root).unwrap().into()
    }

    #[test]
    fn missing_parents_are_made() {
        let dir = tempfile::tempdir().unwrap();
        let root = open(dir.path());
        ensure_in_root(root.as_fd(), Path::new("/a/b/c"), Missing::File).unwrap();
        assert!(dir.path().join("a/b").is_dir());
        assert!(dir.path().join("a/b/c").is_file());
    }

    #[test]
    fn an_absolute_link_stays_inside() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("real")).unwrap();
        std::os::unix::fs::symlink("/real", dir.path().join("link")).unwrap();
        let root = open(dir.path());
        ensure_in_root(root.as_fd(), Path::new("/link/x"), Missing::Directory).unwrap();
        assert!(dir.path().join("real/x").is_dir());
    }

    #[test]
    fn links_on_the_way_are_noticed() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("real/below")).unwrap();
        std::os::unix::fs::symlink("real", dir.path().join("link")).unwrap();
        let root = open(dir.path());
        let plain = |path| is_without_links(root.as_fd(), Path::new(path)).unwrap();
        assert!(plain("/real/below") && plain("/missing"));
        assert!(!plain("/link") && !plain("/link/below"));
    }

    #[test]
    fn parent_components_stop_at_the_root() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("root")).unwrap();
        let root = open(&dir.path().join("root"));
        ensure_in_root(root.as_fd(), Path::new("../../x"), Missing::Directory).unwrap();
        assert!(dir.path().join("root/x").is_dir());
        assert!(!dir.path().join("x").exists());
    }

    #[test]
    fn what_a_link_leads_to_is_made_inside() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("root");
        fs::create_dir_all(top.join("etc")).unwrap();
        let link = |target, name| std::os::unix::fs::symlink(target, top.join(name)).unwrap();
        link("/tmp/hosts", "etc/hosts");
        link("../../../run/there", "etc/there");
        link("etc/there/deep", "short");
        let root = open(&top);
        let make = |path, missing| ensure_in_root(root.as_fd(), Path::new(path), missing).unwrap();
        make("/etc/hosts", Missing::File);
        make("/short/x", Missing::Directory);
        assert!(top.join("tmp/hosts").is_file());
        assert!(top.join("run/there/deep/x").is_dir());
        assert!(!dir.path().join("run").exists());
    }

    #[test]
    fn a_link_to_itself_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("link", dir.path().join("link")).unwrap();
        let root = open(dir.path());
        assert!(ensure_in_root(root.as_fd(), Path::new("/link/x"), Missing::Directory).is_err());
    }
}
