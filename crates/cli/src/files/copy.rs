//! Copies files and whole directories from one open directory into another.

use std::ffi::OsStr;
use std::fs::{File, FileTimes};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat, renameat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat, mkdirat, mknodat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, symlinkat, unlinkat};
use xattr::FileExt;

use super::RootView;
use crate::id;

/// Why a copy failed, and at which file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CopyError {
    /// An operation failed.
    #[error("cannot {what} {path}")]
    File {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// There is nothing to copy, or no directory to copy into.
    #[error("no such file or directory: {0}")]
    NotFound(PathBuf),
    /// A file stands where a directory has to go.
    #[error("{0} is not a directory")]
    NotADirectory(PathBuf),
    /// A directory stands where a file has to go.
    #[error("{0} is a directory")]
    IsADirectory(PathBuf),
}

impl CopyError {
    /// For `map_err`.
    pub(crate) fn at<E: Into<io::Error>>(
        what: &'static str,
        path: &Path,
    ) -> impl FnOnce(E) -> Self {
        let path = path.to_owned();
        move |error| Self::File {
            what,
            path,
            source: error.into(),
        }
    }
}

/// How files are copied.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct CopyOptions {
    /// Keep owner, group and extended attributes; else the copy belongs to whoever copies.
    pub(crate) preserve: bool,
    /// Where the source is a symbolic link, copy what it leads to. Links below it are copied as such.
    pub(crate) follow: bool,
}

/// Copies from one root to another with the rules of `docker cp`: into a directory that exists, else
/// under the target's name; of a source that ends in `/.` the contents.
pub(crate) fn copy_between(
    source: (&RootView, &Path),
    target: (&RootView, &Path),
    options: CopyOptions,
) -> Result<(), CopyError> {
    let (path, into) = (source.1, target.1);
    let ends_in = |path: &Path, end: &str| path.as_os_str().as_bytes().ends_with(end.as_bytes());
    let contents = ends_in(path, "/.") || path.file_name().is_none();
    let follow = options.follow || contents || ends_in(path, "/");
    let entry = source.0.parent(path).map_err(CopyError::at("find", path))?;
    let opened = match (&entry, follow) {
        (Some((dir, name)), false) if is_dir(dir.as_fd(), name) == Some(false) => None,
        _ => {
            let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK;
            let opened = source
                .0
                .open(path, flags)
                .map_err(CopyError::at("open", path))?;
            Some(opened.ok_or_else(|| CopyError::NotFound(path.to_owned()))?)
        }
    };
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
    let existing = target
        .0
        .open(into, flags)
        .map_err(CopyError::at("open", into))?;
    if let (Some(dir), Some(existing), true) = (&opened, &existing, contents) {
        return copy_dir(dir.as_fd(), existing.as_fd(), path, options);
    }
    let (dir, name) = match (existing, path.file_name()) {
        (Some(dir), Some(name)) => (dir, name),
        _ if ends_in(into, "/") && opened.as_ref().is_none_or(|fd| !is_open_dir(fd)) => {
            return Err(CopyError::NotADirectory(into.to_owned()));
        }
        _ => {
            let parent = target.0.parent(into).map_err(CopyError::at("find", into))?;
            parent.ok_or_else(|| CopyError::NotFound(into.to_owned()))?
        }
    };
    let to = (dir.as_fd(), name);
    match (opened, entry) {
        (Some(fd), _) => copy_opened(fd, to, path, options),
        (None, Some((dir, name))) => copy_entry((dir.as_fd(), name), to, path, options),
        (None, None) => Err(CopyError::NotFound(path.to_owned())),
    }
}

fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits())
}

/// Whether an entry is a directory; nothing when there is none.
fn is_dir(dir: BorrowedFd<'_>, name: &OsStr) -> Option<bool> {
    let stat = fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW).ok()?;
    Some(kind(&stat) == SFlag::S_IFDIR)
}

