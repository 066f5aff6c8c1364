//! The specification's hooks that run on the host
//! ([config.md](https://github.com/opencontainers/runtime-spec/blob/main/config.md#posix-platform-hooks)). Those of
//! the container's own namespaces are the agent's.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use oci_spec::runtime::{Hook, Hooks, Spec};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};

use crate::mount::origin;

/// Bytes of a failed hook's complaints that are reported.
const MAX_OUTPUT: u64 = 2048;

/// The hooks, by when they run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostHooks {
    /// When the container is made: `prestart`.
    prestart: Vec<Hook>,
    /// And then `createRuntime`.
    create_runtime: Vec<Hook>,
    /// When its program has been started.
    poststart: Vec<Hook>,
    /// When it has been deleted.
    poststop: Vec<Hook>,
    /// For their states: the specification's version.
    oci_version: String,
    /// And what it notes.
    annotations: HashMap<String, String>,
}

/// The container's state, as hooks read it on their standard input.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HookState<'a> {
    /// The specification's version.
    pub oci_version: &'a str,
    /// The container's id.
    pub id: &'a str,
    /// `creating`, `running` or `stopped`.
    pub status: &'static str,
    /// What stands for the container on the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Directory with `config.json`.
    pub bundle: &'a Path,
    /// What the specification notes.
    pub annotations: &'a HashMap<String, String>,
}

/// A hook failed.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// It cannot be run.
    #[error("{hook}")]
    Run {
        /// Which.
        hook: HookName,
        /// Why.
        source: io::Error,
    },
    /// It ran, and says that something is wrong.
    #[error("{hook}: {outcome}")]
    Failed {
        /// Which.
        hook: HookName,
        /// How it ended, and what it said.
        outcome: String,
    },
}

/// Names a hook in runc's words, which some look for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookName {
    kind: &'static str,
    index: usize,
    path: PathBuf,
}

impl std::fmt::Display for HookName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { kind, index, path } = self;
        write!(f, "error running {kind} hook #{index}: {}", path.display())
    }
}

impl HostHooks {
    /// What they are told.
    #[must_use]
    pub fn state<'a>(
        &'a self,
        id: &'a str,
        bundle: &'a Path,
        status: &'static str,
        pid: Option<u32>,
    ) -> HookState<'a> {
        HookState {
            oci_version: &self.oci_version,
            id,
            status,
            pid,
            bundle,
            annotations: &self.annotations,
        }
    }

    /// Takes them out of a specification.
    #[must_use]
    pub fn take(spec: &mut Spec) -> Self {
        let Some(hooks) = spec.hooks().clone() else {
            return Self::default();
        };
        let list = |hooks: &Option<Vec<Hook>>| hooks.clone().unwrap_or_default();
        let prestart = list(hooks.prestart());
        let mut left = Hooks::default();
        left.set_create_container(hooks.create_container().clone());
        left.set_start_container(hooks.start_container().clone());
        spec.set_hooks(Some(left));
        Self {
            prestart,
            create_runtime: list(hooks.create_runtime()),
            poststart: list(hooks.poststart()),
            poststop: list(hooks.poststop()),
            oci_version: spec.version().clone(),
            annotations: spec.annotations().clone().unwrap_or_default(),
        }
    }
}

impl HostHooks {
    /// Whether something runs when the container is deleted.
    #[must_use]
    pub fn wait_for_deletion(&self) -> bool {
        !self.poststop.is_empty()
    }

    /// Runs what is to run when the container is made, where the engine's paths mean what it means by them.
    ///
    /// # Errors
    /// When one fails; those after it do not run.
    pub async fn at_creation(&self, state: &HookState<'_>) -> Result<(), HookError> {
        let prestart = named("prestart", &self.prestart);
        for (name, hook) in prestart.chain(named("createRuntime", &self.create_runtime)) {
            run_one(name, hook, state).await?;
        }
        Ok(())
    }

    /// Runs what is to run after the start. A failure is logged and changes nothing.
    pub async fn after_start(&self, state: &HookState<'_>) {
        run_all(named("poststart", &self.poststart), state).await;
    }

    /// Runs what is to run after the deletion. A failure is logged and changes nothing.
    pub async fn after_deletion(&self, state: &HookState<'_>) {
        run_all(named("poststop", &self.poststop), state).await;
    }
}

fn named<'h>(kind: &'static str, hooks: &'h [Hook]) -> impl Iterator<Item = (HookName, &'h Hook)> {
    hooks.iter().enumerate().map(move |(index, hook)| {
        let path = hook.path().clone();
        (HookName { kind, index, path }, hook)
    })
}

async fn run_all<'h>(hooks: impl Iterator<Item = (HookName, &'h Hook)>, state: &HookState<'_>) {
    for (name, hook) in hooks {
        if let Err(error) = run_one(name, hook, state).await {
            tracing::warn!(
                container = state.id,
                error = &error as &dyn std::error::Error
            );
        }
    }
}

