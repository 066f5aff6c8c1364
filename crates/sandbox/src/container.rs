//! A container: its files below the share, its init and the processes that were added to it.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use hull_vm::process::ProcessRecord;
use serde::{Deserialize, Serialize};

use crate::anchor::Anchor;
use crate::config::Roots;
use crate::error::SandboxError;
use crate::guest_root::GuestRoot;
use crate::hooks::HostHooks;
use crate::limits::Limits;
use crate::mount::{self, MountSpec};
use crate::process::{Process, TaskRecord};
use crate::share::create_dir;
use crate::spec::{self, Disk, GuestSpec, HostBind, NotifySocket};
use crate::stdio::StdioConfig;

/// What a front end asks for.
#[derive(Debug, Clone)]
pub struct CreateContainer {
    /// The container's id: letters, digits, `_`, `.`, `-`.
    pub id: String,
    /// Directory with `config.json`.
    pub bundle: PathBuf,
    /// How the root is made; when empty, it is the bundle's `root.path` as it is.
    pub rootfs: Vec<MountSpec>,
    /// Where init's streams lead.
    pub stdio: StdioConfig,
    /// Where the engine leaves these to the pod, a directory with `hostname`, `hosts` and `resolv.conf`: a
    /// container that brings none gets them, and shares `/dev/shm` with its pod.
    pub pod_files: Option<PathBuf>,
    /// The process that stands for the container with its engine, where a front end has left one. It ends when
    /// the container has ended, and when it ends before, the container is killed.
    pub monitor: Option<ProcessRecord>,
    /// A directory in which a front end takes what the container's program says to a service manager: at the socket
    /// [`NOTIFY_SOCKET`](crate::spec::NOTIFY_SOCKET), as soon as there is one.
    pub notify_dir: Option<PathBuf>,
}

/// A container as far as it can be made without its guest: while that boots, that is.
#[derive(Debug)]
pub struct PreparedContainer {
    pub(crate) request: CreateContainer,
    /// The root's directory, where the request does not say how it is made.
    pub(crate) root: PathBuf,
    /// The root, where it is the guest that mounts it.
    pub(crate) guest_root: Option<GuestRoot>,
    pub(crate) guest_spec: GuestSpec,
}

impl CreateContainer {
    /// Reads the bundle and puts it into guest terms, and its root, where `roots` says that the guest mounts it. `state_dir`
    /// is the pod's.
    ///
    /// # Errors
    /// When the id or the bundle is malformed, or asks for what a guest cannot give, and when it cannot mount the root.
    pub async fn prepare(
        self,
        roots: Roots,
        state_dir: &Path,
    ) -> Result<PreparedContainer, SandboxError> {
        check_id(&self.id)?;
        let scratch = state_dir.join(format!("root-{}", self.id));
        // Compiling a seccomp profile takes long enough to keep others waiting.
        let prepared = tokio::task::spawn_blocking(move || {
            let spec = spec::read_bundle(&self.bundle)?;
            let mut prepared = PreparedContainer {
                root: spec::bundle_rootfs(&self.bundle, &spec),
                guest_root: None,
                guest_spec: GuestSpec::new(
                    spec,
                    &self.id,
                    &self.bundle,
                    self.pod_files.as_deref(),
                    self.notify_dir.as_deref(),
                )?,
                request: self,
            };
            let request = &prepared.request;
            prepared.guest_root = GuestRoot::choose(&roots, &request.rootfs, &scratch)?;
            if let Some(root) = &prepared.guest_root {
                prepared.guest_spec.take_root(&request.id, root);
            }
            // The pod process is small, and the compiler's memory would stay with it: 1 MiB.
            // SAFETY: pages of free memory are given back to the kernel; nothing in use is touched.
            unsafe { libc::malloc_trim(0) };
            Ok(prepared)
        });
        prepared
            .await
            .map_err(|failed| SandboxError::host("prepare the container")(failed.into()))?
    }
}

