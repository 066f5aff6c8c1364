//! What is known of containers: `ROOT/ID/container.json`, from `create` to `delete`.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use hull_sandbox::{SandboxError, json_file};
use hull_vm::process::ProcessRecord;
use nix::fcntl::{Flock, FlockArg};
use oci_spec::runtime::Process;
use serde::{Deserialize, Serialize};

use crate::error::RuntimeError;

/// A container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Its id.
    pub(crate) id: String,
    /// The state directory of its pod.
    pub(crate) pod: PathBuf,
    /// What stands for it on the host.
    pub(crate) monitor: ProcessRecord,
    /// Directory with config.json.
    pub(crate) bundle: PathBuf,
    /// Its root's directory.
    pub(crate) rootfs: PathBuf,
    /// When it was made, RFC 3339.
    pub(crate) created: String,
    /// Version of its specification.
    pub(crate) oci_version: String,
    /// What the specification notes.
    pub(crate) annotations: HashMap<String, String>,
    /// Its program, for those that are added.
    pub(crate) process: Option<Process>,
    /// Its control group on the host, as the engine names it, where that is not its pod's.
    pub(crate) cgroup: Option<String>,
    /// Processes that stand for further programs.
    pub(crate) execs: Vec<ProcessRecord>,
    /// It is being deleted, and does not count as one of its pod.
    pub(crate) deleting: bool,
}

/// The directory of all of them.
#[derive(Debug)]
pub(crate) struct Store {
    root: PathBuf,
}

const FILE: &str = "container.json";
const NOTIFY_DIR: &str = "notify";
/// No container has this name.
const LOCK: &str = ".lock";

