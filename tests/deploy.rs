//! The installer in `deploy/installer`, on a node that is a directory, and on a real containerd.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use harness::Outcome;
use harness::containerd::{CONFIGURATION, Containerd};
use harness::cri::Cri;
use harness::traces::pids_of;
use nix::mount::{MsFlags, mount};
use tempfile::TempDir;

/// A node's root as the installer is told of it, and what is installed there.
struct Node {
    root: PathBuf,
    prefix: PathBuf,
    source: TempDir,
}

impl Node {
    /// With what `make install` lays down to be installed.
    fn new(root: &Path, prefix: PathBuf) -> Self {
        let source = TempDir::new().expect("a directory");
        let made = Command::new("make")
            .arg("install")
            .arg(format!("DESTDIR={}", source.path().display()))
            .arg("PREFIX=/usr")
            .current_dir(checkout())
            .output();
        let _ = Outcome(made.expect("make runs")).ok();
        Self {
            root: root.to_owned(),
            prefix,
            source,
        }
    }

    /// Makes what is installed next another version.
    fn change_source(&self) {
        let file = self.source.path().join("usr/share/hull/changed");
        fs::write(file, "another version").expect("written");
    }

    fn run(&self, command: &str, options: &[&str], restart: &str) -> Outcome {
        let output = Command::new(checkout().join("deploy/installer/hull-node"))
            .arg(command)
            .arg("--root")
            .arg(&self.root)
            .arg("--prefix")
            .arg(&self.prefix)
            .args(["--restart-command", restart])
            .args(options)
            .output();
        Outcome(output.expect("the installer starts"))
    }

    fn install_with(&self, options: &[&str], restart: &str) -> Outcome {
        let source = self.source.path().join("usr").display().to_string();
        let options = [&["--source", &source], options].concat();
        self.run("install", &options, restart)
    }

    /// Installs, and returns whether containerd was to be restarted.
    fn install(&self) -> bool {
        let _ = self.install_with(&[], &self.notes_restart()).ok();
        self.was_restarted()
    }

    fn notes_restart(&self) -> String {
        format!("touch {}/restarted", self.root.display())
    }

    fn was_restarted(&self) -> bool {
        fs::remove_file(self.root.join("restarted")).is_ok()
    }

    fn configuration(&self) -> PathBuf {
        self.root.join(CONFIGURATION)
    }

    fn installed(&self, name: &str) -> PathBuf {
        let prefix = self.prefix.strip_prefix("/").expect("absolute");
        self.root.join(prefix).join(name)
    }

    fn current(&self) -> String {
        let target = fs::read_link(self.installed("current")).expect("a link");
        let name = target.file_name().expect("a name");
        name.to_string_lossy().into_owned()
    }

    fn versions(&self) -> Vec<String> {
        let versions = fs::read_dir(self.installed("versions"));
        let names = versions.into_iter().flatten().flatten();
        let mut names: Vec<_> = names
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    /// Files and directories that an installation could touch, and what is in them.
    fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut files = BTreeMap::new();
        let mut pending = vec![self.root.join("etc"), self.root.join("opt")];
        while let Some(dir) = pending.pop() {
            for entry in fs::read_dir(&dir).expect("a directory") {
                let path = entry.expect("an entry").path();
                match path.is_dir() {
                    true => pending.push(path.clone()),
                    false => drop(files.insert(path.clone(), fs::read(&path).expect("read"))),
                }
                files.entry(path).or_default();
            }
        }
        files
    }
}

fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A node without containerd, whose configuration is this.
fn configured(configuration: &str) -> (TempDir, Node) {
    let root = TempDir::new().expect("a directory");
    // Whoever uses an installation is known by its path, and other tests run pods.
    let name = root.path().file_name().expect("a name");
    let node = Node::new(root.path(), Path::new("/opt").join(name));
    fs::create_dir_all(node.configuration().parent().expect("a directory")).expect("made");
    fs::create_dir(root.path().join("opt")).expect("made");
    fs::write(node.configuration(), configuration).expect("written");
    (root, node)
}

