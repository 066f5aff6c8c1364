//! From a process inside its container to one that can run the container's program: user, rights,
//! directory, filter. The same for init and for further processes.

use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, signal, sigprocmask};
use nix::sys::stat::{Mode, SFlag, fstat, umask};
use nix::unistd::{Gid, Uid, chdir, fchown, getcwd, setgroups, setresgid, setresuid};

use super::capabilities::Sets;
use super::command::{self, Command};
use super::error::{Context, SetupError};
use super::namespaces;
use super::seccomp::Filter;
use crate::spec::{CpuAffinity, IdMapping, Process};
use crate::sys::check;

/// As when a login gives none.
const DEFAULT_UMASK: u32 = 0o022;

/// A process that only has to be told to run.
#[derive(Debug)]
pub(super) struct Settled<'a> {
    command: Command,
    environment: Vec<String>,
    /// Loaded last where the process may not gain rights; else it was loaded with the rights that
    /// loading it takes.
    filter: Option<&'a Filter>,
}

/// Takes the standard streams.
pub(super) fn take_streams(streams: &[OwnedFd]) -> Result<(), SetupError> {
    let [stdin, stdout, stderr] = streams else {
        return Err(SetupError::Invalid {
            field: "streams",
            value: streams.len().to_string(),
        });
    };
    set_standard_streams([stdin.as_fd(), stdout.as_fd(), stderr.as_fd()])
}

/// Gives pipes to the process's user, so that it can open them again as /dev/stdout. Done outside
/// the container, whose root does not own them in a user namespace.
pub(super) fn give_streams(
    streams: &[OwnedFd],
    uid: u32,
    mappings: &[IdMapping],
) -> Result<(), SetupError> {
    let uid = namespaces::outside(uid, mappings).ok_or_else(|| SetupError::Invalid {
        field: "process.user.uid",
        value: uid.to_string(),
    })?;
    for stream in streams {
        let kind = fstat(stream).when("look at a standard stream")?.st_mode;
        if SFlag::from_bits_truncate(kind) & SFlag::S_IFMT == SFlag::S_IFIFO {
            fchown(stream, Some(uid.into()), None).when("give a standard stream to its user")?;
        }
    }
    Ok(())
}

/// Makes these the standard streams, where they outlive execve.
pub(super) fn set_standard_streams(streams: [BorrowedFd<'_>; 3]) -> Result<(), SetupError> {
    let [stdin, stdout, stderr] = streams;
    nix::unistd::dup2_stdin(stdin).when("set standard input")?;
    nix::unistd::dup2_stdout(stdout).when("set standard output")?;
    nix::unistd::dup2_stderr(stderr).when("set standard error")
}

/// Changes this process into the one that the specification describes.
pub(super) fn settle<'a>(
    process: &Process,
    filter: Option<&'a Filter>,
    id: &str,
) -> Result<Settled<'a>, SetupError> {
    report_ignored(process);
    join_session_keyring(id)?;
    if let Some(scheduler) = &process.scheduler {
        super::tuning::set_scheduler(scheduler)?;
    }
    if let Some(io_priority) = &process.io_priority {
        super::tuning::set_io_priority(io_priority)?;
    }
    umask(Mode::from_bits_truncate(
        process.user.umask.unwrap_or(DEFAULT_UMASK) & 0o777,
    ));
    let cwd = working_directory(process);
    // With root's rights first, as the directory's parents may be closed to the user; without them
    // afterwards, as a network file system may be closed to root.
    let entered = match chdir(cwd) {
        Err(Errno::EACCES | Errno::EPERM) => false,
        other => {
            other.at("enter the working directory", cwd)?;
            check_working_directory()?;
            true
        }
    };
    // Before the filter, which need not allow what is done for the container's program and not by it.
    reset_signals()?;
    close_at_exec()?;
    let sets = Sets::of(process.capabilities.as_ref());
    sets.bound()?;
    let filter = match filter {
        Some(filter) if !process.no_new_privileges => {
            filter.load()?;
            None
        }
        other => other,
    };
    become_user(process)?;
    sets.apply()?;
    if !entered {
        chdir(cwd).at("enter the working directory", cwd)?;
        check_working_directory()?;
    }
    if process.no_new_privileges {
        prctl::set_no_new_privs().when("give up gaining privileges")?;
    }
    super::tuning::set_affinity(CpuAffinity::at_last(process.exec_cpu_affinity.as_ref()))?;
    let environment = environment(process);
    let command = command::find(process, &environment)?;
    Ok(Settled {
        command,
        environment,
        filter,
    })
}

impl Settled<'_> {
    /// Loads the filter where it is not yet in force.
    pub(super) fn restrict(&mut self) -> Result<(), SetupError> {
        self.filter.take().map_or(Ok(()), Filter::load)
    }

    /// The program's.
    pub(super) fn environment(&self) -> &[String] {
        &self.environment
    }

    /// Becomes the container's program; returns only when that fails.
    pub(super) fn run(mut self) -> SetupError {
        match self.restrict() {
            Ok(()) => self.command.run(),
            Err(error) => error,
        }
    }
}

