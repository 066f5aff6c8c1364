//! Processes that outlive the one that started them.
//!
//! The pod process may be killed and started again while its VMM runs on, so a helper is known by a
//! [`ProcessRecord`] that survives in the state file, and its end is seen through a pidfd, which
//! works for a child and a stranger alike.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use tokio::io::unix::AsyncFd;
use tokio::process::{Child, Command};

use crate::error::VmError;
use crate::program::Program;

/// Names a process for good: process ids are used again, pairs of id and start time are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessRecord {
    /// Process id.
    pub pid: i32,
    /// Start time after boot, clock ticks (field 22 of `/proc/PID/stat`).
    pub start_ticks: u64,
}

impl ProcessRecord {
    /// The record of a process that was not reaped yet.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn of(pid: i32) -> io::Result<Self> {
        Ok(Self::with_state(pid)?.0)
    }

    /// Whether this very process still runs; a zombie does not.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        Self::with_state(self.pid).is_ok_and(|(now, state)| now == *self && !"ZX".contains(state))
    }

    /// Whether this very process was not reaped yet: it runs, or is a zombie.
    #[must_use]
    pub fn is_there(&self) -> bool {
        Self::of(self.pid).is_ok_and(|now| now == *self)
    }

    /// The user that the process acts as.
    pub(crate) fn uid(&self) -> io::Result<u32> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        if !self.is_alive() {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        // "Uid:", then the real and the effective one.
        let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
        let uid = uids.and_then(|uids| uids.split_whitespace().nth(1)?.parse().ok());
        uid.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "malformed status file"))
    }

    fn with_state(pid: i32) -> io::Result<(Self, char)> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The command name may hold anything, but ends with the last parenthesis.
        let parse = || {
            let (_, fields) = stat.rsplit_once(") ")?;
            let mut fields = fields.split(' ');
            let state = fields.next()?.chars().next()?;
            let start_ticks = fields.nth(18)?.parse().ok()?;
            Some((Self { pid, start_ticks }, state))
        };
        parse().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "malformed stat file"))
    }
}

/// Where a helper's standard error goes.
pub(crate) fn log_of(run_dir: &Path, program: &str) -> PathBuf {
    run_dir.join(format!("{program}.log"))
}

/// Where programs are when nobody says.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Far longer than a VMM takes from closing its connections to its end, also on a machine that has too much to do.
/// Only who waits for a VMM that has lost its back end without a reason, or has hung up, and goes on, waits as long.
const HEAD_START: Duration = Duration::from_secs(10);

/// "was killed by signal 9", "exited with status 1".
#[must_use]
pub fn describe_status(status: Option<std::process::ExitStatus>) -> String {
    match status {
        None => "ended".to_owned(),
        Some(status) => match (status.signal(), status.code()) {
            (Some(signal), _) => format!("was killed by signal {signal}"),
            (None, code) => format!("exited with status {}", code.unwrap_or(-1)),
        },
    }
}

/// A cause, and what the process said before, if it said anything.
pub(crate) fn with_last_words(cause: String, said: &str) -> String {
    match said.is_empty() {
        true => cause,
        false => format!("{cause}: {said}"),
    }
}

/// A helper process: started here, or taken over.
#[derive(Debug)]
pub struct Process {
    record: ProcessRecord,
    program: String,
    pidfd: AsyncFd<OwnedFd>,
    log: Option<PathBuf>,
    started_here: bool,
    child: Arc<Mutex<Option<Child>>>,
}

