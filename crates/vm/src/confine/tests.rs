use std::ffi::OsStr;
use std::fs::{File, Permissions};
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::PathBuf;

use super::*;
use crate::process::{Process, open_place};

const SHELL: &str = "/bin/sh";

/// What `script` prints in a confined shell that was handed this; nothing when the tests may not confine.
async fn confined(script: &str, handed: Vec<OwnedFd>) -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(SHELL);
    command.arg("-c").arg(format!("{{ {script}; }} >&2"));
    let reach = Reach {
        program: Path::new(SHELL),
        data: &[],
        devices: &["/dev/null"],
        handed: &handed,
    };
    confine(
        &mut command,
        Identity::choose(Accelerator::Tcg),
        None,
        &reach,
    )
    .unwrap();
    let process = Process::spawn(command, handed, &dir.path().join("log")).unwrap();
    process.wait().await;
    Some(process.log_tail())
}

/// The values of these lines of its `/proc/self/status`.
async fn status(keys: &str) -> Option<String> {
    let script = format!(
        "while read key value more; do case $key in {keys}) echo $value;; esac; done < /proc/self/status"
    );
    confined(&script, vec![open_place(Path::new("/proc")).unwrap()]).await
}

#[tokio::test]
async fn a_confined_process_has_no_power() {
    let Some(values) = status("CapEff:|CapPrm:|NoNewPrivs:").await else {
        return;
    };
    let values: Vec<_> = values.lines().collect();
    assert_eq!(values, ["0000000000000000", "0000000000000000", "1"]);
}

#[tokio::test]
async fn a_confined_process_sees_no_network() {
    let script =
        "while read name more; do case $name in *:) echo $name;; esac; done < /proc/net/dev";
    let handed = vec![open_place(Path::new("/proc")).unwrap()];
    if let Some(interfaces) = confined(script, handed).await {
        assert_eq!(interfaces, "lo:");
    }
}

#[tokio::test]
async fn a_confined_process_owns_no_files() {
    if in_user_namespace() {
        eprintln!("skipped: needs the initial user namespace");
        return;
    }
    if let Some(id) = status("Uid:|Gid:|Groups:").await {
        let expected = (FIRST_UID + std::process::id()).to_string();
        assert!(
            id.lines().all(|line| line == expected || line.is_empty()),
            "{id}"
        );
        assert!(id.lines().count() >= 2, "{id}");
    }
}

/// For scripts: they say what they could do.
const TRIES: &str = r#"
    reads() { ( : < "$1" ) 2> /dev/null && echo "reads $2"; }
    writes() { ( : >> "$1" ) 2> /dev/null && echo "writes $2"; }
    makes() { ( : > "$1" ) 2> /dev/null && echo "makes $2"; }
    lists() { [ "$(echo "$1"/*)" != "$1/*" ] && echo "lists $2"; }
    runs() { "$@" > /dev/null 2>&1 && echo "runs $1"; }
"#;

/// Files that are open to everybody, so that nothing but the confinement is in the way.
struct Host {
    dir: tempfile::TempDir,
}

impl Host {
    /// `given` with `own`, and `other` with `file`.
    fn new() -> Self {
        let host = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        for dir in ["given", "other"] {
            std::fs::create_dir(host.path(dir)).unwrap();
        }
        for file in ["given/own", "other/file"] {
            std::fs::write(host.path(file), "").unwrap();
        }
        for (path, mode) in [
            ("", 0o755),
            ("given", 0o777),
            ("given/own", 0o666),
            ("other", 0o777),
            ("other/file", 0o666),
        ] {
            std::fs::set_permissions(host.path(path), Permissions::from_mode(mode)).unwrap();
        }
        host
    }

    fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    /// What a shell that was handed `given`, as `$given`, can do of `tries`.
    async fn tried(&self, tries: &str, mut handed: Vec<OwnedFd>) -> Option<String> {
        if !has_landlock() {
            eprintln!("skipped: this kernel has no Landlock");
            return None;
        }
        let given = open_place(&self.path("given")).unwrap();
        let script = format!(
            "{TRIES} given=/proc/self/fd/{} host={}; {tries}",
            given.as_raw_fd(),
            self.dir.path().display()
        );
        handed.push(given);
        confined(&script, handed).await
    }
}

#[tokio::test]
async fn a_confined_process_reaches_nothing_of_the_host() {
    let tries = "
        reads /etc/passwd passwords; reads /proc/self/status status; reads $host/other/file file
        reads /bin/ls program; reads /dev/urandom device; reads /sys/kernel/mm/transparent_hugepage/enabled setting
        writes $host/other/file file; makes $host/other/new new; makes /tmp/new new; makes /dev/shm/new new
        lists / root; lists $host host; lists $host/other other; lists /dev devices
        runs /bin/ls; runs /bin/true; runs /usr/bin/env";
    if let Some(done) = Host::new().tried(tries, vec![]).await {
        assert_eq!(done, "");
    }
}

