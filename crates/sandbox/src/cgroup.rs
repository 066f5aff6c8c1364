//! The pod's control group on the host: the one that the engine names, below what it has given the pod.
//! All of the pod's processes are in it, so that the engine's limits hold and its accounts are right.
//!
//! Versions 1 and 2 (kernel documentation admin-guide/cgroup-v1 and cgroup-v2). The guest enforces each
//! container's own limits; those of a container that is a pod by itself hold for the machine as well.

mod dbus;
mod limits;
mod systemd;
#[cfg(test)]
mod tests;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

use crate::error::SandboxError;

use systemd::Scope;

pub use limits::{Footprint, HostLimits};

const ROOT: &str = "/sys/fs/cgroup";
/// The hierarchies of version 1 that count what a pod uses. The others act on what the guest has of its own.
const CONTROLLERS: [&str; 5] = ["memory", "cpu", "cpuacct", "pids", "blkio"];
/// The one whose groups get CPUs chosen before a process: of those above it, whose owner could then take none
/// away. It is for containers, that is for pods with limits.
const CPUSET: &str = "cpuset";
/// What version 2 counts and limits in a group.
const DELEGATED: [&str; 5] = ["cpu", "cpuset", "io", "memory", "pids"];

/// The end of a process can be seen before its group is rid of it, and there is nothing to wait for. Far longer than that
/// takes, also on a machine that has too much to do: only a group that stays in use for good is waited for as long.
const LAST_EXITS: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    /// A hierarchy for each controller, in directories below the root.
    One,
    Two,
}

/// A pod's group, in each hierarchy.
#[derive(Debug)]
pub struct HostCgroup {
    version: Version,
    root: PathBuf,
    /// The roots of all hierarchies that a pod can be in.
    hierarchies: Vec<PathBuf>,
    /// Below the root of each hierarchy.
    path: PathBuf,
    /// Where this process was before, below each root.
    origins: OnceLock<Vec<PathBuf>>,
    /// Where systemd manages the group.
    scope: Option<Scope>,
}

impl HostCgroup {
    /// The group of `linux.cgroupsPath`: a path, or `SLICE:PREFIX:NAME` as for systemd.
    ///
    /// # Errors
    /// When the path leads out, or a hierarchy cannot be found.
    pub fn new(path: &str) -> Result<Self, SandboxError> {
        let root = Path::new(ROOT);
        let cannot = || SandboxError::host(format!("look at {ROOT}"));
        let kind = statfs(root).map_err(|error| cannot()(error.into()))?;
        let version = match kind.filesystem_type() == CGROUP2_SUPER_MAGIC {
            true => Version::Two,
            false => Version::One,
        };
        let group = Self::below(root, version, relative(path)?)?;
        Ok(Self {
            scope: Scope::find(path),
            ..group
        })
    }

    fn below(root: &Path, version: Version, path: PathBuf) -> Result<Self, SandboxError> {
        let hierarchies = match version {
            Version::Two => vec![root.to_owned()],
            Version::One => {
                let mut hierarchies: Vec<PathBuf> = CONTROLLERS
                    .iter()
                    .chain([&CPUSET])
                    .filter_map(|controller| root.join(controller).canonicalize().ok())
                    .collect();
                // `cpu` and `cpuacct` often are one hierarchy with two names.
                hierarchies.sort();
                hierarchies.dedup();
                hierarchies
            }
        };
        match hierarchies.is_empty() {
            true => Err(SandboxError::Unsupported(
                "a control group on a host that has none in /sys/fs/cgroup",
            )),
            false => Ok(Self {
                version,
                root: root.to_owned(),
                hierarchies,
                path,
                origins: OnceLock::new(),
                scope: None,
            }),
        }
    }

    /// The group's directories.
    fn directories(&self) -> impl Iterator<Item = PathBuf> {
        self.hierarchies.iter().map(|root| root.join(&self.path))
    }

    /// A file of the group's.
    fn file(&self, controller: &str, name: &str) -> PathBuf {
        let hierarchy = match self.version {
            Version::One => self.root.join(controller),
            Version::Two => self.root.clone(),
        };
        hierarchy.join(&self.path).join(name)
    }