impl Process {
    /// Starts `command`. Its standard error goes to the file `log`, its other streams to nowhere.
    /// `inherited` file descriptors keep their numbers in the new process and are closed here.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn spawn(command: Command, inherited: Vec<OwnedFd>, log: &Path) -> Result<Self, VmError> {
        Self::spawn_with_output(command, inherited, Stdio::null(), log)
    }

    /// The same with a standard output.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub(crate) fn spawn_with_output(
        mut command: Command,
        inherited: Vec<OwnedFd>,
        output: Stdio,
        log: &Path,
    ) -> Result<Self, VmError> {
        use command_fds::CommandFdExt;

        let program = command
            .as_std()
            .get_program()
            .to_string_lossy()
            .into_owned();
        let program = program.rsplit('/').next().unwrap_or(&program).to_owned();
        let cannot = |what: &str| format!("{what} {program}");
        let log_file = File::create(log)
            .map_err(VmError::host(format!("create the log {}", log.display())))?;
        command.preserved_fds(inherited);
        let child = command
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(log_file)
            .kill_on_drop(false)
            .spawn()
            .map_err(VmError::host(cannot("start")))?;
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
        let pid = pid.expect("a child that was not waited for has a process id");
        let record =
            ProcessRecord::of(pid).map_err(VmError::host(cannot("read the start time of")))?;
        Ok(Self {
            record,
            pidfd: open_pidfd(pid).map_err(VmError::host(cannot("watch")))?,
            program,
            log: Some(log.to_owned()),
            started_here: true,
            child: Arc::new(Mutex::new(Some(child))),
        })
    }

    /// Takes over a process that another one had started.
    ///
    /// # Errors
    /// When it has ended.
    pub fn attach(record: ProcessRecord, program: &str) -> Result<Self, VmError> {
        let gone = VmError::host(format!("find {program} (process {})", record.pid));
        let pidfd = open_pidfd(record.pid).and_then(|pidfd| {
            // The order matters: the pidfd is of whoever has the id now, so look after opening it.
            if record.is_alive() {
                Ok(pidfd)
            } else {
                Err(io::Error::from_raw_os_error(libc::ESRCH))
            }
        });
        Ok(Self {
            record,
            program: program.to_owned(),
            pidfd: pidfd.map_err(gone)?,
            log: None,
            started_here: false,
            child: Arc::new(Mutex::new(None)),
        })
    }

    /// The same for a process of the machine in this directory, where its last words are.
    ///
    /// # Errors
    /// When it has ended.
    pub(crate) fn attach_in(
        run_dir: &Path,
        record: ProcessRecord,
        program: &str,
    ) -> Result<Self, VmError> {
        let mut process = Self::attach(record, program)?;
        process.log = Some(log_of(run_dir, program));
        Ok(process)
    }

    /// What [`Process::attach`] needs.
    #[must_use]
    pub fn record(&self) -> ProcessRecord {
        self.record
    }

    /// File name of the program.
    #[must_use]
    pub fn program(&self) -> &str {
        &self.program
    }

    /// Completes when the process has ended. Says how, where that can be known: only a parent is
    /// told. May be called any number of times.
    pub async fn wait(&self) -> Option<std::process::ExitStatus> {
        // A pidfd becomes readable when its process ends, and stays so.
        let readable = self.pidfd.readable().await;
        if let Err(error) = readable {
            tracing::error!(program = self.program, %error, "cannot watch a process");
        }
        let mut child = self.child.lock().expect("no holder of this lock panics");
        child.as_mut()?.try_wait().ok().flatten()
    }

    /// Completes when a back end has ended on its own account, with what to say about it.
    ///
    /// A back end ends in good order when its VMM closes the connection, which a VMM that is being
    /// killed does a moment before its own end can be seen. That end is the cause then, so it gets a
    /// head start: drop this future when it comes.
    pub async fn fault(&self) -> String {
        let status = self.wait().await;
        // Nobody but its parent learns how a process ended.
        let may_be_in_order = status.is_none_or(|status| status.success());
        if may_be_in_order {
            tokio::time::sleep(HEAD_START).await;
        }
        let how = describe_status(status);
        with_last_words(format!("{} {how}", self.program), &self.log_tail())
    }

    /// What to say of this VMM, which ended before it could be used or during `command`.
    pub(crate) fn died(
        &self,
        vmm: &Program,
        status: Option<std::process::ExitStatus>,
        command: Option<&'static str>,
    ) -> VmError {
        VmError::Died {
            program: vmm.name.to_owned(),
            status: describe_status(status),
            command,
            log: self.log_tail(),
        }
    }

    /// What came of a request to this VMM. A connection that broke because the VMM ended says less than that end.
    ///
    /// # Errors
    /// Those of the request, or that the VMM ended.
    pub(crate) async fn answered<T>(
        &self,
        vmm: &Program,
        request: impl Future<Output = Result<T, VmError>>,
    ) -> Result<T, VmError> {
        let result = request.await;
        let command = match &result {
            Err(VmError::Disconnected { command, source })
                if source.kind() != io::ErrorKind::TimedOut =>
            {
                *command
            }
            _ => return result,
        };
        match tokio::time::timeout(HEAD_START, self.wait()).await {
            Ok(status) => Err(self.died(vmm, status, Some(command))),
            Err(_still_there) => result,
        }
    }

    /// Whether the process has not ended.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.record.is_alive()
    }

    /// Sends SIGKILL and waits for the end.
    pub async fn kill(&self) {
        self.signal(Signal::SIGKILL);
        self.wait().await;
    }

    /// Sends a signal; a process that has ended is no error.
    pub fn signal(&self, signal: Signal) {
        // SAFETY: pidfd_send_signal takes a descriptor that we own and no pointer.
        let result = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.pidfd.as_raw_fd(),
                signal as libc::c_int,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        if result < 0 {
            let error = io::Error::last_os_error();
            if error.raw_os_error() != Some(libc::ESRCH) {
                tracing::error!(program = self.program, %error, "cannot signal a process");
            }
        }
    }

    /// Last bytes of what the process wrote to its standard error, at most 2 KiB.
    #[must_use]
    pub fn log_tail(&self) -> String {
        self.log.as_deref().map(tail).unwrap_or_default()
    }
}

fn tail(path: &Path) -> String {
    const MOST: u64 = 2048;
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(MOST)))?;
        let mut bytes = Vec::new();
        file.take(MOST).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    // A log that cannot be read only makes a message shorter.
    String::from_utf8_lossy(&read().unwrap_or_default())
        .trim()
        .to_owned()
}

