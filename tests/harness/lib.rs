//! What the end-to-end tests share: a `hull` with storage of its own, a small image, and a look at
//! what is left behind.
//!
//! The tests drive the programs in `target/release` as a user would. `make test` builds them, the
//! guest and the image first.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::str::FromStr;
use std::sync::OnceLock;

use tempfile::TempDir;

pub mod blocking_cri;
pub mod bundle;
pub mod containerd;
pub mod cri;
pub mod disk;
pub mod docker;
pub mod docker_registry;
pub mod engine;
pub mod layout;
pub mod machine;
pub mod namespaces;
pub mod network;
pub mod orphans;
pub mod podman;
pub mod random;
pub mod registry;
mod settings;
pub mod stream;
pub mod terminal;
pub mod traces;
pub mod user;

/// A `hull` whose images, containers and sockets are in a directory of its own, which is removed
/// at the end.
#[derive(Debug)]
pub struct Hull {
    root: TempDir,
    /// The directory with its configuration, if it has one.
    settings: Option<TempDir>,
}

const SETTINGS: &str = "hull.toml";

/// Where cargo puts what it builds.
fn target_dir() -> PathBuf {
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| checkout.join("target"), PathBuf::from)
}

/// A program that the build made. `HULL_BIN_DIR` names another directory.
///
/// # Panics
/// When it was not built.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    let dir = std::env::var_os("HULL_BIN_DIR").map(PathBuf::from);
    let path = dir
        .unwrap_or_else(|| target_dir().join("release"))
        .join(name);
    assert!(
        path.exists(),
        "{} is missing: run `make build guest`",
        path.display()
    );
    path
}

/// The directory of the guest that the build made, or of `HULL_GUEST`.
#[must_use]
pub fn guest() -> PathBuf {
    let named = std::env::var_os("HULL_GUEST").map(PathBuf::from);
    named.unwrap_or_else(|| program("hull").with_file_name("../guest"))
}

/// The image that most tests run: Debian's static busybox, as an OCI layout. Made once and kept in
/// the cache.
///
/// # Panics
/// When it cannot be made.
#[must_use]
pub fn busybox() -> String {
    static IMAGE: OnceLock<String> = OnceLock::new();
    IMAGE.get_or_init(|| image("make-busybox")).clone()
}

/// A whole Debian, likewise.
///
/// # Panics
/// When it cannot be made.
#[must_use]
pub fn debian() -> String {
    static IMAGE: OnceLock<String> = OnceLock::new();
    IMAGE.get_or_init(|| image("make-debian")).clone()
}

fn image(script: &str) -> String {
    let images = Path::new(env!("CARGO_MANIFEST_DIR")).join("images");
    let made = Command::new(images.join(script)).output();
    let made = made.expect("the script runs");
    let errors = String::from_utf8_lossy(&made.stderr);
    assert!(made.status.success(), "{errors}");
    format!("oci:{}/oci", String::from_utf8_lossy(&made.stdout).trim())
}

impl Default for Hull {
    fn default() -> Self {
        Self::new()
    }
}

impl Hull {
    /// A fresh one.
    ///
    /// # Panics
    /// When no temporary directory can be made.
    #[must_use]
    pub fn new() -> Self {
        let root = tempfile::Builder::new()
            .prefix("hull-")
            .tempdir()
            .expect("a directory");
        let hull = Self {
            root,
            settings: None,
        };
        hull.with_settings("")
    }

    /// One with these settings beside those of the whole run, as text of a configuration file.
    ///
    /// # Panics
    /// When no file can be written.
    #[must_use]
    pub fn with_settings(mut self, settings: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("hull-").tempdir();
        let dir = dir.expect("a directory");
        let all = settings::chosen().unwrap_or_default() + settings;
        std::fs::write(dir.path().join(SETTINGS), all).expect("written");
        self.settings = Some(dir);
        self
    }

