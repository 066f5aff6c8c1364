//! `hull` as an ordinary user. The user exists only in the test's own mount namespace, as do the places
//! where that user finds the programs, the guest and the image.

use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use harness::namespaces::own_mounts;
use harness::network::{HOST_V4, Network, fetch};
use harness::traces::{pids_of, tree, wait_for_all, wait_for_end};
use harness::{Outcome, busybox, program};
use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

const UID: u32 = 54_321;

/// An ordinary user with a home.
struct User {
    dir: TempDir,
}

/// Shows a directory or file in another place as well, where it cannot be changed.
fn bind(source: &Path, target: &Path) {
    let none = None::<&Path>;
    let bind = MsFlags::MS_BIND;
    let bound = mount(Some(source), target, none, bind, none).and_then(|()| {
        mount(
            none,
            target,
            none,
            bind | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY,
            none,
        )
    });
    bound.unwrap_or_else(|error| panic!("{} on {}: {error}", source.display(), target.display()));
}

/// Where the programs and the guest are mounted: never in a directory that is removed at the end.
const PLACE: &str = "/mnt";

impl User {
    /// A user with no ids besides their own, in the mount namespace of the test.
    fn new() -> Self {
        let prefix = tempfile::Builder::new().prefix("hull-").tempdir();
        let user = Self {
            dir: prefix.expect("a directory"),
        };
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(user.dir.path(), open).expect("opened");
        for own in ["home", "run"] {
            let path = user.make(own);
            chown(&path, Some(UID), Some(UID)).expect("given away");
        }
        let none = None::<&str>;
        mount(none, PLACE, Some("tmpfs"), MsFlags::empty(), none).expect("a place for mounts");
        let programs = program("hull").parent().expect("a directory").to_owned();
        let guest = std::env::var_os("HULL_GUEST").map(PathBuf::from);
        let guest = guest.unwrap_or_else(|| programs.join("../guest"));
        for (source, name) in [(programs, "release"), (guest, "guest")] {
            let target = Path::new(PLACE).join(name);
            std::fs::create_dir(&target).expect("a directory");
            bind(&source, &target);
        }
        let image = busybox();
        let image = image.strip_prefix("oci:").expect("a directory");
        let copy = "cp -r \"$0\" \"$1\" && chmod -R a+rX \"$1\"";
        let copied = Command::new("sh")
            .args(["-c", copy, image])
            .arg(user.path("image"))
            .status();
        assert!(copied.expect("a shell").success());
        user
    }

    /// Gives the user a name, and a range of ids.
    fn with_ranges(self) -> Self {
        let passwd = std::fs::read_to_string("/etc/passwd").expect("/etc/passwd");
        let files = [
            (
                "/etc/passwd",
                format!("{passwd}ann:x:{UID}:{UID}::/:/bin/sh\n"),
            ),
            ("/etc/subuid", "ann:600000:65536\n".to_owned()),
            ("/etc/subgid", "ann:600000:65536\n".to_owned()),
        ];
        for (number, (path, text)) in files.into_iter().enumerate() {
            let file = self.path(&format!("etc-{number}"));
            std::fs::write(&file, text).expect("written");
            bind(&file, Path::new(path));
        }
        self
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn make(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(&path).expect("a directory");
        path
    }

    fn hull<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Outcome {
        let output = Command::new(Path::new(PLACE).join("release/hull"))
            .args(arguments)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", self.path("home"))
            .env("XDG_RUNTIME_DIR", self.path("run"))
            .env("HULL_QUIET", "1")
            .uid(UID)
            .gid(UID)
            .current_dir("/")
            .stdin(Stdio::null())
            .output();
        Outcome(output.expect("hull starts"))
    }

    /// `hull run OPTIONS busybox sh -c SCRIPT`
    fn run(&self, options: &[&str], script: &str) -> Outcome {
        let image = format!("oci:{}", self.path("image").display());
        let command = [image.as_str(), "sh", "-c", script];
        let first = ["run"].into_iter();
        self.hull(first.chain(options.iter().copied()).chain(command))
    }

    fn pods(&self) -> Vec<i32> {
        let dir = self.dir.path().display().to_string();
        pids_of("containerd-shim-hull-v2", &dir)
    }

    /// Checks that no container left anything.
    fn assert_nothing_left(&self) {
        wait_for_all(self.dir.path());
        assert_eq!(self.hull(["ps", "-a", "-q"]).ok(), "");
        for dir in ["run/hull", "home/.local/share/hull/containers"] {
            let left = tree(&self.path(dir), &|path| !path.ends_with("lock"));
            assert!(left.is_empty(), "{left:#?}");
        }
    }
}

const NO_NETWORK: [&str; 2] = ["--network", "none"];

#[test]
fn a_user_runs_a_container() {
    own_mounts();
    let user = User::new();
    let options = ["--rm", NO_NETWORK[0], NO_NETWORK[1]];
    let outcome = user.run(&options, "id -u; touch /file; echo error >&2; exit 7");
    assert_eq!(outcome.code(), 7, "{}", outcome.stderr());
    assert_eq!((&*outcome.stdout(), &*outcome.stderr()), ("0\n", "error\n"));
    user.assert_nothing_left();
}

#[test]
fn a_volume_on_a_restricted_file_system_is_read_only_when_asked_for() {
    own_mounts();
    let user = User::new();
    let volume = user.make("volume");
    // A user cannot take these away.
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("tmpfs"), &volume, Some("tmpfs"), flags, None::<&str>).expect("tmpfs");
    chown(&volume, Some(UID), Some(UID)).expect("given away");
    for (access, expected) in [("ro", "Read-only"), ("rw", "written")] {
        let bind = format!("{}:/v:{access}", volume.display());
        let options = ["--rm", NO_NETWORK[0], NO_NETWORK[1], "-v", &bind];
        let script = "( echo > /v/file ) 2> /said && echo written || grep -o Read-only /said";
        let said = user.run(&options, script).ok();
        assert_eq!(said.trim(), expected, "{access}");
    }
    user.assert_nothing_left();
}

