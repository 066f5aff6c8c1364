//! Templates: snapshots of guests that are ready and have no identity yet, from which pods go on instead of booting.
//!
//! A template is of one VMM, guest and shape of a machine, and of one boot of the host, after which its processors and its
//! kernel may be others. It is made when the first pod asks for it. What makes a pod's guest its own comes later, when it
//! is prepared for containers: its name, addresses, clock and randomness.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use hull_vm::snapshot::Shape;
use hull_vm::{Driver, FileTransport, Snapshot, Vm, VmConfig, VmError, VmRecord};
use sha2::{Digest, Sha256};

use super::boot::{self, vm_dir, vsock};
use crate::config::PodConfig;
use crate::error::SandboxError;
use crate::guest::ReadyListener;
use crate::json_file;
use crate::network;
use crate::share;

/// How many templates are kept, of those that were used last.
const KEPT: usize = 8;

/// Held by whoever makes one.
const LOCK: &str = "lock";

/// What a pod goes on from.
#[derive(Debug)]
pub(super) struct Template<'a> {
    config: &'a PodConfig,
    /// All templates.
    all: &'a Path,
    /// Where the pod has its own things.
    state_dir: &'a Path,
}

impl<'a> Template<'a> {
    /// The pod's, if it is to have one.
    pub(super) fn of(
        config: &'a PodConfig,
        driver: &dyn Driver,
        state_dir: &'a Path,
    ) -> Result<Option<Self>, VmError> {
        let Some(all) = &config.templates else {
            return Ok(None);
        };
        if !driver.capabilities().snapshot {
            return Err(VmError::Unsupported {
                driver: driver.name(),
                what: "start a machine from a snapshot (vm.start = \"template\")",
            });
        }
        Ok(Some(Self {
            config,
            all,
            state_dir,
        }))
    }

    /// The template for such a machine, which is made if there is none: nothing of the pod may run yet that only the
    /// pod process knows of, as that takes its time.
    pub(super) async fn prepare(
        &self,
        driver: &dyn Driver,
        vm_config: &VmConfig,
    ) -> Result<Used, SandboxError> {
        let dir = self.all.join(self.key(&Shape::of(vm_config))?);
        match Used::find(&dir)? {
            Some(used) => Ok(used),
            None => self.make(driver, vm_config, &dir).await,
        }
    }