fn open_pidfd(pid: i32) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: pidfd_open takes no pointer.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = RawFd::try_from(fd).expect("file descriptors are ints");
    // SAFETY: the kernel has just made this descriptor for us.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: an OwnedFd names the same open descriptor until it is dropped.
    Ok(unsafe { AsyncFd::register(fd) }?)
}

/// Binds and listens on a Unix socket, removing a stale file first. The descriptor is meant to be
/// inherited: whoever connects, even before the server runs, is served and need not poll.
///
/// # Errors
/// When the path is too long or cannot be bound.
pub fn listen(path: &Path) -> Result<OwnedFd, VmError> {
    let cannot = || VmError::host(format!("listen on {}", path.display()));
    match std::fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(cannot()(error)),
    }
    let listener = std::os::unix::net::UnixListener::bind(path).map_err(cannot())?;
    Ok(listener.into())
}

/// Opens a file for reading, to be handed over.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn open_file(path: &Path) -> Result<OwnedFd, VmError> {
    let file = File::open(path);
    let file = file.map_err(VmError::host(format!("open {}", path.display())))?;
    Ok(file.into())
}

/// A path under which a process that inherits the descriptor finds its file.
pub(crate) fn path_of(file: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

/// A file by whose descriptor a VMM finds it, wherever it is.
///
/// # Errors
/// When there is none.
pub(crate) fn open_place(path: &Path) -> Result<OwnedFd, VmError> {
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_PATH)
        .open(path);
    let file = file.map_err(VmError::host(format!("open {}", path.display())))?;
    Ok(file.into())
}

impl Drop for Process {
    /// A process that was started here does not outlive an orderly end of what started it, such as
    /// a start that is given up half-way. (It does outlive one that is killed.)
    fn drop(&mut self) {
        if self.started_here && self.is_alive() {
            self.signal(Signal::SIGKILL);
            use std::os::fd::AsFd;
            let mut ended = [nix::poll::PollFd::new(
                self.pidfd.get_ref().as_fd(),
                nix::poll::PollFlags::POLLIN,
            )];
            // A killed process ends by itself; this only sees it off.
            let _ = nix::poll::poll(&mut ended, 1000_u16);
        }
    }
}

/// Where `program` is: beside our own executable, in `../libexec/hull` seen from it, or in PATH.
#[must_use]
pub fn find_program(program: &str) -> Option<PathBuf> {
    let executable = |path: &PathBuf| {
        nix::unistd::access(path, nix::unistd::AccessFlags::X_OK).is_ok() && path.is_file()
    };
    let own = std::env::current_exe().ok();
    let own_dir = own.as_deref().and_then(Path::parent);
    let beside = own_dir.map(|dir| dir.join(program));
    let libexec = own_dir.map(|dir| dir.join("../libexec/hull").join(program));
    // Podman gives its runtime none.
    let path = std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
    let in_path = std::env::split_paths(&path).map(|dir| dir.join(program));
    beside
        .into_iter()
        .chain(libexec)
        .chain(in_path)
        .find(executable)
}

/// Where [`find_program`] finds `program`.
///
/// # Errors
/// When it does not; `advice` says what a person can do.
pub fn require_program(program: &str, advice: &'static str) -> Result<PathBuf, VmError> {
    find_program(program).ok_or_else(|| VmError::ProgramMissing {
        program: program.to_owned(),
        advice,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_end_of_a_child_is_seen_and_told() {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo trouble >&2; exit 3"]);
        let process = Process::spawn(command, vec![], &dir.path().join("log")).unwrap();
        assert_eq!(process.wait().await.unwrap().code(), Some(3));
        assert_eq!(process.log_tail(), "trouble");
        assert!(!process.is_alive());
    }

    #[tokio::test]
    async fn a_back_end_that_is_killed_is_at_fault_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "kill -9 $$"]);
        let process = Process::spawn(command, vec![], &dir.path().join("log")).unwrap();
        assert_eq!(process.fault().await, "sh was killed by signal 9");
    }

    #[tokio::test]
    async fn a_process_is_taken_over_by_its_record_only() {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("sleep");
        command.arg("1000");
        let process = Process::spawn(command, vec![], &dir.path().join("log")).unwrap();
        let record = process.record();
        let imposter = ProcessRecord {
            start_ticks: record.start_ticks + 1,
            ..record
        };
        assert!(Process::attach(imposter, "sleep").is_err());
        let taken_over = Process::attach(record, "sleep").unwrap();
        taken_over.signal(Signal::SIGKILL);
        taken_over.wait().await;
        process.wait().await;
        assert!(Process::attach(record, "sleep").is_err());
    }

    #[tokio::test]
    async fn descriptors_are_inherited_with_their_numbers() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "from the parent").unwrap();
        let fd = OwnedFd::from(File::open(&path).unwrap());
        let mut command = Command::new("sh");
        command
            .arg("-c")
            .arg(format!("cat <&{} >&2", fd.as_raw_fd()));
        let process = Process::spawn(command, vec![fd], &dir.path().join("log")).unwrap();
        process.wait().await;
        assert_eq!(process.log_tail(), "from the parent");
    }
}