    /// Its directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// `hull` with these arguments.
    pub fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(program("hull"));
        command
            .args(arguments)
            .env("HULL_ROOT", self.root())
            .env("HULL_QUIET", "1")
            .stdin(Stdio::null());
        if let Some(settings) = &self.settings {
            command.env("HULL_CONFIG", settings.path().join(SETTINGS));
        }
        command
    }

    /// Runs `hull` to its end.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn hull<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Outcome {
        Outcome(self.command(arguments).output().expect("hull starts"))
    }

    /// `hull run --rm --network none OPTIONS IMAGE COMMAND` to its end.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn run(&self, options: &[&str], command: &[&str]) -> Outcome {
        self.hull(run_arguments(options, command))
    }

    /// `hull run -d --name c --network none IMAGE COMMAND`
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn run_in_background(&self, command: &[&str]) -> Outcome {
        let options = ["run", "-d", "--name", "c", "--network", "none"];
        let image = busybox();
        let arguments = options.iter().copied().chain([image.as_str()]);
        self.hull(arguments.chain(command.iter().copied()))
    }

    /// `hull run --rm --network none` with bytes for the standard input.
    ///
    /// # Panics
    /// When it cannot be started or fed.
    pub fn run_with_input(&self, options: &[&str], command: &[&str], input: &[u8]) -> Outcome {
        let mut child = self
            .command(run_arguments(options, command))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("hull starts");
        let mut stdin = child.stdin.take().expect("a pipe");
        let input = input.to_owned();
        let feeder = std::thread::spawn(move || {
            // A command that does not read its input is for its own test to judge.
            let _ = stdin.write_all(&input);
        });
        let output = child.wait_with_output().expect("hull ends");
        feeder.join().expect("the feeder ends");
        Outcome(output)
    }

    /// Starts `hull` and lets it run, its output in pipes.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn spawn<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Child {
        self.command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("hull starts")
    }
}

/// The number that a variable of the environment sets.
///
/// # Panics
/// When it is none.
#[must_use]
pub fn number<T: FromStr>(variable: &str, default: T) -> T {
    let set = std::env::var(variable).ok();
    set.map_or(default, |text| {
        let number = text.parse().ok();
        number.unwrap_or_else(|| panic!("{variable} is to be a number, and is {text:?}"))
    })
}

/// Waits until `child` prints `line` as the first on its standard output.
///
/// # Panics
/// When it prints something else, or its output is no pipe.
pub fn expect_line(child: &mut Child, line: &str) {
    let mut printed = String::new();
    let stdout = child.stdout.as_mut().expect("a pipe");
    let mut reader = BufReader::with_capacity(1, stdout);
    reader.read_line(&mut printed).expect("a line");
    if printed.trim_end() != line {
        // Otherwise there would be no end to what it may print.
        let _ = child.kill();
        let mut errors = String::new();
        if let Some(stderr) = child.stderr.as_mut() {
            stderr.read_to_string(&mut errors).expect("text");
        }
        panic!("{printed:?} instead of {line:?}: {errors}");
    }
}

/// Arguments of a container that is removed at its end and has no network.
#[must_use]
pub fn run_arguments(options: &[&str], command: &[&str]) -> Vec<String> {
    let mut arguments = vec!["run", "--rm", "--network", "none"];
    arguments.extend(options);
    let image = busybox();
    arguments.push(&image);
    arguments.extend(command);
    arguments.into_iter().map(str::to_owned).collect()
}

/// How a command ended and what it said.
#[derive(Debug)]
pub struct Outcome(pub Output);

impl Outcome {
    /// The exit code.
    ///
    /// # Panics
    /// When it was killed by a signal.
    #[must_use]
    pub fn code(&self) -> i32 {
        self.0
            .status
            .code()
            .unwrap_or_else(|| panic!("killed by a signal: {self:?}"))
    }

    /// Standard output as text.
    #[must_use]
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.0.stdout).into_owned()
    }

    /// Standard error as text.
    #[must_use]
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.0.stderr).into_owned()
    }

    /// Standard output of a command that succeeded.
    ///
    /// # Panics
    /// When it did not.
    #[must_use]
    pub fn ok(&self) -> String {
        assert_eq!(
            self.0.status.code(),
            Some(0),
            "{}{}",
            self.stdout(),
            self.stderr()
        );
        self.stdout()
    }

    /// Checks that it failed with `code` and one line on standard error, and returns the line.
    ///
    /// # Panics
    /// When it did not.
    #[must_use]
    pub fn one_error(&self, code: i32) -> String {
        let stderr = self.stderr();
        assert_eq!(self.code(), code, "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert!(stderr.starts_with("hull: "), "{stderr}");
        stderr
    }
}
