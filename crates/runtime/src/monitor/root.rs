//! The monitor's mount namespace, which engines enter when they mean the container's: Podman copies files there
//! and reads `/proc`.
//!
//! It has the container's root and its volumes. What is the guest's alone (its tmpfs, `/dev`) is empty and
//! read-only here, so that nobody writes to what the container will never see.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use hull_sandbox::spec::is_bind;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{chdir, pivot_root};
use oci_spec::runtime::{Mount, Spec};
use serde::{Deserialize, Serialize};

use super::own_proc;
use crate::error::RuntimeError;

/// What is mounted where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RootPlan {
    root: PathBuf,
    read_only: bool,
    volumes: Vec<Volume>,
}

/// A mount of the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Volume {
    destination: PathBuf,
    /// Nothing for what the guest has of its own.
    source: Option<PathBuf>,
    read_only: bool,
}

impl RootPlan {
    /// Of a bundle, whose root is the directory `root`.
    pub(crate) fn new(spec: &Spec, bundle: &Path, root: PathBuf) -> Self {
        let read_only = spec.root().as_ref().and_then(|root| root.readonly());
        let mounts = spec.mounts().iter().flatten();
        Self {
            root,
            read_only: read_only.unwrap_or(false),
            volumes: mounts.map(|mount| volume(mount, bundle)).collect(),
        }
    }

    /// Gives this thread a mount namespace with this root. Nobody in the container runs yet, so nobody changes
    /// the paths meanwhile; but the image's symbolic links are followed within the root only.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn enter(&self) -> Result<(), RuntimeError> {
        let cannot = |what: &str, path: &Path| {
            RuntimeError::host(format!(
                "{what} {} for the container's monitor",
                path.display()
            ))
        };
        // The thread of another process has another number in its own /proc.
        let own = own_proc().map_err(cannot("read", Path::new("/proc/self")))?;
        unshare(CloneFlags::CLONE_NEWNS)
            .map_err(io::Error::from)
            .map_err(cannot("leave", Path::new("/")))?;
        bind(None, Path::new("/"), MsFlags::MS_SLAVE | MsFlags::MS_REC)
            .map_err(cannot("detach", Path::new("/")))?;
        bind(
            Some(&self.root),
            &self.root,
            MsFlags::MS_BIND | MsFlags::MS_REC,
        )
        .map_err(cannot("bind", &self.root))?;
        let root = File::open(&self.root).map_err(cannot("open", &self.root))?;
        for volume in &self.volumes {
            volume
                .mount(&root, &own)
                .map_err(cannot("mount", &volume.destination))?;
        }
        if self.read_only {
            make_read_only(&self.root).map_err(cannot("protect", &self.root))?;
        }
        chdir(&self.root)
            .and_then(|()| pivot_root(".", "."))
            .and_then(|()| umount2(".", MntFlags::MNT_DETACH))
            .and_then(|()| chdir("/"))
            .map_err(io::Error::from)
            .map_err(cannot("enter", &self.root))
    }
}

fn volume(mount: &Mount, bundle: &Path) -> Volume {
    let mut options = mount.options().iter().flatten();
    Volume {
        destination: mount.destination().clone(),
        source: mount
            .source()
            .as_ref()
            .filter(|_| is_bind(mount))
            .map(|source| bundle.join(source)),
        read_only: options.any(|option| option == "ro" || option == "rro"),
    }
}

impl Volume {
    fn mount(&self, root: &File, own: &Path) -> io::Result<()> {
        let Some(target) = find(root, &self.destination)? else {
            return Ok(());
        };
        let target = PathBuf::from(format!("/proc/self/fd/{}", target.as_raw_fd()));
        match &self.source {
            // The guest has it of its own: a disk, or memory that the pod shares.
            Some(source) if !source.is_dir() && !source.is_file() => Ok(()),
            Some(source) => {
                bind(Some(source), &target, MsFlags::MS_BIND | MsFlags::MS_REC)?;
                match self.read_only {
                    true => make_read_only_at(root, &self.destination),
                    false => Ok(()),
                }
            }
            None if !target.is_dir() => Ok(()),
            None => {
                mount(
                    Some("tmpfs"),
                    &target,
                    Some("tmpfs"),
                    MsFlags::empty(),
                    Some("size=64k"),
                )?;
                if self.destination == Path::new("/proc") {
                    fill_proc(root, own)?;
                }
                make_read_only_at(root, &self.destination)
            }
        }
    }
}

