//! The specification's hooks.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::error::{Context, SetupError};
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

/// Runs hooks one after the other; the first that fails ends it.
pub(super) fn run(hooks: &[Hook], state: &HookState) -> Result<(), SetupError> {
    for hook in hooks {
        run_one(hook, state)?;
    }
    Ok(())
}

fn run_one(hook: &Hook, state: &HookState) -> Result<(), SetupError> {
    let path: &Path = &hook.path;
    let mut output: File = memfd_create("hook", MFdFlags::MFD_CLOEXEC)
        .when("make a file for a hook's output")?
        .into();
    let mut command = Command::new(path);
    if let Some((name, arguments)) = hook.args.split_first() {
        command.arg0(name).args(arguments);
    }
    let environment = hook.env.iter().filter_map(|entry| entry.split_once('='));
    let mut child = command
        .env_clear()
        .envs(environment)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(output.try_clone().when("share a hook's output")?)
        .spawn()
        .at("run the hook", path)?;
    if let Some(mut stdin) = child.stdin.take() {
        let json = serde_json::to_vec(state)
            .map_err(std::io::Error::from)
            .when("encode the container's state")?;
        match stdin.write_all(&json) {
            // A hook need not read its input.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
            other => other.at("write to the hook", path)?,
        }
    }
    let outcome = match wait(&mut child, hook.timeout).at("wait for the hook", path)? {
        Some(status) if status.success() => return Ok(()),
        Some(status) => status.to_string(),
        None => "timed out".to_owned(),
    };
    let mut text = String::new();
    // Output that cannot be read takes nothing from the failure itself.
    if output.rewind().is_ok() && output.take(MAX_OUTPUT).read_to_string(&mut text).is_err() {
        text.clear();
    }
    let text = text.trim();
    Err(SetupError::Hook {
        path: path.to_owned(),
        outcome: if text.is_empty() {
            outcome
        } else {
            format!("{outcome}: {text}")
        },
    })
}

/// The hook's status; `None` when it did not end in time and was killed.
fn wait(
    child: &mut Child,
    timeout_s: Option<u64>,
) -> std::io::Result<Option<std::process::ExitStatus>> {
    let Some(timeout_s) = timeout_s else {
        return child.wait().map(Some);
    };
    let pid = i32::try_from(child.id()).map_err(std::io::Error::other)?;
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
        run(&[shell(&script, None)], &state()).unwrap();
        let text = std::fs::read_to_string(out).unwrap();
        assert!(text.contains(r#""id":"box""#) && text.contains(r#""pid":7"#));
        assert!(text.ends_with("mellon\n"));
    }

    #[test]
    fn a_failing_hook_is_reported_with_what_it_said() {
        let error = run(&[shell("echo broken >&2; exit 3", Some(60))], &state()).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("broken") && text.contains('3'), "{text}");
    }

    #[test]
    fn a_hook_that_takes_too_long_is_killed() {
        let error = run(&[shell("while :; do :; done", Some(0))], &state()).unwrap_err();
        assert!(error.to_string().contains("timed out"));
    }
}
