//! Paths inside a container's root, resolved so that no symbolic link leads out of it.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use super::check_fd;

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
    how.resolve = libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS;
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

/// A handle on `path` in `root`, made first where it is missing, with its parent directories.
pub(crate) fn ensure_in_root(
    root: BorrowedFd<'_>,
    path: &Path,
    missing: Missing,
) -> io::Result<OwnedFd> {
    match open_in_root(root, path, OFlag::O_PATH, Mode::empty()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        other => return other,
    }
    let names = normal_components(path);
    let mut prefix = PathBuf::from("/");
    let mut directory = open_in_root(root, &prefix, OFlag::O_PATH, Mode::empty())?;
    for (index, name) in names.iter().enumerate() {
        prefix.push(name);
        let last = index + 1 == names.len();
        let opened = match open_in_root(root, &prefix, OFlag::O_PATH, Mode::empty()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let make_file = last && missing == Missing::File;
                make(&directory, name, make_file)?;
                open_in_root(root, &prefix, OFlag::O_PATH, Mode::empty())?
            }
            other => other?,
        };
        directory = opened;
    }
    Ok(directory)
}

fn make(directory: &OwnedFd, name: &std::ffi::OsStr, file: bool) -> io::Result<()> {
    if file {
        let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        nix::fcntl::openat(directory, name, flags, Mode::from_bits_truncate(0o644))?;
    } else {
        nix::sys::stat::mkdirat(directory, name, Mode::from_bits_truncate(0o755))?;
    }
    Ok(())
}

/// The names in `path`, ".." applied as far as the root.
fn normal_components(path: &Path) -> Vec<std::ffi::OsString> {
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => names.push(name.to_owned()),
            Component::ParentDir => {
                names.pop();
            }
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    names
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
    fn parent_components_stop_at_the_root() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("root")).unwrap();
        let root = open(&dir.path().join("root"));
        ensure_in_root(root.as_fd(), Path::new("../../x"), Missing::Directory).unwrap();
        assert!(dir.path().join("root/x").is_dir());
        assert!(!dir.path().join("x").exists());
    }

    #[test]
    fn a_dangling_link_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/nowhere", dir.path().join("link")).unwrap();
        let root = open(dir.path());
        assert!(ensure_in_root(root.as_fd(), Path::new("/link/x"), Missing::Directory).is_err());
    }
}