/// The monitor as the only process, with what readers of `/proc` look at besides.
fn fill_proc(root: &File, own: &Path) -> io::Result<()> {
    let proc = at(root, Path::new("/proc"))?;
    fs::create_dir(proc.path().join("1"))?;
    bind(Some(own), &proc.path().join("1"), MsFlags::MS_BIND)?;
    for name in ["stat", "uptime"] {
        File::create_new(proc.path().join(name))?;
        let source = Path::new("/proc").join(name);
        bind(Some(&source), &proc.path().join(name), MsFlags::MS_BIND)?;
    }
    Ok(())
}

/// A place below the root, by its descriptor.
struct Place(OwnedFd);

impl Place {
    fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
    }
}

fn at(root: &File, path: &Path) -> io::Result<Place> {
    find(root, path)?
        .map(Place)
        .ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// A path below the root, which no symbolic link leads out of.
fn find(root: &File, path: &Path) -> io::Result<Option<OwnedFd>> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT);
    match openat2(root, path, how) {
        Ok(found) => Ok(Some(found)),
        // The guest has it where this file system does not.
        Err(nix::Error::ENOENT | nix::Error::ENOTDIR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn bind(source: Option<&Path>, target: &Path, flags: MsFlags) -> io::Result<()> {
    Ok(mount(source, target, None::<&str>, flags, None::<&str>)?)
}

fn make_read_only_at(root: &File, path: &Path) -> io::Result<()> {
    make_read_only(&at(root, path)?.path())
}

fn make_read_only(mount_point: &Path) -> io::Result<()> {
    let read_only = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
    bind(None, mount_point, read_only)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use serde_json::json;

    use super::*;

    /// Runs `check` on a thread in a namespace with the root of a plan.
    fn inside(plan: RootPlan, check: impl FnOnce() + Send + 'static) {
        let thread = std::thread::spawn(move || {
            plan.enter().unwrap();
            check();
        });
        thread.join().unwrap();
    }

    #[test]
    fn engines_find_the_containers_files_and_nothing_of_the_host() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: mounting needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        for name in ["data", "tmp", "proc"] {
            fs::create_dir_all(root.join(name)).unwrap();
        }
        // An image may try to have a volume mounted on the host's own files.
        symlink(dir.path(), root.join("escape")).unwrap();
        let volume = dir.path().join("volume");
        fs::create_dir(&volume).unwrap();
        fs::write(volume.join("file"), "of the volume").unwrap();
        let spec = json!({
            "ociVersion": "1.0.2",
            "root": {"path": "root"},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"},
                {"destination": "/data", "type": "bind", "source": volume, "options": ["rbind", "ro"]},
                {"destination": "/escape", "type": "bind", "source": volume, "options": ["rbind"]},
                {"destination": "/not/there", "type": "bind", "source": volume, "options": ["rbind"]},
            ],
        });
        let spec = serde_json::from_value(spec).unwrap();
        inside(RootPlan::new(&spec, dir.path(), root), || {
            assert_eq!(fs::read_to_string("/data/file").unwrap(), "of the volume");
            for read_only in ["/data/new", "/tmp/new", "/proc/new"] {
                let error = File::create(read_only).unwrap_err();
                assert_eq!(
                    error.kind(),
                    io::ErrorKind::ReadOnlyFilesystem,
                    "{read_only}"
                );
            }
            fs::write("/own", "").unwrap();
            let processes = fs::read_dir("/proc").unwrap().filter(|entry| {
                let name = entry.as_ref().unwrap().file_name();
                name.to_string_lossy()
                    .bytes()
                    .all(|byte| byte.is_ascii_digit())
            });
            assert_eq!(processes.count(), 1);
            assert!(!Path::new("/etc").exists());
        });
        assert!(dir.path().join("root/own").exists());
        assert!(!dir.path().join("file").exists());
    }
}