    /// Makes the group and moves this process into it, and so what it starts. Only a pod whose group has limits
    /// of its own needs what can refuse them: another goes on without a group where this user may make none.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn enter(&self, limits: Option<(&HostLimits, Footprint)>) -> Result<(), SandboxError> {
        let needed = limits.is_some_and(|(limits, _)| !limits.is_empty());
        let cpuset = self.root.join(CPUSET).canonicalize().ok();
        let origins = self.hierarchies.iter().map(|root| origin(root));
        let _ = self.origins.set(origins.collect());
        if let Some(scope) = &self.scope {
            scope.start()?;
        }
        for (root, dir) in self.hierarchies.iter().zip(self.directories()) {
            let is_cpuset = self.version == Version::One && Some(root) == cpuset.as_ref();
            if is_cpuset && limits.is_none() {
                continue;
            }
            let enter = || {
                match is_cpuset {
                    true => create_cpuset(root, &self.path),
                    false => self.create(root, &dir),
                }
                .and_then(|()| move_here(&dir))
            };
            let mut entered = enter();
            // A pod with the same group ends at this very moment, and takes the group along until we are in it.
            for _ in 0..OTHERS {
                if !entered.as_ref().is_err_and(is_gone) {
                    break;
                }
                entered = enter();
            }
            match entered {
                Err(error) if !needed && is_forbidden(&error) => {
                    let group = dir.display();
                    tracing::warn!(%error, "the pod has no control group: may not use {group}");
                }
                other => other?,
            }
        }
        match limits.filter(|_| needed) {
            Some((limits, footprint)) => self.limit(limits, footprint),
            None => Ok(()),
        }
    }

    /// Moves this process into the group as far as another one has made it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn join(&self) -> Result<(), SandboxError> {
        let mut made = self.directories().filter(|dir| dir.exists());
        made.try_for_each(|dir| move_here(&dir))
    }

    fn create(&self, root: &Path, dir: &Path) -> Result<(), SandboxError> {
        fs::create_dir_all(dir).map_err(SandboxError::host(format!("create {}", dir.display())))?;
        if self.version == Version::Two {
            let mut above = root.to_owned();
            for name in &self.path {
                hand_down(&above);
                above.push(name);
            }
        }
        Ok(())
    }

    /// Moves this process, the last one, back to where it was, and removes the group.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn leave(&self) -> Result<(), SandboxError> {
        for (index, dir) in self.directories().enumerate() {
            if dir.exists() {
                let root = &self.hierarchies[index];
                let origin = self.origins.get().map(|origins| &origins[index]);
                // It may be gone by now, or take no processes any more. A user who has no rights at the root has
                // them where it was.
                if origin.is_none_or(|origin| move_here(origin).is_err()) {
                    move_here(root)?;
                }
            }
        }
        self.remove()
    }

    /// Removes the group, which has no process. That it is gone is no error.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove(&self) -> Result<(), SandboxError> {
        if let Some(scope) = &self.scope {
            scope.end()?;
        }
        // A file system that is read-only says so before it says that there is nothing.
        for dir in self.directories().filter(|dir| dir.exists()) {
            let started = Instant::now();
            while let Err(error) = fs::remove_dir(&dir) {
                match error.kind() {
                    io::ErrorKind::NotFound => break,
                    io::ErrorKind::ResourceBusy if started.elapsed() < LAST_EXITS => {
                        std::thread::sleep(Duration::from_millis(5));
                    }
                    _ => {
                        let what = format!("remove {}", dir.display());
                        return Err(SandboxError::host(what)(error));
                    }
                }
            }
        }
        Ok(())
    }
}

fn move_here(dir: &Path) -> Result<(), SandboxError> {
    let processes = dir.join("cgroup.procs");
    // 0 is whoever writes.
    fs::write(&processes, "0").map_err(SandboxError::host(format!("write {}", processes.display())))
}

/// The group of this process in a hierarchy; its root where the group is not to be seen.
fn origin(root: &Path) -> PathBuf {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let name = root.file_name().unwrap_or_default().to_string_lossy();
    let path = groups.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        // Version 2 names none.
        let found = match root.join("cgroup.controllers").exists() {
            true => controllers.is_empty(),
            false => controllers == name || controllers.split(',').any(|one| one == name),
        };
        found.then(|| root.join(path.trim_start_matches('/')))
    });
    path.filter(|path| path.exists())
        .unwrap_or_else(|| root.to_owned())
}

