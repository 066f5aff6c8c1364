//! A Podman of the test's own, with Hull's command line as its runtime.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use tempfile::TempDir;

use crate::busybox;
use crate::engine::{BUSYBOX, Engine, RUNTIME, is_hull, is_installed, place, runtime, search_path};
use crate::layout::with_command;
use crate::user::User;

/// The image of what holds a pod together: it waits, and ends when asked to.
const PAUSE: &str = "localhost/pause:1";

/// Where Debian has it, and what it runs.
const PROGRAM: &str = "/usr/bin/podman";
const CONMON: &str = "/usr/bin/conmon";
const NETAVARK: &str = "/usr/lib/podman/netavark";
const NAMES: &str = "/usr/lib/podman/aardvark-dns";
const NEEDED: [&str; 5] = [PROGRAM, CONMON, NETAVARK, NAMES, INIT];
/// Directories with what it runs itself.
const HELPERS: [&str; 3] = ["/usr/libexec/podman", "/usr/lib/podman", "/usr/bin"];
/// What it needs besides for an ordinary user.
const ROOTLESS: [&str; 2] = ["/usr/bin/newuidmap", "/usr/bin/slirp4netns"];
const INIT: &str = "/usr/bin/tini-static";

/// Takes the current thread into a place of its own and gives Podman the image, if Podman is installed.
///
/// # Panics
/// When it does not work: it needs root, and the packages that `.ci/deps` lists.
#[must_use]
pub fn podman() -> Option<Engine> {
    if !is_installed("Podman", &NEEDED) {
        return None;
    }
    let podman = Engine::enter(PROGRAM);
    let store = podman.dir().to_owned();
    Some(set_up(podman, &store, &runtime()))
}

/// A Podman of an ordinary user's, if it and what it needs then are installed.
///
/// # Panics
/// When it does not work.
#[must_use]
pub fn rootless_podman() -> Option<Engine> {
    if !is_installed("Podman", &NEEDED) || !is_installed("Podman's rootless mode", &ROOTLESS) {
        return None;
    }
    let mut podman = Engine::enter(PROGRAM);
    let user = User::new().with_ranges().with_tun();
    fs::set_permissions(podman.dir(), fs::Permissions::from_mode(0o755)).expect("opened");
    let store = user.make("home/podman");
    user.give(&store);
    let runtime = if is_hull() {
        user.program("hull-runtime")
    } else {
        runtime()
    };
    podman.user = Some(user);
    Some(set_up(podman, &store, &runtime))
}

/// Lets it keep what it has in the directory `store`, and gives it the image.
fn set_up(mut podman: Engine, store: &Path, runtime: &Path) -> Engine {
    let dir = podman.dir().to_owned();
    let temporary = store.join("tmp");
    fs::create_dir_all(&temporary).expect("a directory");
    let mut passed_on = vec![podman.settings()];
    if let Some(user) = &podman.user {
        user.give(&temporary);
        passed_on.push(("HULL_GUEST", user.guest().display().to_string()));
    }
    let write = |name: &str, text: &str| {
        let file = dir.join(name);
        fs::write(&file, text).expect("written");
        file.display().to_string()
    };
    let environment = [
        (
            "CONTAINERS_CONF",
            write(
                "containers.conf",
                &configuration(store, runtime, &passed_on),
            ),
        ),
        (
            "CONTAINERS_STORAGE_CONF",
            write("storage.conf", &storage(store)),
        ),
        ("CONTAINERS_REGISTRIES_CONF", write("registries.conf", "")),
        ("PATH", search_path(None).to_string_lossy().into_owned()),
        ("TMPDIR", temporary.display().to_string()),
        // Nothing of the machine's shall run health checks.
        ("DISABLE_HC_SYSTEMD", "true".to_owned()),
    ];
    // Warnings are of control groups that the machine does not have.
    podman.always(&["--log-level", "error"], &environment);
    podman.add_image(&busybox(), BUSYBOX);
    podman
}