#[test]
fn files_have_owners_where_the_user_has_ids_for_them() {
    own_mounts();
    let user = User::new().with_ranges();
    let options = ["--rm", NO_NETWORK[0], NO_NETWORK[1]];
    let script = "touch /file && chown 12:34 /file && stat -c %u:%g /file";
    assert_eq!(user.run(&options, script).ok(), "12:34\n");
    user.assert_nothing_left();
}

#[test]
fn a_container_in_the_background_is_entered_and_removed() {
    own_mounts();
    for user in [User::new(), User::new().with_ranges()] {
        let options = ["-d", "--name", "c", NO_NETWORK[0], NO_NETWORK[1]];
        let _ = user.run(&options, "echo ready; sleep 1000").ok();
        assert_eq!(user.hull(["exec", "c", "echo", "inside"]).ok(), "inside\n");
        assert_eq!(user.hull(["logs", "c"]).ok(), "ready\n");
        let _ = user.hull(["rm", "-f", "c"]).ok();
        user.assert_nothing_left();
    }
}

#[test]
fn a_container_reaches_the_network() {
    let network = Network::enter();
    // The network's own, which is a private file at first.
    let open = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions("/etc/resolv.conf", open).expect("opened");
    let port = network.serve(HOST_V4, "hello from a server\n");
    for user in [User::new(), User::new().with_ranges()] {
        let outcome = user.run(&["--rm"], &fetch(HOST_V4, port));
        assert_eq!(outcome.ok(), "hello from a server\n");
        user.assert_nothing_left();
    }
}

#[test]
fn a_killed_pod_process_is_started_again() {
    own_mounts();
    for user in [User::new(), User::new().with_ranges()] {
        let options = ["-d", "--name", "c", NO_NETWORK[0], NO_NETWORK[1]];
        let script = "echo before; while [ ! -e /go ]; do sleep 0.1; done; echo after; exit 6";
        let _ = user.run(&options, script).ok();
        let pods = user.pods();
        assert_eq!(pods.len(), 1, "{pods:?}");
        kill(Pid::from_raw(pods[0]), Signal::SIGKILL).expect("killed");
        wait_for_end(pods[0]);

        // This command is in a user namespace of its own until it has found the pod's.
        assert_eq!(user.hull(["exec", "c", "echo", "in"]).ok(), "in\n");
        // Its code is anybody's guess: the container may end, and all in it, before it does.
        let _ = user.hull(["exec", "c", "touch", "/go"]);
        for pod in user.pods() {
            wait_for_end(pod);
        }
        assert_eq!(user.hull(["logs", "c"]).ok(), "before\nafter\n");
        let _ = user.hull(["rm", "c"]).ok();
        user.assert_nothing_left();
    }
}