#[tokio::test]
async fn running_pods_outlive_an_upgrade_and_keep_hull_from_being_removed() {
    let mut containerd = Containerd::without_hull();
    let node = Node::new(containerd.dir(), PathBuf::from("/opt/hull"));
    let opt = containerd.dir().join("opt");
    fs::create_dir(&opt).expect("a directory");
    mount(
        Some(&opt),
        "/opt",
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )
    .expect("bound");
    // containerd makes directories of its own there.
    containerd.kill();
    containerd.start();
    let before = node.files();
    let pods_of = |version: &str| {
        let pods = pids_of("containerd-shim-hull-v2", &format!("/versions/{version}/"));
        pods.len()
    };

    assert!(node.install(), "containerd has to learn of Hull");
    containerd.kill();
    containerd.start();
    let mut cri = Cri::connect(&containerd).await;
    let first = node.current();
    let old = cri.run_pod("old").await;
    let in_old = cri.run(&old, "one", &["sleep", "1000"]).await;
    assert_eq!(pods_of(&first), 1);

    node.change_source();
    assert!(!node.install(), "an upgrade restarts nothing");
    let second = node.current();
    assert_ne!(first, second);
    assert_eq!(node.versions().len(), 2, "{:?}", node.versions());
    let new = cri.run_pod("new").await;
    let in_new = cri.run(&new, "one", &["sleep", "1000"]).await;
    assert_eq!((pods_of(&first), pods_of(&second)), (1, 1));
    assert_eq!(cri.exec(&in_old, &["echo", "on"]).await.ok(), "on\n");
    // By the new version, for a pod of the old one.
    let later = cri.run(&old, "two", &["sleep", "1000"]).await;
    assert_eq!(cri.exec(&later, &["echo", "two"]).await.ok(), "two\n");

    cri.remove_pod(&old).await;
    assert!(!node.install());
    assert_eq!(node.versions(), [second.as_str()]);

    let removed = node.run("uninstall", &[], &node.notes_restart());
    assert_eq!(removed.code(), 3, "{}", removed.stderr());
    assert!(
        removed.stderr().contains("1 pods still run"),
        "{}",
        removed.stderr()
    );
    assert!(!node.was_restarted());
    assert_eq!(cri.exec(&in_new, &["echo", "on"]).await.ok(), "on\n");
    cri.remove_pod(&new).await;
    containerd.assert_no_pods();

    let _ = node.run("uninstall", &[], &node.notes_restart()).ok();
    assert!(node.was_restarted(), "containerd has to forget Hull");
    assert!(!node.installed("").exists());
    assert_eq!(node.files(), before);
}

#[test]
fn a_containerd_that_does_not_come_up_gets_its_former_configuration_back() {
    let (_root, node) = configured("version = 2");
    let refused = node.install_with(&[], "exit 1");
    assert_eq!(refused.code(), 1);
    assert!(
        refused.stderr().contains("did not come up"),
        "{}",
        refused.stderr()
    );
    let now = fs::read_to_string(node.configuration()).expect("read");
    assert_eq!(now, "version = 2");
}

#[test]
fn a_configuration_that_cannot_be_edited_with_certainty_is_left_alone() {
    let cases = [
        ("", "version = (missing)"),
        ("version = 1\n", "version = 1"),
        (
            "version = 2\ndisabled_plugins = [\"cri\"]\n",
            "disables the CRI",
        ),
        ("version = 2\nimports = \"all\"\n", "is not a list"),
        (
            "version = 2\nimports = [\n  \"../cri/*.toml\"\n]\n",
            "settings of the CRI",
        ),
        (
            "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.hull]\n",
            "has a runtime \"hull\" already",
        ),
    ];
    let (root, node) = configured("");
    let imported = root.path().join("etc/cri");
    fs::create_dir(&imported).expect("a directory");
    let cri = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\"]\n";
    fs::write(imported.join("x.toml"), cri).expect("written");
    for (configuration, complaint) in cases {
        fs::write(node.configuration(), configuration).expect("written");
        let before = node.files();
        let refused = node.install_with(&["--containerd-version", "1.7.27"], "true");
        assert_eq!(refused.code(), 1, "{configuration}");
        assert!(refused.stderr().contains(complaint), "{}", refused.stderr());
        assert_eq!(node.files(), before);
    }
    // containerd 2 merges what is imported with the same version.
    let imports = "version = 2\nimports = [\"../cri/*.toml\"]\n";
    fs::write(node.configuration(), imports).expect("written");
    let installed = node.install_with(&["--containerd-version", "2.1.9"], "true");
    let _ = installed.ok();
}