async fn run_one(name: HookName, hook: &Hook, state: &HookState<'_>) -> Result<(), HookError> {
    let path = hook.path();
    let cannot = |source| HookError::Run {
        hook: name.clone(),
        source,
    };
    let mut output = unnamed_file().map_err(cannot)?;
    let mut command = Command::new(path);
    if let Some((name, arguments)) = hook.args().as_deref().and_then(<[String]>::split_first) {
        command.arg0(name).args(arguments);
    }
    let environment = hook.env().iter().flatten();
    command
        .env_clear()
        .envs(environment.filter_map(|entry| entry.split_once('=')))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(output.try_clone().map_err(cannot)?)
        .kill_on_drop(true);
    origin::enter_before_exec(&mut command);
    let mut child = command.spawn().map_err(cannot)?;
    if let Some(mut stdin) = child.stdin.take() {
        let json = serde_json::to_vec(state).expect("plain data encodes");
        match stdin.write_all(&json).await {
            // A hook need not read its input.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            written => written.map_err(cannot)?,
        }
    }
    let outcome = match wait(&mut child, hook.timeout()).await.map_err(cannot)? {
        Some(status) if status.success() => return Ok(()),
        Some(status) => status.to_string(),
        None => "timed out".to_owned(),
    };
    let mut said = Vec::new();
    // Output that cannot be read takes nothing from the failure itself.
    let _ = output
        .rewind()
        .and_then(|()| output.take(MAX_OUTPUT).read_to_end(&mut said));
    let said = String::from_utf8_lossy(&said);
    Err(HookError::Failed {
        hook: name.clone(),
        outcome: match said.trim() {
            "" => outcome,
            said => format!("{outcome}: {said}"),
        },
    })
}

/// Its status; nothing when it did not end in time and was killed. A timeout that is not positive is none.
async fn wait(child: &mut Child, timeout_s: Option<i64>) -> io::Result<Option<ExitStatus>> {
    let seconds = timeout_s.and_then(|seconds| u64::try_from(seconds).ok());
    match seconds.filter(|seconds| *seconds > 0) {
        None => child.wait().await.map(Some),
        Some(seconds) => {
            let ended = tokio::time::timeout(Duration::from_secs(seconds), child.wait()).await;
            match ended {
                Ok(status) => status.map(Some),
                Err(_) => child.kill().await.map(|()| None),
            }
        }
    }
}

/// A hook's output goes to a file: were it a pipe, a process that the hook leaves behind would hold it open.
fn unnamed_file() -> io::Result<File> {
    File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_TMPFILE)
        .mode(0o600)
        .open(std::env::temp_dir())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shell(script: &str, timeout: Option<i64>) -> Hook {
        let hook = json!({
            "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["WORD=mellon", "PATH=/usr/bin:/bin"],
            "timeout": timeout,
        });
        serde_json::from_value(hook).unwrap()
    }

    async fn run_hooks(hooks: &[Hook]) -> Result<(), HookError> {
        let all = HostHooks {
            create_runtime: hooks.to_vec(),
            oci_version: "1.0.2".to_owned(),
            annotations: HashMap::from([("a".to_owned(), "b".to_owned())]),
            ..HostHooks::default()
        };
        let state = all.state("box", Path::new("/b"), "creating", Some(7));
        all.at_creation(&state).await
    }

    #[tokio::test]
    async fn hooks_get_the_state_and_their_environment_only() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("seen");
        let script = format!(
            "cat > {0}; echo \" $WORD ${{HOME:-none}}\" >> {0}",
            file.display()
        );
        run_hooks(&[shell(&script, None)]).await.unwrap();
        let seen = std::fs::read_to_string(file).unwrap();
        let (state, rest) = seen.rsplit_once("} ").unwrap();
        let state: serde_json::Value = serde_json::from_str(&format!("{state}}}")).unwrap();
        assert_eq!(
            state,
            json!({
                "ociVersion": "1.0.2", "id": "box", "status": "creating", "pid": 7, "bundle": "/b",
                "annotations": {"a": "b"},
            })
        );
        assert_eq!(rest.trim(), "mellon none");
    }

    #[tokio::test]
    async fn the_first_that_fails_ends_it_and_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ran");
        let after = shell(&format!("touch {}", file.display()), None);
        let failing = shell("echo no such door >&2; exit 3", None);
        let hooks = [shell("true", None), failing, after];
        let error = run_hooks(&hooks).await.unwrap_err().to_string();
        assert_eq!(
            error,
            "error running createRuntime hook #1: /bin/sh: exit status: 3: no such door"
        );
        assert!(!file.exists());
    }

    #[tokio::test]
    async fn a_hook_that_takes_too_long_is_killed() {
        let error = run_hooks(&[shell("sleep 600", Some(1))]).await.unwrap_err();
        assert!(error.to_string().ends_with("timed out"), "{error}");
    }

    #[test]
    fn the_containers_own_are_left_to_the_guest() {
        let hook = |path| json!([{"path": path}]);
        let spec = json!({"ociVersion": "1.0.2", "hooks": {
            "prestart": hook("/1"), "createRuntime": hook("/2"), "createContainer": hook("/3"),
            "startContainer": hook("/4"), "poststart": hook("/5"), "poststop": hook("/6"),
        }});
        let mut spec = serde_json::from_value(spec).unwrap();
        let taken = HostHooks::take(&mut spec);
        let paths = |hooks: &[Hook]| -> Vec<String> {
            let paths = hooks.iter().map(|hook| hook.path().display().to_string());
            paths.collect()
        };
        assert_eq!(paths(&taken.prestart), ["/1"]);
        assert_eq!(paths(&taken.create_runtime), ["/2"]);
        assert_eq!(paths(&taken.poststart), ["/5"]);
        assert_eq!(paths(&taken.poststop), ["/6"]);
        let left = serde_json::to_value(spec.hooks()).unwrap();
        assert_eq!(
            left,
            json!({"createContainer": hook("/3"), "startContainer": hook("/4")})
        );
    }
}