/// How many pods may leave a group while another one enters it.
const OTHERS: u32 = 16;

/// Whether the group was removed, before its file was opened (ENOENT) or after (ENODEV).
fn is_gone(error: &SandboxError) -> bool {
    let SandboxError::Host { source, .. } = error else {
        return false;
    };
    matches!(source.raw_os_error(), Some(libc::ENOENT | libc::ENODEV))
}

/// Whether this user may not make groups here, nor be given the right to.
fn is_forbidden(error: &SandboxError) -> bool {
    let SandboxError::Host { source, .. } = error else {
        return false;
    };
    match source.kind() {
        io::ErrorKind::ReadOnlyFilesystem => true,
        io::ErrorKind::PermissionDenied => !nix::unistd::geteuid().is_root() || in_user_namespace(),
        _ => false,
    }
}

/// Whether this process is in a user namespace that is not the first: of that, root's numbers are all there are.
#[must_use]
pub fn in_user_namespace() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    !map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// Makes the groups on the way in the hierarchy `cpuset`. They take processes once they have CPUs: those of the
/// group that they are in.
fn create_cpuset(root: &Path, path: &Path) -> Result<(), SandboxError> {
    let mut above = root.to_owned();
    for name in path {
        let dir = above.join(name);
        fs::create_dir_all(&dir)
            .map_err(SandboxError::host(format!("create {}", dir.display())))?;
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let cannot = || SandboxError::host(format!("give {} CPUs", dir.display()));
            let own = fs::read_to_string(dir.join(file)).map_err(cannot())?;
            if own.trim().is_empty() {
                let given = fs::read_to_string(above.join(file)).map_err(cannot())?;
                fs::write(dir.join(file), given).map_err(cannot())?;
            }
        }
        above = dir;
    }
    Ok(())
}

/// Has the groups in one of version 2 counted and limited, as far as that is possible: what is missing then is
/// noticed where a limit needs it.
fn hand_down(dir: &Path) {
    let words = |file| fs::read_to_string(dir.join(file)).unwrap_or_default();
    let (given, on) = (words("cgroup.controllers"), words("cgroup.subtree_control"));
    let has = |words: &str, name: &str| words.split_whitespace().any(|word| word == name);
    let missing: Vec<String> = DELEGATED
        .iter()
        .filter(|name| has(&given, name) && !has(&on, name))
        .map(|name| format!("+{name}"))
        .collect();
    let control = dir.join("cgroup.subtree_control");
    if !missing.is_empty() && fs::write(&control, missing.join(" ")).is_err() {
        for one in missing {
            let _ = fs::write(&control, one);
        }
    }
}

/// Where a group is below a hierarchy's root.
fn relative(path: &str) -> Result<PathBuf, SandboxError> {
    let invalid = SandboxError::Invalid("the cgroup path is neither a path nor SLICE:PREFIX:NAME");
    let path = match path.split(':').collect::<Vec<_>>()[..] {
        [path] => PathBuf::from(path.trim_start_matches('/')),
        [slice, prefix, name] => slice_path(slice).join(unit(prefix, name)),
        _ => return Err(invalid),
    };
    let plain = path
        .components()
        .all(|part| matches!(part, std::path::Component::Normal(_)));
    match plain && path.iter().next().is_some() {
        true => Ok(path),
        false => Err(invalid),
    }
}

/// The name of a scope.
fn unit(prefix: &str, name: &str) -> String {
    match prefix {
        "" => format!("{name}.scope"),
        _ => format!("{prefix}-{name}.scope"),
    }
}

/// systemd.slice(5): a dash in a slice's name leads one level down, `a-b.slice` is in `a.slice`.
fn slice_path(slice: &str) -> PathBuf {
    let name = slice.strip_suffix(".slice").unwrap_or(slice);
    let mut path = PathBuf::new();
    for (end, _) in name.match_indices('-').chain([(name.len(), "")]) {
        if end > 0 {
            path.push(format!("{}.slice", &name[..end]));
        }
    }
    path
}