    /// What a template for such a machine is called: all that its guest depends on.
    fn key(&self, shape: &Shape) -> Result<String, SandboxError> {
        let vmm = self.config.vmm;
        let program = vmm.program().find()?;
        let guest = &self.config.guest;
        let mut digest = Sha256::new();
        let mut add = |part: &str| {
            digest.update(part.len().to_le_bytes());
            digest.update(part);
        };
        add(env!("CARGO_PKG_VERSION"));
        add(vmm.name());
        for file in [&program, &guest.kernel, &guest.initramfs] {
            add(&identity(file)?);
        }
        for argument in boot::KERNEL_ARGUMENTS {
            add(argument);
        }
        add(&serde_json::to_string(shape).expect("plain data encodes"));
        const BOOT: &str = "/proc/sys/kernel/random/boot_id";
        let boot = std::fs::read_to_string(BOOT);
        add(&boot.map_err(SandboxError::host(format!("read {BOOT}")))?);
        let digest = digest.finalize();
        Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// Makes the template `dir`, unless somebody else does so meanwhile.
    async fn make(
        &self,
        driver: &dyn Driver,
        like: &VmConfig,
        dir: &Path,
    ) -> Result<Used, SandboxError> {
        share::create_dir(self.all)?;
        let lock = self.all.join(LOCK);
        let locked = tokio::task::spawn_blocking(move || {
            let file = File::create(&lock);
            let locked = file.and_then(|file| file.lock().map(|()| file));
            locked.map_err(SandboxError::host(format!("lock {}", lock.display())))
        });
        let _lock = locked.await.expect("locking a file does not panic")?;
        if let Some(used) = Used::find(dir)? {
            return Ok(used);
        }
        let part = self.all.join("part");
        remove(&part);
        self.boot(driver, like, &part).await?;
        let moved = std::fs::rename(&part, dir);
        moved.map_err(SandboxError::host(format!("make {}", dir.display())))?;
        let used = Used::find(dir)?.ok_or(SandboxError::Invalid("a template was removed"))?;
        remove_oldest(self.all)?;
        Ok(used)
    }

    /// Boots a guest that is nobody's in a machine `like` the pod's, and takes its snapshot.
    async fn boot(
        &self,
        driver: &dyn Driver,
        like: &VmConfig,
        to: &Path,
    ) -> Result<(), SandboxError> {
        let state_dir = own_dir(self.state_dir);
        share::create_dir(&vm_dir(&state_dir).join("vsock"))?;
        let ready = ReadyListener::bind(&vsock(&state_dir))?;
        let interfaces = network::leading_nowhere(&like.devices).await?;
        let config = boot::vm_config(self.config, &state_dir, FileTransport::Vsock, interfaces);
        let vm = driver.launch(config).await?;
        json_file::write(state_dir.join(RECORD), &vm.record())?;
        let up = boot::in_time(vm.as_ref(), vm.wait(), async {
            ready.ready().await?;
            vm.booted()?;
            vm.pause().await?;
            Ok(vm.snapshot(to).await?)
        });
        let up = up.await;
        vm.kill().await;
        remove(&state_dir);
        up
    }
}

/// Where the machine of a template that is being made has its things.
fn own_dir(state_dir: &Path) -> PathBuf {
    // The paths of sockets are short.
    state_dir.join("t")
}

/// How its machine is found again there.
const RECORD: &str = "vm.json";

/// The machine of a template that a pod process made when it was killed.
pub(super) fn unfinished(state_dir: &Path) -> Option<VmRecord> {
    json_file::read(own_dir(state_dir).join(RECORD)).ok()
}

/// A template that nobody removes meanwhile.
#[derive(Debug)]
pub(super) struct Used {
    dir: PathBuf,
    snapshot: Snapshot,
    _lock: File,
}

impl Used {
    fn find(dir: &Path) -> Result<Option<Self>, SandboxError> {
        let lock = match File::open(dir) {
            Ok(lock) => lock,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(SandboxError::host(format!("open {}", dir.display()))(error)),
        };
        let used = lock
            .lock_shared()
            .and_then(|()| lock.set_modified(SystemTime::now()));
        used.map_err(SandboxError::host(format!("use {}", dir.display())))?;
        match Snapshot::open(dir) {
            Ok(snapshot) => Ok(Some(Self {
                dir: dir.to_owned(),
                snapshot,
                _lock: lock,
            })),
            // It was removed until the lock was ours.
            Err(_) if !dir.exists() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Starts a machine from it.
    pub(super) async fn start(
        self,
        driver: &dyn Driver,
        vm_config: VmConfig,
    ) -> Result<Box<dyn Vm>, VmError> {
        let started = driver.restore(vm_config, &self.snapshot).await;
        let is_broken = |error: &VmError| {
            use VmError::{Died, NotASnapshot, Refused};
            matches!(error, Refused { .. } | Died { .. } | NotASnapshot { .. })
        };
        if started.as_ref().is_err_and(is_broken) {
            // The next pod shall have a new one.
            remove(&self.dir);
        }
        started
    }
}

/// What tells a file from another one and from itself after a change.
fn identity(path: &Path) -> Result<String, SandboxError> {
    let found = std::fs::metadata(path);
    let found = found.map_err(SandboxError::host(format!("look at {}", path.display())))?;
    Ok(format!(
        "{}:{}:{}:{}.{}",
        found.dev(),
        found.ino(),
        found.size(),
        found.ctime(),
        found.ctime_nsec()
    ))
}

/// Removes those that were used longest ago, but none that is being used. Machines that run keep what they need of
/// theirs.
fn remove_oldest(all: &Path) -> Result<(), SandboxError> {
    let list = || -> io::Result<Vec<(SystemTime, PathBuf)>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(all)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                found.push((entry.metadata()?.modified()?, entry.path()));
            }
        }
        Ok(found)
    };
    let mut found = list().map_err(SandboxError::host(format!("list {}", all.display())))?;
    found.sort_unstable();
    let surplus = found.len().saturating_sub(KEPT);
    for (_, dir) in found.drain(..surplus) {
        let unused = File::open(&dir).is_ok_and(|dir| dir.try_lock().is_ok());
        if unused {
            remove(&dir);
        }
    }
    Ok(())
}

fn remove(dir: &Path) {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(%error, dir = %dir.display(), "cannot remove a directory");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_used_last_are_kept_and_those_in_use() {
        let all = tempfile::tempdir().unwrap();
        let dir = |number: usize| all.path().join(format!("{number}"));
        let age = |number: u64| SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(number);
        for number in 0..KEPT + 3 {
            std::fs::create_dir(dir(number)).unwrap();
            let opened = File::open(dir(number)).unwrap();
            opened.set_modified(age(number as u64)).unwrap();
        }
        std::fs::write(all.path().join(LOCK), "").unwrap();
        let in_use = File::open(dir(1)).unwrap();
        in_use.lock_shared().unwrap();
        remove_oldest(all.path()).unwrap();
        let left = |number: &usize| dir(*number).exists();
        let left: Vec<_> = (0..KEPT + 3).filter(left).collect();
        let expected: Vec<_> = [1].into_iter().chain(3..KEPT + 3).collect();
        assert_eq!(left, expected);
        assert!(all.path().join(LOCK).exists());
    }

    #[test]
    fn a_changed_file_is_another() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kernel");
        std::fs::write(&path, "one").unwrap();
        let before = identity(&path).unwrap();
        assert_eq!(identity(&path).unwrap(), before);
        std::fs::write(&path, "other").unwrap();
        assert_ne!(identity(&path).unwrap(), before);
        assert!(identity(&dir.path().join("none")).is_err());
    }
}
