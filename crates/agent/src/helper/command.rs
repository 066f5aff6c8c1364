//! Finding and running the container's program.

use std::ffi::{CString, NulError};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::unistd::{AccessFlags, access, execve, faccessat};

use super::error::SetupError;
use crate::spec::Process;

/// Where a program is looked for when its environment has no PATH.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A program with all that execve(2) takes.
#[derive(Debug)]
pub(super) struct Command {
    path: PathBuf,
    program: CString,
    arguments: Vec<CString>,
    environment: Vec<CString>,
}

/// Finds the program as the user that runs it, in the root that it runs in.
pub(super) fn find(process: &Process, environment: &[String]) -> Result<Command, SetupError> {
    let name = process
        .args
        .first()
        .filter(|name| !name.is_empty())
        .ok_or_else(|| SetupError::Invalid {
            field: "process.args",
            value: process.args.join(" "),
        })?;
    let path = locate(name, environment)?;
    let strings = |texts: &[String]| {
        texts
            .iter()
            .map(|text| CString::new(text.as_str()))
            .collect::<Result<Vec<_>, NulError>>()
    };
    let invalid = |field| {
        move |_: NulError| SetupError::Invalid {
            field,
            value: "a string with a NUL".to_owned(),
        }
    };
    Ok(Command {
        program: CString::new(path.as_os_str().as_bytes()).map_err(invalid("process.args"))?,
        path,
        arguments: strings(&process.args).map_err(invalid("process.args"))?,
        environment: strings(environment).map_err(invalid("process.env"))?,
    })
}

fn locate(name: &str, environment: &[String]) -> Result<PathBuf, SetupError> {
    if name.contains('/') {
        let path = PathBuf::from(name);
        return match runnable(&path) {
            Ok(()) => Ok(path),
            Err(errno) => Err(refused(name, errno)),
        };
    }
    let path = environment
        .iter()
        .rev()
        .find_map(|entry| entry.strip_prefix("PATH="))
        .unwrap_or(DEFAULT_PATH);
    let mut denied = None;
    for directory in path.split(':') {
        // An empty entry means the working directory, as in a shell.
        let directory = if directory.is_empty() { "." } else { directory };
        let candidate = Path::new(directory).join(name);
        match runnable(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(Errno::ENOENT | Errno::ENOTDIR) => {}
            // A later directory may have one that can be run.
            Err(errno) => denied = Some(errno),
        }
    }
    Err(refused(name, denied.unwrap_or(Errno::ENOENT)))
}

fn runnable(path: &Path) -> nix::Result<()> {
    let metadata = std::fs::metadata(path).map_err(|error| {
        error
            .raw_os_error()
            .map_or(Errno::UnknownErrno, Errno::from_raw)
    })?;
    if metadata.is_dir() {
        return Err(Errno::EISDIR);
    }
    // Asks with the capabilities of the real user, which are none but for root. The other question is a newer call,
    // which a filter may refuse.
    access(path, AccessFlags::X_OK).or_else(|errno| {
        let effective = faccessat(AT_FDCWD, path, AccessFlags::X_OK, AtFlags::AT_EACCESS);
        effective.map_err(|_| errno)
    })
}

fn refused(name: &str, errno: Errno) -> SetupError {
    let command = name.to_owned();
    match errno {
        Errno::ENOENT | Errno::ENOTDIR => SetupError::CommandNotFound { command },
        errno => SetupError::CommandNotExecutable {
            command,
            source: io::Error::from(errno),
        },
    }
}

impl Command {
    /// Becomes the program; returns only when that fails.
    pub(super) fn run(&self) -> SetupError {
        let errno = match execve(&self.program, &self.arguments, &self.environment) {
            Ok(never) => match never {},
            Err(errno) => errno,
        };
        // The program was there: what is missing is what it names as its interpreter.
        refused(&self.path.display().to_string(), errno)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find_in(path: &Path, name: &str) -> Result<PathBuf, SetupError> {
        locate(name, &[format!("PATH={}", path.display())])
    }

    #[test]
    fn a_missing_program_is_not_found() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["nothing", "/no/such/program"] {
            assert!(matches!(
                find_in(dir.path(), name),
                Err(SetupError::CommandNotFound { .. })
            ));
        }
    }

    #[test]
    fn a_file_without_the_bit_is_not_executable() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("text"), "x").unwrap();
        let absolute = dir.path().join("text").display().to_string();
        for name in ["text", &absolute] {
            assert!(matches!(
                find_in(dir.path(), name),
                Err(SetupError::CommandNotExecutable { .. })
            ));
        }
    }

    #[test]
    fn a_directory_is_not_executable() {
        let dir = tempfile::tempdir().unwrap();
        let name = dir.path().display().to_string();
        assert!(matches!(
            find_in(dir.path(), &name),
            Err(SetupError::CommandNotExecutable { .. })
        ));
    }

    #[test]
    fn the_default_path_is_used_without_one() {
        assert!(locate("sh", &[]).unwrap().ends_with("sh"));
    }
}