/// Held while it is decided which pod a container is in, and whether a pod has others.
#[derive(Debug)]
pub(crate) struct Lock(#[expect(dead_code, reason = "held for its end")] Flock<File>);

impl Store {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The directory of a container.
    fn dir(&self, id: &str) -> PathBuf {
        self.root.join(id)
    }

    /// Waits for the others.
    pub(crate) fn lock(&self) -> Result<Lock, RuntimeError> {
        make_dir(&self.root, true).map_err(RuntimeError::host(format!(
            "create {}",
            self.root.display()
        )))?;
        let path = self.root.join(LOCK);
        let cannot = || RuntimeError::host(format!("lock {}", path.display()));
        let file = File::options()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(cannot())?;
        Flock::lock(file, FlockArg::LockExclusive)
            .map(Lock)
            .map_err(|(_, error)| cannot()(error.into()))
    }

    /// Makes a container known.
    pub(crate) fn add(&self, _: &Lock, record: &Record) -> Result<(), RuntimeError> {
        let dir = self.dir(&record.id);
        make_dir(&dir, false).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => RuntimeError::Exists(record.id.clone()),
            _ => RuntimeError::host(format!("create {}", dir.display()))(error),
        })?;
        let written = self.write(record);
        if written.is_err() {
            // What was just made; that the disk is full is what counts.
            let _ = fs::remove_dir_all(dir);
        }
        written
    }

    /// Notes a further program of a container down, and forgets those that have ended.
    pub(crate) fn add_exec(&self, id: &str, exec: ProcessRecord) -> Result<(), RuntimeError> {
        let _lock = self.lock()?;
        let mut record = self.find(id)?;
        record.execs.retain(ProcessRecord::is_alive);
        record.execs.push(exec);
        self.write(&record)
    }

    /// Notes down that a container is being deleted. Answers whether its pod has no other container.
    pub(crate) fn begin_deletion(&self, record: &Record) -> Result<bool, RuntimeError> {
        let _lock = self.lock()?;
        self.write(&Record {
            deleting: true,
            ..record.clone()
        })?;
        let all = self.all()?;
        Ok(!all
            .iter()
            .any(|other| other.pod == record.pod && !other.deleting))
    }

    fn write(&self, record: &Record) -> Result<(), RuntimeError> {
        let path = self.dir(&record.id).join(FILE);
        let new = path.with_extension("new");
        let bytes = serde_json::to_vec(record).expect("plain data encodes");
        fs::write(&new, bytes)
            .and_then(|()| fs::rename(&new, &path))
            .map_err(RuntimeError::host(format!("write {}", path.display())))
    }

    /// A container.
    ///
    /// # Errors
    /// [`RuntimeError::NotFound`] when there is none.
    pub(crate) fn find(&self, id: &str) -> Result<Record, RuntimeError> {
        check_id(id)?;
        let path = self.dir(id).join(FILE);
        json_file::read(path).map_err(|error| match error {
            SandboxError::Host { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                RuntimeError::NotFound(id.to_owned())
            }
            error => error.into(),
        })
    }

    /// All containers, by their ids.
    pub(crate) fn all(&self) -> Result<Vec<Record>, RuntimeError> {
        let cannot = || RuntimeError::host(format!("read {}", self.root.display()));
        let entries = match fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(cannot()(error)),
        };
        let mut records = Vec::new();
        for entry in entries {
            let name = entry.map_err(cannot())?.file_name();
            match name.to_str().map(|id| self.find(id)) {
                Some(Ok(record)) => records.push(record),
                // The lock, somebody else's file, or one that is being made or deleted.
                None | Some(Err(RuntimeError::NotFound(_) | RuntimeError::Invalid(_))) => {}
                Some(Err(RuntimeError::Sandbox(SandboxError::Host { source, .. })))
                    if source.kind() == io::ErrorKind::NotADirectory => {}
                Some(Err(error)) => return Err(error),
            }
        }
        records.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(records)
    }

    /// Makes a directory for the socket of a container that is known.
    pub(crate) fn make_notify_dir(&self, id: &str) -> Result<PathBuf, RuntimeError> {
        let dir = self.dir(id).join(NOTIFY_DIR);
        make_dir(&dir, false).map_err(RuntimeError::host(format!("create {}", dir.display())))?;
        Ok(dir)
    }

    /// That directory, if it was made.
    pub(crate) fn notify_dir(&self, id: &str) -> Option<PathBuf> {
        let dir = self.dir(id).join(NOTIFY_DIR);
        dir.is_dir().then_some(dir)
    }

    /// Forgets a container.
    pub(crate) fn remove(&self, id: &str) -> Result<(), RuntimeError> {
        let _lock = self.lock()?;
        let dir = self.dir(id);
        match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(RuntimeError::host(
                format!("remove {}", dir.display()),
            )(error)),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

fn make_dir(dir: &Path, recursive: bool) -> io::Result<()> {
    DirBuilder::new()
        .recursive(recursive)
        .mode(0o700)
        .create(dir)
}

/// Ids become names of directories. The specification leaves open which there are; these are runc's, as far as they
/// begin with a letter or digit.
pub(crate) fn check_id(id: &str) -> Result<(), RuntimeError> {
    let valid = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    let begins = id.starts_with(|c: char| c.is_ascii_alphanumeric());
    match begins && id.chars().all(valid) {
        true => Ok(()),
        false => Err(RuntimeError::Invalid(format!(
            "invalid container ID format: {id:?}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: &str, pod: &str) -> Record {
        Record {
            id: id.to_owned(),
            pod: pod.into(),
            monitor: ProcessRecord::of(i32::try_from(std::process::id()).unwrap()).unwrap(),
            bundle: "/b".into(),
            rootfs: "/b/rootfs".into(),
            created: String::new(),
            oci_version: "1.0.2".to_owned(),
            annotations: HashMap::new(),
            process: None,
            cgroup: None,
            execs: Vec::new(),
            deleting: false,
        }
    }

    #[test]
    fn containers_are_found_until_they_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path().join("root"));
        assert!(store.all().unwrap().is_empty());
        let lock = store.lock().unwrap();
        store.add(&lock, &record("a", "/p")).unwrap();
        store.add(&lock, &record("b", "/p")).unwrap();
        assert!(matches!(
            store.add(&lock, &record("a", "/q")),
            Err(RuntimeError::Exists(id)) if id == "a"
        ));
        assert_eq!(store.find("a").unwrap().pod, Path::new("/p"));
        drop(lock);
        let (a, b) = (store.find("a").unwrap(), store.find("b").unwrap());
        assert!(!store.begin_deletion(&b).unwrap());
        // Of two that are deleted at the same time the second is the pod's last.
        assert!(store.begin_deletion(&a).unwrap());
        store.remove("b").unwrap();
        assert!(matches!(store.find("b"), Err(RuntimeError::NotFound(_))));
        let ids: Vec<_> = store.all().unwrap().into_iter().map(|r| r.id).collect();
        assert_eq!(ids, ["a"]);
    }

    #[test]
    fn ids_cannot_leave_the_directory() {
        for id in ["a", "web-1", "0.x_y"] {
            assert!(check_id(id).is_ok(), "{id}");
        }
        for id in ["", ".", "..", ".lock", "a/b", "a b", "\u{e9}"] {
            assert!(check_id(id).is_err(), "{id}");
        }
    }
}