/// Ids become names of directories and cgroups.
pub(crate) fn check_id(id: &str) -> Result<(), SandboxError> {
    let valid = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    let first = id.chars().next().is_some_and(|c| c.is_ascii_alphanumeric());
    if !first || id.len() > 128 || !id.chars().all(valid) {
        return Err(SandboxError::Invalid(
            "an id has 1 to 128 letters, digits, `_`, `.` or `-`, the first a letter or digit",
        ));
    }
    Ok(())
}

/// A container of the pod.
#[derive(Debug)]
pub struct Container {
    id: String,
    bundle: PathBuf,
    init: Arc<Process>,
    execs: Mutex<HashMap<String, Arc<Process>>>,
    files: Files,
    disks: Vec<Disk>,
    limits: Mutex<Limits>,
    hooks: HostHooks,
    notify_socket: Option<NotifySocket>,
}

/// What a container leaves in the state file.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ContainerRecord {
    id: String,
    bundle: PathBuf,
    init: TaskRecord,
    execs: Vec<TaskRecord>,
    resolv_conf: Option<String>,
    disks: Vec<Disk>,
    limits: Limits,
    hooks: HostHooks,
    notify_socket: Option<NotifySocket>,
}

/// In the bundle; [conmon's](https://github.com/containers/conmon) name for it, which Podman and CRI-O look for.
const OOM_FILE: &str = "oom";

impl ContainerRecord {
    /// What stands for the container on the host, if a front end has left that.
    pub(crate) fn monitor(&self) -> Option<ProcessRecord> {
        self.init.monitor
    }
}

impl Container {
    pub(crate) fn new(
        request: &CreateContainer,
        init: Process,
        files: Files,
        disks: Vec<Disk>,
        limits: Limits,
        hooks: HostHooks,
        notify_socket: Option<NotifySocket>,
    ) -> Self {
        Self {
            id: request.id.clone(),
            bundle: request.bundle.clone(),
            init: Arc::new(init),
            execs: Mutex::default(),
            files,
            disks,
            limits: Mutex::new(limits),
            hooks,
            notify_socket,
        }
    }

    /// One that another pod process has made; `anchor` is what stands for it from now on.
    pub(crate) fn from_record(record: ContainerRecord, share: &Path, anchor: &Arc<Anchor>) -> Self {
        let init_monitor = record.monitor();
        let process = |task, anchor| Arc::new(Process::from_record(&record.id, task, anchor));
        let exec = |task: TaskRecord| {
            let own = task.monitor.filter(|_| task.monitor != init_monitor);
            let own = own.map(|monitor| Arc::new(Anchor::taken_over(monitor)));
            process(task, own.unwrap_or_else(|| Arc::clone(anchor)))
        };
        let execs = record.execs.into_iter().map(exec);
        Self {
            execs: Mutex::new(
                execs
                    .map(|exec| (exec.exec_id().to_owned(), exec))
                    .collect(),
            ),
            init: process(record.init, Arc::clone(anchor)),
            files: Files {
                resolv_conf: record.resolv_conf,
                ..Files::of(share, &record.id)
            },
            disks: record.disks,
            limits: Mutex::new(record.limits),
            hooks: record.hooks,
            notify_socket: record.notify_socket,
            bundle: record.bundle,
            id: record.id,
        }
    }

    pub(crate) fn record(&self) -> ContainerRecord {
        ContainerRecord {
            id: self.id.clone(),
            bundle: self.bundle.clone(),
            init: self.init.record(),
            execs: self.execs().iter().map(|exec| exec.record()).collect(),
            resolv_conf: self.files.resolv_conf.clone(),
            disks: self.disks.clone(),
            limits: self.limits(),
            hooks: self.hooks.clone(),
            notify_socket: self.notify_socket.clone(),
        }
    }

    /// The container's id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Directory with `config.json`.
    #[must_use]
    pub fn bundle(&self) -> &Path {
        &self.bundle
    }

