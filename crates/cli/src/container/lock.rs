//! Locks that end with the process that holds them.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

use super::store::StoreError;

/// An exclusive lock on a file, held until it is dropped. It belongs to the open file (an "open file
/// description lock"), so that it can be asked for without being taken.
#[derive(Debug)]
pub(crate) struct ContainerLock {
    _file: File,
}

impl ContainerLock {
    /// Takes the lock if it is free.
    pub(crate) fn try_take(path: &Path) -> Result<Option<Self>, StoreError> {
        Self::take(path, |file| FcntlArg::F_OFD_SETLK(file))
    }

    /// Takes the lock when it is free.
    pub(crate) fn wait(path: &Path) -> Result<Self, StoreError> {
        let taken = Self::take(path, |file| FcntlArg::F_OFD_SETLKW(file))?;
        Ok(taken.expect("a lock that was waited for is taken"))
    }

    fn take(
        path: &Path,
        command: impl Fn(&libc::flock) -> FcntlArg<'_>,
    ) -> Result<Option<Self>, StoreError> {
        let failed = |source| StoreError::Lock(path.to_owned(), source);
        let file = open(path).map_err(failed)?;
        loop {
            match fcntl(&file, command(&whole_file())) {
                Ok(_) => return Ok(Some(Self { _file: file })),
                Err(Errno::EAGAIN | Errno::EACCES) => return Ok(None),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(failed(error.into())),
            }
        }
    }

    /// Whether somebody holds the lock. A file that is not there is not locked.
    pub(crate) fn is_held(path: &Path) -> Result<bool, StoreError> {
        let failed = |source| StoreError::Lock(PathBuf::from(path), source);
        let file = match File::options().read(true).write(true).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(failed(error)),
        };
        let mut lock = whole_file();
        // SAFETY: the descriptor is open and the lock a valid `flock`; both outlive the call. (nix's
        // own wrapper lacks this command's result.)
        let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) };
        if result < 0 {
            return Err(failed(io::Error::last_os_error()));
        }
        Ok(i32::from(lock.l_type) != libc::F_UNLCK)
    }
}

fn open(path: &Path) -> io::Result<File> {
    File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(path)
}

fn whole_file() -> libc::flock {
    libc::flock {
        l_type: i16::try_from(libc::F_WRLCK).expect("lock types are small"),
        l_whence: i16::try_from(libc::SEEK_SET).expect("seek kinds are small"),
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_excludes_others_until_it_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        assert!(!ContainerLock::is_held(&path).unwrap());
        let held = ContainerLock::try_take(&path).unwrap().unwrap();
        assert!(ContainerLock::is_held(&path).unwrap());
        assert!(ContainerLock::try_take(&path).unwrap().is_none());
        drop(held);
        assert!(!ContainerLock::is_held(&path).unwrap());
        ContainerLock::wait(&path).unwrap();
    }
}
