//! runc and its like: the same root without a virtual machine.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::timing;

/// The programs that are tried.
pub(crate) const PROGRAMS: [&str; 3] = ["runc", "crun", "runsc"];

/// A call of a program. gVisor's own network stack wants interfaces to take over, of which the bundles'
/// namespaces have none, so it is compared without a network.
fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    if program == "runsc" {
        command.arg("--network=none");
    }
    command
}

/// One OCI runtime with two bundles of the same root.
#[derive(Debug)]
pub(crate) struct OciRuntime {
    pub(crate) program: &'static str,
    run: PathBuf,
    background: PathBuf,
}

impl OciRuntime {
    /// Prepares bundles in `dir` from an image that umoci can unpack; `command` is what
    /// [`run`](Self::run) runs.
    pub(crate) fn prepare(
        program: &'static str,
        dir: &Path,
        image: &str,
        command: &[&str],
    ) -> Result<Self> {
        if timing::output(Command::new(program).arg("--version")).is_err() {
            bail!("{program} is not installed");
        }
        let bundle = |name: &str, words: &[&str]| -> Result<PathBuf> {
            let bundle = dir.join(format!("{program}-{name}"));
            let layout = image.strip_prefix("oci:").unwrap_or(image);
            let image = format!("{layout}:latest");
            timing::output(
                Command::new("umoci")
                    .args(["unpack", "--image", &image])
                    .arg(&bundle),
            )?;
            configure(&bundle.join("config.json"), words)?;
            Ok(bundle)
        };
        let runtime = Self {
            program,
            run: bundle("run", command)?,
            background: bundle("background", &["sleep", "1000000"])?,
        };
        // A machine where it cannot run has no such contender.
        timing::output(&mut runtime.run())?;
        Ok(runtime)
    }

    fn in_bundle(&self, bundle: &Path, words: &[&str]) -> Command {
        let mut command = command(self.program);
        command.args(words).arg("--bundle").arg(bundle);
        command
    }

    fn id(&self, name: &str) -> String {
        format!("hull-bench-{}-{name}", std::process::id())
    }

    /// Makes, runs and removes a container.
    pub(crate) fn run(&self) -> Command {
        let mut command = self.in_bundle(&self.run, &["run"]);
        command.arg(self.id("run"));
        command
    }

    /// Starts a container that goes on until it is dropped.
    pub(crate) fn background(&self) -> Result<Background<'_>> {
        let mut command = self.in_bundle(&self.background, &["run", "--detach"]);
        // The container keeps its output, so a pipe would not end.
        let null = || File::options().write(true).open("/dev/null");
        let status = command
            .arg(self.id("background"))
            .stdout(null()?)
            .stderr(null()?)
            .status()
            .with_context(|| format!("cannot start {}", self.program))?;
        if !status.success() {
            bail!("{} run --detach: {status}", self.program);
        }
        Ok(Background { runtime: self })
    }
}

/// A container that runs.
#[derive(Debug)]
pub(crate) struct Background<'r> {
    runtime: &'r OciRuntime,
}

impl Background<'_> {
    pub(crate) fn exec(&self, words: &[&str]) -> Command {
        let mut command = command(self.runtime.program);
        command
            .arg("exec")
            .arg(self.runtime.id("background"))
            .args(words);
        command
    }
}

impl Drop for Background<'_> {
    fn drop(&mut self) {
        let mut delete = command(self.runtime.program);
        delete
            .args(["delete", "--force"])
            .arg(self.runtime.id("background"));
        if let Err(error) = timing::output(&mut delete) {
            eprintln!("bench: {error:#}");
        }
    }
}

/// Puts a command without a terminal into a bundle.
fn configure(config: &Path, words: &[&str]) -> Result<()> {
    let text = fs::read(config).with_context(|| format!("cannot read {}", config.display()))?;
    let mut spec: Value = serde_json::from_slice(&text)?;
    spec["process"]["terminal"] = json!(false);
    spec["process"]["args"] = json!(words);
    fs::write(config, serde_json::to_vec(&spec)?)
        .with_context(|| format!("cannot write {}", config.display()))
}
