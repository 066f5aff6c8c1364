//! What a pod leaves on the machine, if it leaves anything.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The directories of a control group, in all hierarchies. `path` is below their roots and begins with a slash.
pub(crate) fn control_groups(path: &str) -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = std::fs::read_dir(root).into_iter().flatten().flatten();
    let hierarchies = hierarchies
        .map(|entry| entry.path())
        .chain([root.to_owned()]);
    let dirs = hierarchies.map(|dir| dir.join(path.trim_start_matches('/')));
    dirs.filter(|dir| dir.exists()).collect()
}

/// Mounts, processes, network interfaces and files, to be compared before and after.
#[derive(Debug, PartialEq, Eq)]
pub struct Traces {
    mounts: BTreeSet<String>,
    processes: BTreeSet<String>,
    interfaces: BTreeSet<String>,
    cgroups: BTreeSet<String>,
    files: BTreeSet<String>,
}

impl Traces {
    /// What there is now: machine-wide, and files below `root`.
    ///
    /// # Panics
    /// When `/proc` cannot be read.
    #[must_use]
    pub fn now(root: &Path) -> Self {
        let mountinfo = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
        // Mount ids are given anew; the rest of a line says what is mounted where.
        let mounts = mountinfo
            .lines()
            .filter_map(|line| Some(line.splitn(4, ' ').nth(3)?.to_owned()));
        Self {
            mounts: mounts.collect(),
            processes: processes_of_pods(),
            interfaces: names_in(Path::new("/sys/class/net")),
            cgroups: tree(Path::new("/sys/fs/cgroup"), &|path| path.is_dir()),
            files: tree(root, &|_| true),
        }
    }

    /// Checks that nothing came to `self` until `later`.
    ///
    /// # Panics
    /// When something did, with what it is.
    pub fn assert_nothing_left(&self, later: &Self) {
        let left = |before: &BTreeSet<String>, after: &BTreeSet<String>| -> Vec<String> {
            after.difference(before).cloned().collect()
        };
        let all = [
            ("mounts", left(&self.mounts, &later.mounts)),
            ("processes", left(&self.processes, &later.processes)),
            ("interfaces", left(&self.interfaces, &later.interfaces)),
            ("cgroups", left(&self.cgroups, &later.cgroups)),
            ("files", left(&self.files, &later.files)),
        ];
        for (what, left) in all {
            assert!(left.is_empty(), "{what} left behind: {left:#?}");
        }
    }
}

/// Command lines, with process ids, of processes whose command line has `text` in it. Kernel threads
/// have none; zombies neither.
///
/// # Panics
/// When `/proc` cannot be read.
#[must_use]
pub fn processes_with(text: &str) -> BTreeSet<String> {
    let own = std::process::id().to_string();
    let entries = std::fs::read_dir("/proc").expect("/proc");
    let ids = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    ids.filter(|id| id.bytes().all(|byte| byte.is_ascii_digit()) && *id != own)
        .filter_map(|id| {
            // A process may end while we look.
            let line = std::fs::read(format!("/proc/{id}/cmdline")).ok()?;
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            (!line.is_empty() && line.contains(text)).then(|| format!("{id} {line}"))
        })
        .collect()
}

/// Processes of any pod. Other processes of the machine come and go as they like.
fn processes_of_pods() -> BTreeSet<String> {
    const PROGRAMS: [&str; 8] = [
        "cloud-hypervisor",
        "containerd-shim-hull-v2",
        "firecracker",
        "hull-fs",
        "hull-net",
        "hull-vsock",
        "passt",
        "qemu-system-x86_64",
    ];
    let is_of_pod = |line: &String| {
        let command = line.split(' ').nth(1).unwrap_or_default();
        PROGRAMS.contains(&command.rsplit('/').next().unwrap_or_default())
    };
    processes_with("").into_iter().filter(is_of_pod).collect()
}