/// The same with what Podman needs for pods.
///
/// # Panics
/// When it does not work.
#[must_use]
pub fn podman_with_pods() -> Option<Engine> {
    let podman = podman()?;
    complete_hierarchies();
    take_messages();
    let wait = "trap exit TERM; sleep 1000000 & wait";
    let image = with_command(&podman.dir().join("pause"), &["sh", "-c", wait]);
    podman.add_image(&image, PAUSE);
    Some(podman)
}

/// What cleans up after some containers of Podman's ends when there is nobody to take its messages.
fn take_messages() {
    let socket = UnixDatagram::bind("/run/syslog").expect("a socket");
    std::thread::spawn(move || while socket.recv(&mut [0; 4096]).is_ok() {});
}

/// For a pod, Podman wants a group in each hierarchy of version 1 that the kernel knows, also where none is mounted. For
/// this thread, such are the one that has no controller.
fn complete_hierarchies() {
    let root = Path::new("/sys/fs/cgroup");
    let is_old = statfs(root).expect("it is there").filesystem_type() == TMPFS_MAGIC;
    if !is_old || !root.join("systemd").exists() {
        return;
    }
    let none = None::<&str>;
    let bind = |from: &Path, to: &Path, flags| {
        mount(Some(from), to, none, MsFlags::MS_BIND | flags, none).expect("bound");
    };
    let device = |dir: &Path| fs::metadata(dir).expect("it is there").dev();
    let aside = TempDir::new().expect("a directory");
    bind(root, aside.path(), MsFlags::MS_REC);
    mount(Some("tmpfs"), root, Some("tmpfs"), MsFlags::empty(), none).expect("tmpfs");
    let spare = aside.path().join("systemd");
    for entry in fs::read_dir(aside.path()).expect("a directory").flatten() {
        let (from, to) = (entry.path(), root.join(entry.file_name()));
        if from.is_symlink() {
            symlink(fs::read_link(from).expect("a link"), to).expect("a link");
        } else if from.is_dir() {
            fs::create_dir(&to).expect("a directory");
            let is_mounted = device(&from) != device(aside.path());
            let from = if is_mounted { from } else { spare.clone() };
            bind(&from, &to, MsFlags::empty());
        }
    }
    umount2(aside.path(), MntFlags::MNT_DETACH).expect("unmounted");
}

fn configuration(store: &Path, runtime: &Path, passed_on: &[(&str, String)]) -> String {
    let (dir, runtime) = (store.display(), runtime.display());
    let conmon = place(CONMON);
    let helpers = HELPERS.map(place);
    let mut variables = vec!["PATH=/usr/sbin:/usr/bin:/sbin:/bin".to_owned()];
    variables.extend(
        passed_on
            .iter()
            .map(|(name, value)| format!("{name}={value}")),
    );
    format!(
        r#"
[containers]
# What Podman asks for otherwise, not everybody may set.
default_ulimits = []
init_path = "{INIT}"
[network]
network_backend = "netavark"
network_config_dir = "{dir}/networks"
[engine]
cgroup_manager = "cgroupfs"
conmon_path = [{conmon:?}]
conmon_env_vars = {variables:?}
events_logger = "file"
events_logfile_path = "{dir}/events"
helper_binaries_dir = {helpers:?}
infra_image = "{PAUSE}"
# The machine's own locks are in memory that all of it shares.
lock_type = "file"
runtime = "{RUNTIME}"
runtime_supports_json = ["{RUNTIME}"]
tmp_dir = "{dir}/tmp"
volume_path = "{dir}/volumes"
[engine.runtimes]
{RUNTIME} = ["{runtime}"]
"#
    )
}

fn storage(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        "[storage]\ndriver = \"overlay\"\nrunroot = \"{dir}/run\"\ngraphroot = \"{dir}/root\"\n"
    )
}
