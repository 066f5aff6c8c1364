//! `hull` as an ordinary user.

use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use harness::Outcome;
use harness::namespaces::own_mounts;
use harness::network::{HOST_V4, Network, fetch};
use harness::traces::{pids_of, tree, wait_for_all, wait_for_end};
use harness::user::User;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// What a test does as an ordinary user.
struct Own(User);

impl Own {
    fn hull<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Outcome {
        let mut command = Command::new(self.0.program("hull"));
        self.0.own(&mut command);
        let output = command
            .args(arguments)
            .env("HULL_QUIET", "1")
            .stdin(Stdio::null())
            .output();
        Outcome(output.expect("hull starts"))
    }

    /// `hull run OPTIONS busybox sh -c SCRIPT`
    fn run(&self, options: &[&str], script: &str) -> Outcome {
        let image = format!("oci:{}", self.0.path("image").display());
        let command = [image.as_str(), "sh", "-c", script];
        let first = ["run"].into_iter();
        self.hull(first.chain(options.iter().copied()).chain(command))
    }

    fn pods(&self) -> Vec<i32> {
        let dir = self.0.dir().display().to_string();
        pids_of("containerd-shim-hull-v2", &dir)
    }

    /// Checks that no container left anything.
    fn assert_nothing_left(&self) {
        wait_for_all(self.0.dir());
        assert_eq!(self.hull(["ps", "-a", "-q"]).ok(), "");
        for dir in ["run/hull", "home/.local/share/hull/containers"] {
            let left = tree(&self.0.path(dir), &|path| !path.ends_with("lock"));
            assert!(left.is_empty(), "{left:#?}");
        }
    }
}

const NO_NETWORK: [&str; 2] = ["--network", "none"];

#[test]
fn a_user_runs_a_container() {
    own_mounts();
    let user = Own(User::new());
    let options = ["--rm", NO_NETWORK[0], NO_NETWORK[1]];
    let outcome = user.run(&options, "id -u; touch /file; echo error >&2; exit 7");
    assert_eq!(outcome.code(), 7, "{}", outcome.stderr());
    assert_eq!((&*outcome.stdout(), &*outcome.stderr()), ("0\n", "error\n"));
    user.assert_nothing_left();
}

#[test]
fn a_volume_on_a_restricted_file_system_is_read_only_when_asked_for() {
    own_mounts();
    let user = Own(User::new());
    let volume = user.0.make("volume");
    // A user cannot take these away.
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("tmpfs"), &volume, Some("tmpfs"), flags, None::<&str>).expect("tmpfs");
    user.0.give(&volume);
    for (access, expected) in [("ro", "Read-only"), ("rw", "written")] {
        let bind = format!("{}:/v:{access}", volume.display());
        let options = ["--rm", NO_NETWORK[0], NO_NETWORK[1], "-v", &bind];
        let script = "( echo > /v/file ) 2> /said && echo written || grep -o Read-only /said";
        let said = user.run(&options, script).ok();
        assert_eq!(said.trim(), expected, "{access}");
    }
    // Its directory could not be removed.
    umount2(&volume, MntFlags::MNT_DETACH).expect("unmounted");
    user.assert_nothing_left();
}

#[test]
fn files_have_owners_where_the_user_has_ids_for_them() {
    own_mounts();
    let user = Own(User::new().with_ranges());
    let options = ["--rm", NO_NETWORK[0], NO_NETWORK[1]];
    let script = "touch /file && chown 12:34 /file && stat -c %u:%g /file";
    assert_eq!(user.run(&options, script).ok(), "12:34\n");
    user.assert_nothing_left();
}

#[test]
fn a_container_in_the_background_is_entered_and_removed() {
    own_mounts();
    for user in [Own(User::new()), Own(User::new().with_ranges())] {
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
    for user in [Own(User::new()), Own(User::new().with_ranges())] {
        let outcome = user.run(&["--rm"], &fetch(HOST_V4, port));
        assert_eq!(outcome.ok(), "hello from a server\n");
        user.assert_nothing_left();
    }
}

#[test]
fn a_killed_pod_process_is_started_again() {
    own_mounts();
    for user in [Own(User::new()), Own(User::new().with_ranges())] {
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