    /// Tells an engine that looks after a monitor, as conmon does, that the kernel ended the container for want of
    /// memory. conmon would see it in the container's control group, which is in the guest.
    pub(crate) fn tell_of_oom(&self) {
        if self.init.anchor().record().is_none() {
            return;
        }
        let file = self.bundle.join(OOM_FILE);
        if let Err(error) = File::create(&file) {
            tracing::warn!(container = self.id, file = %file.display(), %error, "cannot tell of a want of memory");
        }
    }

    /// The container's first process.
    #[must_use]
    pub fn init(&self) -> &Arc<Process> {
        &self.init
    }

    /// The processes that were added.
    #[must_use]
    pub fn execs(&self) -> Vec<Arc<Process>> {
        let execs = self.execs.lock().expect("no holder of this lock panics");
        execs.values().cloned().collect()
    }

    /// Init for the empty id, else a process that was added.
    ///
    /// # Errors
    /// When there is none of that id.
    pub fn process(&self, exec_id: &str) -> Result<Arc<Process>, SandboxError> {
        if exec_id.is_empty() {
            return Ok(Arc::clone(&self.init));
        }
        let execs = self.execs.lock().expect("no holder of this lock panics");
        execs
            .get(exec_id)
            .cloned()
            .ok_or_else(|| SandboxError::NotFound {
                kind: "process",
                id: exec_id.to_owned(),
            })
    }

    pub(crate) fn add_exec(&self, exec: Process) -> Result<(), SandboxError> {
        let mut execs = self.execs.lock().expect("no holder of this lock panics");
        let id = exec.exec_id().to_owned();
        if execs.contains_key(&id) {
            return Err(SandboxError::AlreadyExists {
                kind: "process",
                id,
            });
        }
        execs.insert(id, Arc::new(exec));
        Ok(())
    }

    pub(crate) fn remove_exec(&self, exec_id: &str) {
        let mut execs = self.execs.lock().expect("no holder of this lock panics");
        execs.remove(exec_id);
    }

    pub(crate) fn notify_socket(&self) -> Option<&NotifySocket> {
        self.notify_socket.as_ref()
    }

    pub(crate) fn hooks(&self) -> &HostHooks {
        &self.hooks
    }

    pub(crate) fn files(&self) -> &Files {
        &self.files
    }

    pub(crate) fn limits(&self) -> Limits {
        *self.limits.lock().expect("no holder of this lock panics")
    }

    pub(crate) fn set_limits(&self, limits: Limits) {
        *self.limits.lock().expect("no holder of this lock panics") = limits;
    }

    pub(crate) fn disks(&self) -> &[Disk] {
        &self.disks
    }
}

/// A container's directory in the share, with everything that is mounted in it.
#[derive(Debug)]
pub(crate) struct Files {
    dir: PathBuf,
    /// What is mounted in it that the container has as its `/etc/resolv.conf`.
    resolv_conf: Option<String>,
}

impl Files {
    /// Of the container `id`; nothing is there yet, or all is there already.
    pub(crate) fn of(share: &Path, id: &str) -> Self {
        Self {
            dir: share.join(id),
            resolv_conf: None,
        }
    }

    /// Mounts the root and the bind mounts. When it fails, nothing is left.
    pub(crate) fn mount(share: &Path, container: &PreparedContainer) -> Result<Self, SandboxError> {
        let files = Self {
            resolv_conf: container.guest_spec.bind_at(Path::new("/etc/resolv.conf")),
            ..Self::of(share, &container.request.id)
        };
        let prepared = match &container.guest_root {
            Some(root) => root.show(&files.dir),
            None => files.mount_root(&container.request, &container.root),
        }
        .and_then(|()| files.mount_binds(&container.guest_spec.binds));
        if let Err(error) = prepared {
            if let Err(clean_up) = files.remove() {
                tracing::error!(error = %clean_up, "cannot clean up after a failed create");
            }
            return Err(error);
        }
        Ok(files)
    }

    fn mount_root(&self, request: &CreateContainer, root: &Path) -> Result<(), SandboxError> {
        let target = self.dir.join(spec::ROOTFS);
        create_dir(&target)?;
        match request.rootfs.as_slice() {
            [] => MountSpec::bind(&root.to_string_lossy(), false).mount(&target),
            mounts => mounts.iter().try_for_each(|mount| mount.mount(&target)),
        }
    }