/// What is ignored stays ignored in the new program, and a shell cannot even trap it.
fn reset_signals() -> Result<(), SetupError> {
    let fixed = [Signal::SIGKILL, Signal::SIGSTOP];
    for number in Signal::iterator().filter(|number| !fixed.contains(number)) {
        // SAFETY: the default disposition runs no code of ours.
        unsafe { signal(number, SigHandler::SigDfl) }.when("reset a signal")?;
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None).when("unblock signals")
}

/// Has execve close all descriptors but the standard streams. What is opened later says so by itself.
fn close_at_exec() -> Result<(), SetupError> {
    let flags = libc::CLOSE_RANGE_CLOEXEC;
    // SAFETY: the descriptors stay open until execve closes them.
    check(unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, flags) })
        .when("mark descriptors to be closed")
        .map(drop)
}

fn report_ignored(process: &Process) {
    let ignored = [
        ("apparmorProfile", process.apparmor_profile.as_deref()),
        ("selinuxLabel", process.selinux_label.as_deref()),
    ];
    for (field, value) in ignored {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            log::info!("process.{field} {value:?} is ignored: this guest's kernel has none");
        }
    }
}

/// A session keyring of its own, so that keys of one container are not possessed by another.
fn join_session_keyring(id: &str) -> Result<(), SetupError> {
    let Ok(name) = std::ffi::CString::new(format!("_ses.{id}")) else {
        return Ok(());
    };
    // SAFETY: the name is NUL-terminated and only read.
    let joined = check(unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            libc::KEYCTL_JOIN_SESSION_KEYRING,
            name.as_ptr(),
        )
    });
    match joined {
        // A kernel without keys has none to keep apart.
        Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => Ok(()),
        other => other.map(drop).when("make a session keyring"),
    }
}

pub(super) fn working_directory(process: &Process) -> &Path {
    if process.cwd.as_os_str().is_empty() {
        Path::new("/")
    } else {
        &process.cwd
    }
}

fn become_user(process: &Process) -> Result<(), SetupError> {
    let user = &process.user;
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    let groups: Vec<Gid> = user
        .additional_gids
        .iter()
        .map(|&gid| Gid::from_raw(gid))
        .collect();
    prctl::set_keepcaps(true).when("keep capabilities")?;
    setgroups(&groups).when("set the additional groups")?;
    setresgid(gid, gid, gid).when("set the group")?;
    setresuid(uid, uid, uid).when("set the user")?;
    prctl::set_keepcaps(false).when("stop keeping capabilities")
}

/// Refuses a working directory outside the container's root, to which a descriptor of the guest
/// could lead.
fn check_working_directory() -> Result<(), SetupError> {
    match getcwd() {
        Ok(path) if path.is_absolute() => Ok(()),
        Ok(path) => Err(SetupError::Invalid {
            field: "process.cwd",
            value: path.display().to_string(),
        }),
        Err(errno) => Err(errno).when("find the working directory"),
    }
}

/// The environment: of a variable that is given twice the last, and a HOME from the container's passwd file where
/// there is none or an empty one.
fn environment(process: &Process) -> Vec<String> {
    let name = |entry: &str| entry.split('=').next().map(str::to_owned);
    let mut seen = HashSet::new();
    let last = process.env.iter().rev();
    let mut environment: Vec<String> = last
        .filter(|entry| seen.insert(name(entry)) && *entry != "HOME=")
        .cloned()
        .collect();
    environment.reverse();
    if !environment.iter().any(|entry| entry.starts_with("HOME=")) {
        // A container without the file, or with an unreadable one, has no better answer than "/".
        let passwd = std::fs::read("/etc/passwd").unwrap_or_default();
        let passwd = String::from_utf8_lossy(&passwd);
        let home = home_of(&passwd, process.user.uid).unwrap_or("/");
        environment.push(format!("HOME={home}"));
    }
    environment
}

fn home_of(passwd: &str, uid: u32) -> Option<&str> {
    passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let matches = fields.get(2)?.parse() == Ok(uid);
        let home = fields.get(5).filter(|home| !home.is_empty())?;
        matches.then_some(*home)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::User;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nbroken\nweb:x:33:33::/var/www:/bin/sh\n";

    #[test]
    fn home_comes_from_passwd() {
        assert_eq!(home_of(PASSWD, 33), Some("/var/www"));
        assert_eq!(home_of(PASSWD, 0), Some("/root"));
        assert_eq!(home_of(PASSWD, 5), None);
    }

    #[test]
    fn a_given_home_is_kept() {
        let process = Process {
            env: vec!["HOME=/data".to_owned()],
            ..Process::default()
        };
        assert_eq!(environment(&process), ["HOME=/data"]);
    }

    #[test]
    fn the_last_of_a_variable_counts() {
        let variables = ["HOME=/data", "A=1", "B=2", "A=", "HOME="];
        let process = Process {
            env: variables.map(str::to_owned).to_vec(),
            user: User {
                uid: u32::MAX,
                ..User::default()
            },
            ..Process::default()
        };
        assert_eq!(environment(&process), ["B=2", "A=", "HOME=/"]);
    }

    #[test]
    fn an_empty_directory_means_the_root() {
        assert_eq!(working_directory(&Process::default()), Path::new("/"));
    }
}
