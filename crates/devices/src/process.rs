//! What all back ends do at their start.

use std::io::Write;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicUsize, Ordering};

use log::{LevelFilter, Log, Metadata, Record};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{getsockopt, sockopt};

/// Why the process could not be prepared.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A number on the command line is not a descriptor that the caller left open.
    #[error("cannot use file descriptor {fd}: the caller did not pass it on")]
    NotInherited {
        /// The number given.
        fd: RawFd,
        /// What the kernel said.
        source: Errno,
    },
    /// An inherited descriptor is not a listening socket.
    #[error("file descriptor {fd} is not a listening socket")]
    NotListening {
        /// The number given.
        fd: RawFd,
    },
    /// Descriptors that are none of our business could not be closed.
    #[error("cannot close the inherited file descriptors")]
    CloseInherited(#[source] Errno),
    /// A resource limit could not be set.
    #[error("cannot set the limit of {what}")]
    Limit {
        /// What is limited.
        what: &'static str,
        /// What the kernel said.
        source: Errno,
    },
}

/// Takes over a descriptor that the caller left open.
///
/// # Safety
/// Nothing else in this process may own `fd`.
///
/// # Errors
/// When `fd` is not open.
pub unsafe fn inherit(fd: RawFd) -> Result<OwnedFd, Error> {
    if fd < 0 {
        let source = Errno::EBADF;
        return Err(Error::NotInherited { fd, source });
    }
    // SAFETY: the caller vouches for the ownership; a number that is not open is caught by the next
    // call and the value is then forgotten, not closed.
    let owned = unsafe { OwnedFd::from_raw_fd(fd) };
    if let Err(source) = fcntl(&owned, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)) {
        std::mem::forget(owned);
        return Err(Error::NotInherited { fd, source });
    }
    Ok(owned)
}

/// Takes over a listening socket that the caller bound and left open.
///
/// # Safety
/// Nothing else in this process may own `fd`.
///
/// # Errors
/// When `fd` is not open or does not listen.
pub unsafe fn inherit_listener(fd: RawFd) -> Result<OwnedFd, Error> {
    // SAFETY: the caller vouches for it.
    let owned = unsafe { inherit(fd) }?;
    match getsockopt(&owned, sockopt::AcceptConn) {
        Ok(true) => Ok(owned),
        Ok(false) | Err(_) => Err(Error::NotListening { fd }),
    }
}

/// Closes every descriptor but the standard ones and `keep`: what the caller left open by mistake shall
/// not be there when the guest takes the process over.
///
/// # Safety
/// Nothing in this process may own a descriptor yet, except `keep`.
///
/// # Errors
/// When the kernel refuses.
pub unsafe fn close_all_but(keep: &[RawFd]) -> Result<(), Error> {
    let mut keep: Vec<u32> = keep
        .iter()
        .filter_map(|&fd| u32::try_from(fd).ok())
        .collect();
    keep.sort_unstable();
    let mut first: u32 = 3;
    for fd in keep.into_iter().filter(|&fd| fd >= 3) {
        if first < fd {
            close_range(first, fd - 1)?;
        }
        first = fd.saturating_add(1);
    }
    close_range(first, u32::MAX)
}

fn close_range(first: u32, last: u32) -> Result<(), Error> {
    // SAFETY: the caller of `close_all_but` vouches that nobody owns these descriptors.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    Errno::result(result)
        .map(drop)
        .map_err(Error::CloseInherited)
}

/// Raises the number of descriptors to `wanted`, or to the most that is allowed, and returns it. Core
/// dumps are turned off: they would hold the guest's memory.
///
/// # Errors
/// When the kernel refuses a limit that it allows.
pub fn limit_resources(wanted: u64) -> Result<u64, Error> {
    let limit = |what| move |source| Error::Limit { what, source };
    setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(limit("core dumps"))?;
    let what = "open files";
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(limit(what))?;
    if setrlimit(Resource::RLIMIT_NOFILE, wanted, wanted).is_ok() {
        return Ok(wanted);
    }
    // Above the hard limit, and not allowed to raise that.
    let most = wanted.min(hard);
    setrlimit(Resource::RLIMIT_NOFILE, most, most).map_err(limit(what))?;
    Ok(most)
}

/// One heap for all threads: these processes have few and allocate little, and every further heap
/// costs memory in every pod.
pub fn use_one_heap() {
    // SAFETY: changes a parameter of the allocator, at any time. A C library that does not know it
    // says so by the result, and then there is nothing to save.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

/// The most lines that a process logs. The guest can cause most of them, as many as it likes.
const MAX_LINES: usize = 100;

/// Sends the libraries' warnings and errors to stderr, a line each, until there are too many.
pub fn log_to_stderr(program: &'static str) {
    let lines = AtomicUsize::new(0);
    let logger = Box::leak(Box::new(Stderr { program, lines }));
    // Fails only if a logger is there already, and then that one serves.
    if log::set_logger(logger).is_ok() {
        log::set_max_level(LevelFilter::Warn);
    }
}

struct Stderr {
    program: &'static str,
    lines: AtomicUsize,
}

impl Log for Stderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= LevelFilter::Warn
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let level = record.level().as_str().to_ascii_lowercase();
        let text = match self.lines.fetch_add(1, Ordering::Relaxed) {
            line if line < MAX_LINES => record.args().to_string(),
            MAX_LINES => "no more messages: there are too many".to_string(),
            _ => return,
        };
        // There is nowhere left to report a stderr that does not work.
        let _ = writeln!(
            std::io::stderr().lock(),
            "{}: {level}: {text}",
            self.program
        );
    }

    fn flush(&self) {}
}
