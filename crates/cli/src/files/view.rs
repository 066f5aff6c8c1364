//! A container's root as its processes would see it.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use hull_sandbox::mount::{MountSpec, own_namespace};
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::mount::{MntFlags, umount2};
use nix::sys::stat::{Mode, mkdirat};

/// Why a root cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ViewError {
    /// A namespace of one's own for the mount.
    #[error("cannot make a mount namespace")]
    Namespace(#[source] io::Error),
    /// The root cannot be mounted.
    #[error("cannot mount the container's root")]
    Mount(#[source] hull_sandbox::SandboxError),
    /// The directory cannot be opened.
    #[error("cannot open {0}")]
    Open(PathBuf, #[source] io::Error),
}

/// A container's root. Paths are looked up as with chroot(2): links and `..` stay inside.
#[derive(Debug)]
pub(crate) struct RootView {
    dir: OwnedFd,
}

/// Largest file that is read into memory, bytes.
const MAX_TEXT: u64 = 4 << 20;

impl RootView {
    /// Mounts a root where nobody else sees it: in a mount namespace that ends at once, so that only
    /// this view holds the mount. `scratch` is any directory.
    pub(crate) fn mount(root: &MountSpec, scratch: &Path) -> Result<Self, ViewError> {
        if root.kind == "bind" {
            return Self::of_directory(Path::new(&root.source));
        }
        // A thread's unshare leaves the other threads where they are.
        let dir = std::thread::scope(|scope| {
            let mounting = scope.spawn(|| mount_detached(root, scratch));
            mounting.join().expect("the mounting thread does not panic")
        })?;
        Ok(Self { dir })
    }

    /// A directory as a root.
    pub(crate) fn of_directory(path: &Path) -> Result<Self, ViewError> {
        let dir = open_path(path).map_err(|source| ViewError::Open(path.to_owned(), source))?;
        Ok(Self { dir })
    }

    /// Opens a path; nothing when it does not exist.
    pub(crate) fn open(&self, path: &Path, flags: OFlag) -> io::Result<Option<OwnedFd>> {
        let how = OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        match openat2(&self.dir, path, how) {
            Ok(fd) => Ok(Some(fd)),
            Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Opens a directory; nothing when there is none of this name.
    pub(crate) fn open_dir(&self, path: &str) -> io::Result<Option<OwnedFd>> {
        self.open(Path::new(path), OFlag::O_RDONLY | OFlag::O_DIRECTORY)
    }

    /// The text of a small file; empty when it does not exist. Bytes that are not UTF-8 are replaced.
    pub(crate) fn read_text(&self, path: &str) -> io::Result<String> {
        // Not blocking: a FIFO in the place of the file must not stop anybody.
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let Some(fd) = self.open(Path::new(path), flags)? else {
            return Ok(String::new());
        };
        let file = File::from(fd);
        if !file.metadata()?.is_file() {
            return Ok(String::new());
        }
        let mut bytes = Vec::new();
        file.take(MAX_TEXT + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MAX_TEXT {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                "longer than 4 MiB",
            ));
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Makes a directory and its parents where they do not exist.
    pub(crate) fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        if self
            .open(path, OFlag::O_PATH | OFlag::O_DIRECTORY)?
            .is_some()
        {
            return Ok(());
        }
        let mut so_far = PathBuf::from("/");
        for component in path.components() {
            let Component::Normal(name) = component else {
                continue;
            };
            let parent = self.existing_dir(&so_far)?;
            match mkdirat(&parent, name, Mode::from_bits_truncate(0o755)) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(error) => return Err(error.into()),
            }
            so_far.push(name);
        }
        self.existing_dir(&so_far).map(drop)
    }

    fn existing_dir(&self, path: &Path) -> io::Result<OwnedFd> {
        self.open(path, OFlag::O_PATH | OFlag::O_DIRECTORY)?
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotADirectory))
    }

    /// The directory that holds a path's last component, which need not exist, and that component.
    pub(crate) fn parent<'a>(&self, path: &'a Path) -> io::Result<Option<(OwnedFd, &'a OsStr)>> {
        let Some(name) = path.file_name() else {
            return Ok(None);
        };
        let parent = path.parent().unwrap_or(Path::new("/"));
        let parent = if parent.as_os_str().is_empty() {
            Path::new("/")
        } else {
            parent
        };
        let dir = self.open(parent, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
        Ok(dir.map(|dir| (dir, name)))
    }
}

fn open_path(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    Ok(nix::fcntl::open(path, flags, Mode::empty())?)
}

fn mount_detached(root: &MountSpec, scratch: &Path) -> Result<OwnedFd, ViewError> {
    own_namespace().map_err(ViewError::Namespace)?;
    root.mount(scratch).map_err(ViewError::Mount)?;
    let opened = open_path(scratch);
    umount2(scratch, MntFlags::MNT_DETACH).map_err(|error| ViewError::Namespace(error.into()))?;
    opened.map_err(|source| ViewError::Open(scratch.to_owned(), source))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn root() -> (tempfile::TempDir, RootView) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("root/etc")).unwrap();
        std::fs::write(dir.path().join("secret"), "host").unwrap();
        let view = RootView::of_directory(&dir.path().join("root")).unwrap();
        (dir, view)
    }

    #[test]
    fn links_do_not_lead_out() {
        let (dir, view) = root();
        let etc = dir.path().join("root/etc");
        symlink("../../secret", etc.join("up")).unwrap();
        symlink(dir.path().join("secret"), etc.join("absolute")).unwrap();
        assert_eq!(view.read_text("/etc/up").unwrap(), "");
        assert_eq!(view.read_text("/etc/absolute").unwrap(), "");
        assert_eq!(view.read_text("/../../secret").unwrap(), "");
        std::fs::write(dir.path().join("root/secret"), "inside").unwrap();
        assert_eq!(view.read_text("/etc/up").unwrap(), "inside");
    }

    #[test]
    fn a_fifo_in_the_place_of_a_file_is_no_file() {
        let (dir, view) = root();
        let fifo = dir.path().join("root/etc/passwd");
        nix::unistd::mkfifo(&fifo, Mode::from_bits_truncate(0o600)).unwrap();
        assert_eq!(view.read_text("/etc/passwd").unwrap(), "");
    }

    #[test]
    fn directories_are_made_inside() {
        let (dir, view) = root();
        symlink("/../../outside", dir.path().join("root/link")).unwrap();
        view.create_dir_all(Path::new("/a/b/c")).unwrap();
        assert!(dir.path().join("root/a/b/c").is_dir());
        assert!(view.create_dir_all(Path::new("/link/x")).is_err());
        assert!(!dir.path().join("outside").exists());
    }
}