    fn mount_binds(&self, binds: &[HostBind]) -> Result<(), SandboxError> {
        for bind in binds {
            let target = self.dir.join(&bind.name);
            let source = &bind.mount.source;
            let kind = mount::origin::there(|| std::fs::metadata(source))
                .map_err(SandboxError::host(format!("find the volume {source}")))?
                .file_type();
            if kind.is_dir() {
                create_dir(&target)?;
            } else if kind.is_file() {
                std::fs::write(&target, b"")
                    .map_err(SandboxError::host(format!("create {}", target.display())))?;
            } else {
                return Err(SandboxError::Unsupported(
                    "volumes but files and directories (no sockets, FIFOs or devices)",
                ));
            }
            bind.mount.mount(&target)?;
        }
        Ok(())
    }

    /// What the container finds in its `/etc/resolv.conf`, if that is a file of its engine's. The container may write to
    /// it, and not more than this is read of it.
    pub(crate) fn resolv_conf(&self) -> Option<String> {
        const MOST: u64 = 64 << 10;
        let file = std::fs::File::open(self.dir.join(self.resolv_conf.as_ref()?)).ok()?;
        let mut text = Vec::new();
        file.take(MOST).read_to_end(&mut text).ok()?;
        Some(String::from_utf8_lossy(&text).into_owned())
    }

    /// Unmounts everything and removes the directory.
    pub(crate) fn remove(&self) -> Result<(), SandboxError> {
        let entries = match std::fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => {
                let what = format!("read {}", self.dir.display());
                return Err(SandboxError::host(what)(error));
            }
        };
        for entry in entries {
            let path = entry
                .map_err(SandboxError::host(format!("read {}", self.dir.display())))?
                .path();
            // More than one mount may lie on top of each other; the last is not one.
            while is_mount_point(&path)? {
                mount::unmount(&path)?;
            }
            // Never recursive: what is still mounted here is somebody's data.
            let removed = match path.is_dir() {
                true => std::fs::remove_dir(&path),
                false => std::fs::remove_file(&path),
            };
            removed.map_err(SandboxError::host(format!("remove {}", path.display())))?;
        }
        std::fs::remove_dir(&self.dir)
            .map_err(SandboxError::host(format!("remove {}", self.dir.display())))
    }
}

/// Whether something is mounted right on `path` (statx(2), `STATX_ATTR_MOUNT_ROOT`).
fn is_mount_point(path: &Path) -> Result<bool, SandboxError> {
    use std::os::unix::ffi::OsStrExt;
    let cannot = || SandboxError::host(format!("look at {}", path.display()));
    let name = std::ffi::CString::new(path.as_os_str().as_bytes())
        .map_err(|error| cannot()(error.into()))?;
    // SAFETY: a statx buffer of zeros is valid.
    let mut answer: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: the name is a C string and the buffer ours; both outlive the call.
    let result = unsafe {
        libc::statx(
            libc::AT_FDCWD,
            name.as_ptr(),
            libc::AT_SYMLINK_NOFOLLOW | libc::AT_NO_AUTOMOUNT,
            0,
            &raw mut answer,
        )
    };
    if result < 0 {
        return Err(cannot()(std::io::Error::last_os_error()));
    }
    let mount_root = u64::try_from(libc::STATX_ATTR_MOUNT_ROOT).expect("a flag is positive");
    Ok(answer.stx_attributes & mount_root != 0)
}

#[cfg(test)]
mod tests {
    use super::check_id;

    #[test]
    fn ids_cannot_leave_their_directory() {
        for id in ["a", "web-1", "0.x_y"] {
            assert!(check_id(id).is_ok(), "{id}");
        }
        for id in [
            "",
            ".",
            "..",
            "../x",
            "a/b",
            "-a",
            "a b",
            "\u{e9}",
            &"a".repeat(129),
        ] {
            assert!(check_id(id).is_err(), "{id}");
        }
    }
}
