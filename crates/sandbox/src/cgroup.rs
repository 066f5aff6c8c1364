//! The pod's control group on the host: the one that the engine names, below what it has given the pod.
//! All of the pod's processes are in it, so that the engine's limits hold and its accounts are right.
//!
//! Versions 1 and 2 (kernel documentation admin-guide/cgroup-v1 and cgroup-v2). The guest enforces each
//! container's own limits.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

use crate::error::SandboxError;

const ROOT: &str = "/sys/fs/cgroup";
/// The hierarchies of version 1 that count what a pod uses. `cpuset` would need CPUs to be chosen, and the
/// others act on what the guest has of its own.
const CONTROLLERS: [&str; 5] = ["memory", "cpu", "cpuacct", "pids", "blkio"];

/// The end of a process can be seen before its group is rid of it, and there is nothing to wait for.
const LAST_EXITS: Duration = Duration::from_secs(5);

/// A pod's group, in each hierarchy.
#[derive(Debug)]
pub struct HostCgroup {
    hierarchies: Vec<PathBuf>,
    /// Below the root of each hierarchy.
    path: PathBuf,
}

impl HostCgroup {
    /// The group of `linux.cgroupsPath`: a path, or `SLICE:PREFIX:NAME` as for systemd.
    ///
    /// # Errors
    /// When the path leads out, or a hierarchy cannot be found.
    pub fn new(path: &str) -> Result<Self, SandboxError> {
        let path = relative(path)?;
        let root = Path::new(ROOT);
        let cannot = || SandboxError::host(format!("look at {ROOT}"));
        let kind = statfs(root).map_err(|error| cannot()(error.into()))?;
        let hierarchies = if kind.filesystem_type() == CGROUP2_SUPER_MAGIC {
            vec![root.to_owned()]
        } else {
            let mut hierarchies: Vec<PathBuf> = CONTROLLERS
                .iter()
                .filter_map(|controller| root.join(controller).canonicalize().ok())
                .collect();
            // `cpu` and `cpuacct` often are one hierarchy with two names.
            hierarchies.sort();
            hierarchies.dedup();
            hierarchies
        };
        match hierarchies.is_empty() {
            true => Err(SandboxError::Unsupported(
                "a control group on a host that has none in /sys/fs/cgroup",
            )),
            false => Ok(Self { hierarchies, path }),
        }
    }

    /// The group's directories.
    fn directories(&self) -> impl Iterator<Item = PathBuf> {
        self.hierarchies.iter().map(|root| root.join(&self.path))
    }

    /// Makes the group and moves this process into it, and so what it starts.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn enter(&self) -> Result<(), SandboxError> {
        for dir in self.directories() {
            fs::create_dir_all(&dir)
                .map_err(SandboxError::host(format!("create {}", dir.display())))?;
            move_here(&dir)?;
        }
        Ok(())
    }

    /// Moves this process, the last one, back to the hierarchy's root, and removes the group.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn leave(&self) -> Result<(), SandboxError> {
        for (root, dir) in self.hierarchies.iter().zip(self.directories()) {
            if dir.exists() {
                move_here(root)?;
            }
        }
        self.remove()
    }

    /// Removes the group, which has no process. That it is gone is no error.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove(&self) -> Result<(), SandboxError> {
        for dir in self.directories() {
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

/// Where a group is below a hierarchy's root.
fn relative(path: &str) -> Result<PathBuf, SandboxError> {
    let invalid = SandboxError::Invalid("the cgroup path is neither a path nor SLICE:PREFIX:NAME");
    let path = match path.split(':').collect::<Vec<_>>()[..] {
        [path] => PathBuf::from(path.trim_start_matches('/')),
        [slice, prefix, name] => {
            let unit = match prefix {
                "" => format!("{name}.scope"),
                _ => format!("{prefix}-{name}.scope"),
            };
            slice_path(slice).join(unit)
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_both_drivers_are_understood() {
        let relative = |path| relative(path).ok();
        assert_eq!(relative("/k8s.io/abc"), Some("k8s.io/abc".into()));
        assert_eq!(
            relative("kubepods-burstable-pod1.slice:cri-containerd:abc"),
            Some(
                "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice/cri-containerd-abc.scope"
                    .into()
            )
        );
        assert_eq!(
            relative("system.slice::x"),
            Some("system.slice/x.scope".into())
        );
        for path in ["", "/", "../x", "/a/../b", "a:b", "a:b:c:d"] {
            assert_eq!(relative(path), None, "{path}");
        }
    }
}