/// Process ids of a program whose command line has `text` in it.
///
/// # Panics
/// When `/proc` cannot be read.
#[must_use]
pub fn pids_of(program: &str, text: &str) -> Vec<i32> {
    let of_program = |line: &String| {
        let command = line.split(' ').nth(1).unwrap_or_default();
        command.rsplit('/').next() == Some(program)
    };
    let lines = processes_with(text).into_iter().filter(of_program);
    lines
        .filter_map(|line| line.split(' ').next()?.parse().ok())
        .collect()
}

/// The process that has started `pid`, unless that has ended.
#[must_use]
pub fn parent_of(pid: i32) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    fields.split(' ').nth(1)?.parse().ok()
}

/// The only process that the pod process of this root has started from `program`.
///
/// # Panics
/// When there is none, or more than one.
#[must_use]
pub fn pods_only(program: &str, root: &Path) -> i32 {
    let pods = pids_of("containerd-shim-hull-v2", &root.display().to_string());
    let is_of_pod = |pid: &i32| parent_of(*pid).is_some_and(|parent| pods.contains(&parent));
    let found: Vec<_> = pids_of(program, "").into_iter().filter(is_of_pod).collect();
    assert_eq!(found.len(), 1, "{program}: {found:?}");
    found[0]
}

/// Kills all processes that the state files of pods below `dir` name.
pub fn kill_recorded(dir: &Path) {
    fn pids(value: &serde_json::Value, found: &mut Vec<i32>) {
        match value {
            serde_json::Value::Object(fields) => {
                let pid = fields.get("pid").and_then(serde_json::Value::as_i64);
                found.extend(pid.and_then(|pid| i32::try_from(pid).ok()));
                fields.values().for_each(|value| pids(value, found));
            }
            serde_json::Value::Array(values) => values.iter().for_each(|value| pids(value, found)),
            _ => {}
        }
    }
    for pod in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let state = std::fs::read(pod.path().join("state.json")).unwrap_or_default();
        let state = serde_json::from_slice(&state).unwrap_or_default();
        let mut found = Vec::new();
        pids(&state, &mut found);
        for pid in found {
            // It may have ended by itself.
            let _ = nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(pid),
                nix::sys::signal::Signal::SIGKILL,
            );
        }
    }
}

fn names_in(dir: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

/// The paths below `dir`, of those that are wanted.
#[must_use]
pub fn tree(dir: &Path, wanted: &dyn Fn(&Path) -> bool) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() && !path.is_symlink() {
                open.push(path.clone());
            }
            if wanted(&path) {
                found.insert(path.display().to_string());
            }
        }
    }
    found
}

/// Waits for the end of a process that is not our child.
///
/// # Panics
/// When it has not ended after a minute.
pub fn wait_for_end(pid: i32) {
    // SAFETY: pidfd_open takes no pointer.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        return;
    }
    let fd = i32::try_from(fd).expect("a descriptor");
    let mut poll = libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one pollfd of ours, for the length of the call.
    let ended = unsafe { libc::poll(&raw mut poll, 1, 60_000) };
    // SAFETY: the descriptor is ours and not used again.
    unsafe { libc::close(fd) };
    assert_eq!(ended, 1, "process {pid} lives on");
}

/// Waits for the end of every process that works for the `hull` of this root: those that name it on
/// their command line or in their environment.
///
/// # Panics
/// When one has not ended after a minute.
pub fn wait_for_all(root: &Path) {
    let root = root.display().to_string();
    let own = std::process::id().to_string();
    loop {
        let entries = std::fs::read_dir("/proc").expect("/proc").flatten();
        let ids = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let found = ids
            .filter(|id| id.parse::<i32>().is_ok() && *id != own)
            .find(|id| {
                // A process may end while we look.
                let holds = |file| {
                    let bytes = std::fs::read(format!("/proc/{id}/{file}")).unwrap_or_default();
                    String::from_utf8_lossy(&bytes).contains(&root)
                };
                holds("cmdline") || holds("environ")
            });
        match found {
            Some(id) => wait_for_end(id.parse().expect("a process id")),
            None => return,
        }
    }
}
