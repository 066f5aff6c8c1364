//! A bundle for the runtime's own command line, as whoever has no engine would make it.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tempfile::{NamedTempFile, TempDir};

use crate::engine::runtime;
use crate::{Outcome, busybox, layout};

/// A bundle of busybox, and containers of it. Those that are left end with it.
#[derive(Debug)]
pub struct Bundle {
    dir: TempDir,
    /// What `config.json` holds when a command is run. It begins as the runtime's own example, with a writable root
    /// and no terminal.
    pub config: Value,
}

impl Bundle {
    /// One whose program is a shell that runs `script`.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn new(script: &str) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("hull-")
            .tempdir()
            .expect("a directory");
        unpack(&dir.path().join("rootfs"));
        let spec = Command::new(runtime())
            .arg("spec")
            .current_dir(dir.path())
            .output();
        let _ = Outcome(spec.expect("the runtime starts")).ok();
        let text = fs::read(dir.path().join("config.json")).expect("an example");
        let mut config: Value = serde_json::from_slice(&text).expect("JSON");
        config["process"]["terminal"] = json!(false);
        config["process"]["args"] = json!(["sh", "-c", script]);
        config["root"]["readonly"] = json!(false);
        Self { dir, config }
    }

    /// The directory of everything.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The container's root.
    #[must_use]
    pub fn rootfs(&self) -> std::path::PathBuf {
        self.dir.path().join("rootfs")
    }

    /// The runtime with these arguments, in the bundle's directory.
    ///
    /// # Panics
    /// When the configuration cannot be written.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let dir = self.dir.path();
        // Whole at any time, for other commands that read it.
        let mut config = NamedTempFile::new_in(dir).expect("a writable bundle");
        serde_json::to_writer(&mut config, &self.config).expect("written");
        config.persist(dir.join("config.json")).expect("renamed");
        let mut command = Command::new(runtime());
        command
            .arg("--root")
            .arg(dir.join("containers"))
            .args(arguments)
            .current_dir(dir)
            .env("HULL_ROOT", dir.join("hull"))
            .stdin(Stdio::null());
        command
    }

    /// Runs the runtime to its end.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn call(&self, arguments: &[&str]) -> Outcome {
        Outcome(
            self.command(arguments)
                .output()
                .expect("the runtime starts"),
        )
    }

    /// Starts a container and lets it run, without streams.
    ///
    /// # Panics
    /// When that fails.
    pub fn start(&self) {
        self.call_without_streams(&["run", "-d", "box"]);
    }

    /// Runs the runtime to its end, with nothing to write to: a pipe would be the new container's as long as it lives.
    ///
    /// # Panics
    /// When it fails.
    pub fn call_without_streams(&self, arguments: &[&str]) {
        let mut command = self.command(arguments);
        let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
        let status = status.expect("the runtime starts");
        assert!(status.success(), "{arguments:?}: {status}");
    }

    /// Runs a container to its end.
    ///
    /// # Panics
    /// As [`Bundle::call`].
    pub fn run(&self) -> Outcome {
        self.call(&["run", "box"])
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        if self.dir.path().join("containers").exists() {
            for id in self.call(&["list", "-q"]).stdout().lines() {
                let _ = self.call(&["delete", "-f", id]);
            }
        }
    }
}

/// Makes the only layer of the image a root.
fn unpack(root: &Path) {
    let image = busybox();
    let dir = Path::new(image.trim_start_matches("oci:"));
    let read = |path: &Path| -> Value {
        serde_json::from_slice(&fs::read(path).expect("a file")).expect("JSON")
    };
    let blob = |digest: &Value| layout::blob(dir, digest.as_str().expect("a digest"));
    let index = read(&dir.join("index.json"));
    let manifest = read(&blob(&index["manifests"][0]["digest"]));
    fs::create_dir(root).expect("a directory");
    let unpacked = Command::new("tar")
        .arg("--extract")
        .arg("--file")
        .arg(blob(&manifest["layers"][0]["digest"]))
        .arg("--directory")
        .arg(root)
        .output();
    let _ = Outcome(unpacked.expect("tar runs")).ok();
}
