//! The specification's hooks.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::error::SetupError;
use crate::spec::Hook;
use crate::sys::clone::pidfd_open;

/// Bytes of a failed hook's complaints that are reported.
const MAX_OUTPUT: u64 = 2048;

/// The container's state, as hooks read it on standard input.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct HookState {
    pub(crate) oci_version: String,
    pub(crate) id: String,
    pub(crate) status: String,
    pub(crate) pid: i32,
    pub(crate) bundle: String,
    pub(crate) annotations: BTreeMap<String, String>,
}

/// Runs the hooks of a kind one after the other, those without an environment with `environment`; the first that
/// fails ends it.
pub(super) fn run(
    kind: &str,
    hooks: &[Hook],
    state: &HookState,
    environment: &[String],
) -> Result<(), SetupError> {
    for (index, hook) in hooks.iter().enumerate() {
        run_one(hook, state, environment).map_err(failed(kind, index, hook))?;
    }
    Ok(())
}

/// Runs the hook of a kind that has this number.
pub(super) fn run_alone(
    kind: &str,
    index: usize,
    hook: &Hook,
    state: &HookState,
) -> Result<(), SetupError> {
    run_one(hook, state, &[]).map_err(failed(kind, index, hook))
}

fn failed(kind: &str, index: usize, hook: &Hook) -> impl FnOnce(io::Error) -> SetupError {
    move |source| SetupError::Hook {
        kind: kind.to_owned(),
        index,
        path: hook.path.clone(),
        source,
    }
}

fn run_one(hook: &Hook, state: &HookState, environment: &[String]) -> io::Result<()> {
    let mut output: File = memfd_create("hook", MFdFlags::MFD_CLOEXEC)?.into();
    let mut command = Command::new(&hook.path);
    if let Some((name, arguments)) = hook.args.split_first() {
        command.arg0(name).args(arguments);
    }
    let environment = match hook.env.as_slice() {
        [] => environment,
        own => own,
    };
    let environment = environment.iter();
    let mut child = command
        .env_clear()
        .envs(environment.filter_map(|entry| entry.split_once('=')))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(output.try_clone()?)
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        let json = serde_json::to_vec(state)?;
        match stdin.write_all(&json) {
            // A hook need not read its input.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            other => other?,
        }
    }
    let outcome = match wait(&mut child, hook.timeout)? {
        Some(status) if status.success() => return Ok(()),
        Some(status) => describe(status),
        None => "timed out".to_owned(),
    };
    let mut text = String::new();
    // Output that cannot be read takes nothing from the failure itself.
    if output.rewind().is_ok() && output.take(MAX_OUTPUT).read_to_string(&mut text).is_err() {
        text.clear();
    }
    Err(io::Error::other(match text.trim() {
        "" => outcome,
        text => format!("{outcome}: {text}"),
    }))
}

/// How a hook ended, as runc says it.
fn describe(status: ExitStatus) -> String {
    let Some(signal) = status.signal() else {
        return status.to_string();
    };
    // SAFETY: for any number the call gives a string that is valid until the next call, and there is one thread.
    let name = unsafe { CStr::from_ptr(libc::strsignal(signal)) };
    format!("signal: {}", name.to_string_lossy().to_lowercase())
}

/// The hook's status; `None` when it did not end in time and was killed.
fn wait(child: &mut Child, timeout_s: Option<u64>) -> io::Result<Option<ExitStatus>> {
    let Some(timeout_s) = timeout_s else {
        return child.wait().map(Some);
    };
    let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
    let pidfd = pidfd_open(Pid::from_raw(pid))?;
    let timeout = Duration::from_secs(timeout_s);
    let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
    let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    let ended = loop {
        match poll(&mut fds, timeout) {
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
            Ok(ready) => break ready > 0,
        }
    };
    if !ended {
        child.kill()?;
    }
    let status = child.wait()?;
    Ok(ended.then_some(status))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::helper::chain;

    fn state() -> HookState {
        HookState {
            oci_version: "1.2.0".to_owned(),
            id: "box".to_owned(),
            status: "creating".to_owned(),
            pid: 7,
            bundle: "/b".to_owned(),
            annotations: BTreeMap::new(),
        }
    }

    fn shell(script: &str, timeout: Option<u64>) -> Hook {
        Hook {
            path: "/bin/sh".into(),
            args: vec!["sh".to_owned(), "-c".to_owned(), script.to_owned()],
            env: vec!["WORD=mellon".to_owned(), "PATH=/usr/bin:/bin".to_owned()],
            timeout,
        }
    }

    #[test]
    fn a_hook_gets_state_and_environment() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let script = format!("cat > {0}; echo $WORD >> {0}", out.display());
        run_one(&shell(&script, None), &state(), &[]).unwrap();
        let text = std::fs::read_to_string(out).unwrap();
        assert!(text.contains(r#""id":"box""#) && text.contains(r#""pid":7"#));
        assert!(text.ends_with("mellon\n"));
    }

    #[test]
    fn a_failing_hook_is_reported_with_what_it_said() {
        let hooks = [
            shell("true", None),
            shell("echo broken >&2; exit 3", Some(60)),
        ];
        let error = run("createContainer", &hooks, &state(), &[]).unwrap_err();
        assert_eq!(
            chain(&error),
            "error running createContainer hook #1: /bin/sh: exit status: 3: broken"
        );
    }

    #[test]
    fn a_signal_is_named() {
        let error = run_one(&shell("kill -SYS $$", None), &state(), &[]).unwrap_err();
        assert_eq!(error.to_string(), "signal: bad system call");
    }

    #[test]
    fn a_hook_without_an_environment_gets_the_programs() {
        let mut hook = shell("test \"$WORD\" = friend", None);
        let environment = ["WORD=friend".to_owned()];
        assert!(run_one(&hook, &state(), &environment).is_err());
        hook.env.clear();
        run_one(&hook, &state(), &environment).unwrap();
    }

    #[test]
    fn a_hook_that_takes_too_long_is_killed() {
        let hook = shell("while :; do :; done", Some(0));
        let error = run_one(&hook, &state(), &[]).unwrap_err();
        assert!(error.to_string().contains("timed out"));
    }
}