#[test]
fn settings_are_checked_before_anything_is_changed_and_go_with_hull() {
    let (root, node) = configured("version = 3\n");
    let before = node.files();
    let settings = root.path().join("settings.toml");
    let option = ["--config", settings.to_str().expect("text")];
    fs::write(&settings, "[vm]\nmemroy = \"4GiB\"\n").expect("written");
    let refused = node.install_with(&option, "true");
    assert_eq!(refused.code(), 1);
    assert!(
        refused.stderr().contains("vm.memory"),
        "{}",
        refused.stderr()
    );
    assert_eq!(node.files(), before);

    fs::write(&settings, "[vm]\nmemory = \"4GiB\"\n").expect("written");
    let _ = node.install_with(&option, "true").ok();
    let installed = root.path().join("etc/hull/config.d/20-hull-node.toml");
    assert_eq!(
        fs::read(installed).expect("read"),
        fs::read(&settings).expect("read")
    );
    let _ = node.run("uninstall", &[], "true").ok();
    assert_eq!(node.files(), before);
}

/// What a crash in the middle has left is no version, and goes with the next run.
#[test]
fn an_installation_that_was_cut_off_is_finished() {
    let (_root, node) = configured("version = 2\n");
    let partial = node.installed("versions/.new-0.1.0-abc/bin");
    fs::create_dir_all(partial).expect("made");
    assert!(node.install());
    assert_eq!(node.versions(), [node.current()]);
    assert!(!node.install(), "there is nothing left to do");
}

/// Helm is not among Debian's packages, and so not among what `make deps` installs.
#[test]
fn the_chart_is_what_helm_takes() {
    if Command::new("helm").arg("version").output().is_err() {
        eprintln!("skipped: there is no helm in PATH");
        return;
    }
    let chart = checkout().join("deploy/helm/hull");
    let helm = |arguments: &[&str]| {
        let output = Command::new("helm").args(arguments).arg(&chart).output();
        Outcome(output.expect("helm runs"))
    };
    let image = ["--set", "image.repository=registry.example/hull"];
    let linted = helm(&[&["lint", "--strict"], &image[..]].concat());
    let _ = linted.ok();
    let settings = ["--set", "config=[vm]", "--set", "prefix=/var/hull"];
    let rendered = helm(&[&["template", "release"], &image[..], &settings].concat()).ok();
    assert_eq!(
        rendered.matches("path: \"/var/hull\"").count(),
        2,
        "{rendered}"
    );
    let refused = helm(&["template", "release"]);
    assert!(
        refused.stderr().contains("image.repository"),
        "{}",
        refused.stderr()
    );
}

#[test]
fn the_chart_says_what_is_said_elsewhere() {
    let read = |name: &str| fs::read_to_string(checkout().join("deploy").join(name)).expect("read");
    let by_hand = read("runtimeclass.yaml");
    let overhead = by_hand.lines().find(|line| line.contains("memory: "));
    let overhead = overhead.expect("an overhead").trim();
    let values = read("helm/hull/values.yaml");
    assert!(
        values.lines().any(|line| line.trim() == overhead),
        "{overhead}"
    );
    let version = format!("appVersion: {}", env!("CARGO_PKG_VERSION"));
    let chart = read("helm/hull/Chart.yaml");
    assert!(chart.lines().any(|line| line == version), "{version}");
}