fn is_open_dir(fd: &OwnedFd) -> bool {
    fstat(fd).is_ok_and(|stat| kind(&stat) == SFlag::S_IFDIR)
}

/// Copies a file or directory that is open for reading.
fn copy_opened(
    source: OwnedFd,
    to: (BorrowedFd<'_>, &OsStr),
    path: &Path,
    options: CopyOptions,
) -> Result<(), CopyError> {
    if is_open_dir(&source) {
        let target = make_dir(to, path)?;
        return copy_dir(source.as_fd(), target.as_fd(), path, options);
    }
    replace(to, path, |draft| {
        copy_regular(source.into(), draft, path, options)
    })
}

/// Copies what a directory holds, and the directory's own owner and mode, into `target`, which exists.
pub(crate) fn copy_tree(source: &OwnedFd, target: &Path) -> Result<(), CopyError> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let opened = nix::fcntl::open(target, flags, Mode::empty());
    let into = opened.map_err(CopyError::at("open", target))?;
    let options = CopyOptions {
        preserve: true,
        follow: false,
    };
    copy_dir(source.as_fd(), into.as_fd(), target, options)
}

/// Copies one entry of a directory, a symbolic link as such. A directory that exists is merged into;
/// any other file is replaced. `path` is for messages.
fn copy_entry(
    from: (BorrowedFd<'_>, &OsStr),
    to: (BorrowedFd<'_>, &OsStr),
    path: &Path,
    options: CopyOptions,
) -> Result<(), CopyError> {
    let stat = fstatat(from.0, from.1, AtFlags::AT_SYMLINK_NOFOLLOW);
    let stat = stat.map_err(CopyError::at("read", path))?;
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let open = || openat(from.0, from.1, flags, Mode::empty()).map_err(CopyError::at("open", path));
    match kind(&stat) {
        SFlag::S_IFDIR | SFlag::S_IFREG => copy_opened(open()?, to, path, options),
        // Sockets mean nothing without whoever listens.
        SFlag::S_IFSOCK => Ok(()),
        SFlag::S_IFLNK => replace(to, path, |draft| {
            let target = readlinkat(from.0, from.1).map_err(CopyError::at("read", path))?;
            symlinkat(target.as_os_str(), draft.0, draft.1)
                .map_err(CopyError::at("create", path))?;
            copy_owner(&stat, draft, path, options)
        }),
        special => replace(to, path, |draft| {
            let mode = Mode::from_bits_truncate(stat.st_mode & 0o7777);
            mknodat(draft.0, draft.1, special, mode, stat.st_rdev)
                .map_err(CopyError::at("create", path))?;
            copy_owner(&stat, draft, path, options)
        }),
    }
}

fn copy_owner(
    stat: &FileStat,
    to: (BorrowedFd<'_>, &OsStr),
    path: &Path,
    options: CopyOptions,
) -> Result<(), CopyError> {
    if !options.preserve {
        return Ok(());
    }
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    fchownat(
        to.0,
        to.1,
        Some(uid),
        Some(gid),
        AtFlags::AT_SYMLINK_NOFOLLOW,
    )
    .map_err(CopyError::at("change the owner of", path))
}

/// Puts a file in its place under another name first: what is there is replaced as a whole or not at
/// all, and is never written through.
fn replace(
    to: (BorrowedFd<'_>, &OsStr),
    path: &Path,
    make: impl FnOnce((BorrowedFd<'_>, &OsStr)) -> Result<(), CopyError>,
) -> Result<(), CopyError> {
    if is_dir(to.0, to.1) == Some(true) {
        return Err(CopyError::IsADirectory(path.to_owned()));
    }
    let draft = format!(".hull-{}", id::random());
    let draft = OsStr::new(&draft);
    let placed = make((to.0, draft))
        .and_then(|()| renameat(to.0, draft, to.0, to.1).map_err(CopyError::at("create", path)));
    if placed.is_err() {
        // The first error is the one to tell; the draft may not even exist.
        let _ = unlinkat(to.0, draft, UnlinkatFlags::NoRemoveDir);
    }
    placed
}

/// The directory of this name, made where there is none.
fn make_dir(to: (BorrowedFd<'_>, &OsStr), path: &Path) -> Result<OwnedFd, CopyError> {
    match mkdirat(to.0, to.1, Mode::from_bits_truncate(0o700)) {
        Ok(()) | Err(Errno::EEXIST) => {}
        Err(error) => return Err(CopyError::at("create", path)(error)),
    }
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    match openat(to.0, to.1, flags, Mode::empty()) {
        Ok(dir) => Ok(dir),
        Err(Errno::ENOTDIR | Errno::ELOOP) => Err(CopyError::NotADirectory(path.to_owned())),
        Err(error) => Err(CopyError::at("open", path)(error)),
    }
}

fn copy_dir(
    source: BorrowedFd<'_>,
    target: BorrowedFd<'_>,
    path: &Path,
    options: CopyOptions,
) -> Result<(), CopyError> {
    let own = openat(
        source,
        ".",
        OFlag::O_RDONLY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )
    .map_err(CopyError::at("open", path))?;
    let mut dir = Dir::from_fd(own).map_err(CopyError::at("list", path))?;
    for entry in dir.iter() {
        let entry = entry.map_err(CopyError::at("list", path))?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name != "." && name != ".." {
            copy_entry((source, name), (target, name), &path.join(name), options)?;
        }
    }
    let clone = |fd: BorrowedFd<'_>| fd.try_clone_to_owned().map(File::from);
    let files = clone(source).and_then(|source| Ok((source, clone(target)?)));
    let (source, target) = files.map_err(CopyError::at("open", path))?;
    copy_metadata(&source, &target, options).map_err(CopyError::at("set the attributes of", path))
}

fn copy_regular(
    mut source: File,
    to: (BorrowedFd<'_>, &OsStr),
    path: &Path,
    options: CopyOptions,
) -> Result<(), CopyError> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
    let target = openat(to.0, to.1, flags, Mode::from_bits_truncate(0o600))
        .map_err(CopyError::at("create", path))?;
    let mut target = File::from(target);
    io::copy(&mut source, &mut target).map_err(CopyError::at("copy", path))?;
    copy_metadata(&source, &target, options).map_err(CopyError::at("set the attributes of", path))
}

fn copy_metadata(source: &File, target: &File, options: CopyOptions) -> io::Result<()> {
    let metadata = source.metadata()?;
    if options.preserve {
        // The owner first: changing it clears the setuid bit.
        std::os::unix::fs::fchown(target, Some(metadata.uid()), Some(metadata.gid()))?;
        for name in source.list_xattr()? {
            // Those of an overlay describe its layers, not the file.
            let of_overlay = [&b"trusted.overlay."[..], b"user.overlay."];
            if of_overlay
                .iter()
                .any(|prefix| name.as_bytes().starts_with(prefix))
            {
                continue;
            }
            if let Some(value) = source.get_xattr(&name)? {
                target.set_xattr(&name, &value)?;
            }
        }
    }
    let mode = metadata.mode() & 0o7777;
    target.set_permissions(std::fs::Permissions::from_mode(mode))?;
    target.set_times(FileTimes::new().set_modified(metadata.modified()?))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn open(path: &Path) -> OwnedFd {
        File::open(path).unwrap().into()
    }

    #[test]
    fn a_tree_arrives_whole() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir_all(from.join("a/b")).unwrap();
        fs::create_dir(&to).unwrap();
        fs::write(from.join("a/b/file"), "text").unwrap();
        fs::set_permissions(from.join("a/b/file"), PermissionsExt::from_mode(0o640)).unwrap();
        symlink("/nowhere", from.join("a/link")).unwrap();
        copy_tree(&open(&from), &to).unwrap();
        assert_eq!(fs::read(to.join("a/b/file")).unwrap(), b"text");
        let mode = fs::metadata(to.join("a/b/file")).unwrap().mode();
        assert_eq!(mode & 0o7777, 0o640);
        assert_eq!(
            fs::read_link(to.join("a/link")).unwrap(),
            Path::new("/nowhere")
        );
    }

    #[test]
    fn nothing_is_written_through_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir_all(from.join("sub")).unwrap();
        fs::create_dir(&to).unwrap();
        fs::write(from.join("file"), "new").unwrap();
        fs::write(from.join("sub/x"), "x").unwrap();
        fs::write(dir.path().join("victim"), "old").unwrap();
        fs::create_dir(dir.path().join("victims")).unwrap();
        symlink("../victim", to.join("file")).unwrap();
        copy(&from, "/file", &to, "/file").unwrap();
        assert_eq!(fs::read(dir.path().join("victim")).unwrap(), b"old");
        assert_eq!(fs::read(to.join("file")).unwrap(), b"new");
        symlink("../victims", to.join("sub")).unwrap();
        let error = copy_tree(&open(&from), &to).unwrap_err();
        assert!(matches!(error, CopyError::NotADirectory(_)));
        assert!(!dir.path().join("victims/x").exists());
    }

    /// Copies between two directories as if they were roots.
    fn copy(from: &Path, source: &str, to: &Path, target: &str) -> Result<(), CopyError> {
        let from = RootView::of_directory(from).unwrap();
        let to = RootView::of_directory(to).unwrap();
        let options = CopyOptions::default();
        copy_between(
            (&from, Path::new(source)),
            (&to, Path::new(target)),
            options,
        )
    }

    fn two_roots() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir_all(from.join("d/e")).unwrap();
        fs::write(from.join("d/e/f"), "f").unwrap();
        fs::create_dir_all(to.join("here")).unwrap();
        (dir, from, to)
    }

    #[test]
    fn targets_are_chosen_as_by_docker() {
        for (source, target, expected) in [
            ("/d", "/here", "here/d/e/f"),
            ("/d/", "/here", "here/d/e/f"),
            ("/d/.", "/here", "here/e/f"),
            ("/d", "/new", "new/e/f"),
            ("/d/.", "/new", "new/e/f"),
            ("/d/e/f", "/here", "here/f"),
            ("/d/e/f", "/here/g", "here/g"),
            ("/", "/here", "here/d/e/f"),
        ] {
            let (_dir, from, to) = two_roots();
            copy(&from, source, &to, target).unwrap();
            assert!(to.join(expected).is_file(), "{source} -> {target}");
        }
    }

    #[test]
    fn what_is_not_there_is_an_error() {
        let (_dir, from, to) = two_roots();
        for (source, target) in [
            ("/none", "/here"),
            ("/d", "/no/where"),
            ("/d/e/f", "/new/"),
            ("/d/e/f/", "/x"),
        ] {
            assert!(
                copy(&from, source, &to, target).is_err(),
                "{source} -> {target}"
            );
        }
        assert_eq!(fs::read_dir(&to).unwrap().count(), 1);
    }

    #[test]
    fn a_link_in_the_target_leads_nowhere_outside() {
        let (dir, from, to) = two_roots();
        fs::create_dir(dir.path().join("outside")).unwrap();
        symlink("../outside", to.join("out")).unwrap();
        assert!(copy(&from, "/d", &to, "/out").is_err());
        assert_eq!(fs::read_dir(dir.path().join("outside")).unwrap().count(), 0);
    }

    #[test]
    fn a_directory_is_not_replaced_by_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir(&from).unwrap();
        fs::create_dir_all(to.join("x")).unwrap();
        fs::write(from.join("x"), "").unwrap();
        let error = copy_tree(&open(&from), &to).unwrap_err();
        assert!(matches!(error, CopyError::IsADirectory(_)));
        assert_eq!(fs::read_dir(&to).unwrap().count(), 1);
    }
}