#[tokio::test]
async fn a_confined_process_does_what_it_may_with_what_it_was_given() {
    let host = Host::new();
    let to_read = OwnedFd::from(File::open(host.path("other/file")).unwrap());
    let tries = format!(
        "reads $given/own own; writes $given/own own; makes $given/new new; lists $given given
         reads $host/given/own 'by its path'; read=/proc/self/fd/{}
         reads $read handed; writes $read handed; reads $read/../file beside; runs /bin/sh -c :",
        to_read.as_raw_fd()
    );
    if let Some(done) = host.tried(&tries, vec![to_read]).await {
        let expected = [
            "reads own",
            "writes own",
            "makes new",
            "lists given",
            "reads by its path",
            "reads handed",
            "runs /bin/sh",
        ];
        assert_eq!(done.lines().collect::<Vec<_>>(), expected);
    }
}

#[tokio::test]
async fn no_link_leads_a_confined_process_out_of_its_directory() {
    let host = Host::new();
    symlink(host.path("other"), host.path("given/dir")).unwrap();
    symlink(host.path("other/file"), host.path("given/file")).unwrap();
    symlink("/etc/passwd", host.path("given/passwd")).unwrap();
    let tries = "
        for name in dir/file file passwd ../other/file; do reads $given/$name $name; writes $given/$name $name; done
        makes $given/dir/new new; makes $given/../new new; lists $given/dir dir; lists $given/.. host";
    if let Some(done) = host.tried(tries, vec![]).await {
        assert_eq!(done, "");
        assert!(!host.path("other/new").exists());
    }
}

/// Set in a confined process that is this test once more, to the name of an abstract socket of others.
const INSIDE: &str = "HULL_TEST_INSIDE";

nix::ioctl_read_bad!(
    /// `TUNGETFEATURES`
    tun_get_features,
    0x8004_54cf,
    libc::c_uint
);

/// What the kernel's Landlock knows.
fn landlock_version() -> i64 {
    const VERSION: libc::c_uint = 1;
    // SAFETY: for the version there is no structure.
    unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, 0, 0, VERSION) }
}

fn look_around(others: &OsStr) -> ! {
    let device = File::options().read(true).write(true).open("/dev/net/tun");
    let mut features = 0;
    // SAFETY: the number is there until the call has returned.
    let answer = device.map(|it| unsafe { tun_get_features(it.as_raw_fd(), &raw mut features) });
    let tap = matches!(answer, Ok(Ok(_)));
    let kvm = File::open("/dev/kvm").is_ok();
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").is_ok();
    let signal = nix::sys::signal::kill(nix::unistd::getppid(), None).is_ok();
    let others = SocketAddr::from_abstract_name(others.as_bytes()).unwrap();
    let socket = UnixStream::connect_addr(&others).is_ok();
    eprintln!("LOOKED tap {tap} kvm {kvm} tcp {tcp} signal {signal} socket {socket}");
    std::process::exit(0)
}

#[tokio::test]
async fn a_confined_process_uses_its_devices_and_no_others() {
    if let Some(others) = std::env::var_os(INSIDE) {
        look_around(&others);
    }
    let root = nix::unistd::geteuid().is_root() && !in_user_namespace();
    if !root || !has_landlock() || !Path::new("/dev/net/tun").exists() {
        eprintln!("skipped: needs root, Landlock and /dev/net/tun");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let others = format!("hull-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&others).unwrap();
    let _listener = UnixListener::bind_addr(&address).unwrap();
    let network = File::open("/proc/self/ns/net").unwrap().into();
    let program = std::env::current_exe().unwrap();
    let mut command = Command::new(&program);
    let name = "confine::tests::a_confined_process_uses_its_devices_and_no_others";
    command
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, &others);
    let reach = Reach {
        program: &program,
        data: &[],
        devices: &["/dev/net/tun"],
        handed: &[],
    };
    confine(&mut command, Identity::Bare, Some(network), &reach).unwrap();
    let process = Process::spawn(command, vec![], &dir.path().join("log")).unwrap();
    process.wait().await;
    let log = process.log_tail();
    let looked = log.lines().find_map(|line| line.strip_prefix("LOOKED "));
    let version = landlock_version();
    let (tcp, others) = (version < 4, version < 6);
    let expected = format!("tap true kvm false tcp {tcp} signal {others} socket {others}");
    assert_eq!(looked, Some(expected.as_str()), "{log}");
}

/// As a VMM writes a snapshot: what is mounted in its directory is its own while it is there.
#[tokio::test]
async fn what_is_mounted_in_a_directory_belongs_to_it() {
    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    let host = Host::new();
    let (to, at) = (host.path("other"), host.path("given/out"));
    std::fs::create_dir(&at).unwrap();
    if mount(Some(&to), &at, None::<&str>, MsFlags::MS_BIND, None::<&str>).is_err() {
        eprintln!("skipped: may not mount");
        return;
    }
    let tries = "writes $given/out/file file; makes $given/out/new new; makes $host/other/new 'by its path'";
    let done = host.tried(tries, vec![]).await;
    umount2(&at, MntFlags::MNT_DETACH).unwrap();
    if let Some(done) = done {
        assert_eq!(done, "writes file\nmakes new");
    }
}
