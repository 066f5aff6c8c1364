//! Finds, lists, makes and removes containers.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use hull_sandbox::ExitRecord;
use serde::de::DeserializeOwned;

use super::directory::ContainerDir;
use super::exit_file;
use super::lock::ContainerLock;
use super::names;
use super::record::{Phase, Record, Settings, State};
use crate::id;
use crate::locations::Locations;
use crate::timestamp::Timestamp;

/// Why a container cannot be found, made or changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// A file of the store cannot be used.
    #[error("cannot {what} {path}")]
    Files {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// A lock cannot be used.
    #[error("cannot lock {0}")]
    Lock(PathBuf, #[source] io::Error),
    /// A file of ours does not hold what it should.
    #[error("{0} is malformed")]
    Malformed(PathBuf, #[source] serde_json::Error),
    /// Nothing has this name or id.
    #[error("no such container: {0}")]
    NotFound(String),
    /// The beginning of more than one id.
    #[error("{0:?} is the beginning of more than one container's id")]
    Ambiguous(String),
    /// The name is in use.
    #[error("the name {name:?} is in use by container {id}")]
    NameTaken { name: String, id: String },
    /// Another process changes it.
    #[error("container {0} is being changed by another process")]
    Busy(String),
}

impl StoreError {
    pub(crate) fn files(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Files { what, path, source }
    }
}

/// A container and what is known of it.
#[derive(Debug, Clone)]
pub(crate) struct Container {
    pub(crate) dir: ContainerDir,
    pub(crate) record: Record,
    pub(crate) exit: Option<ExitRecord>,
}

impl Container {
    /// Reads what is there now.
    pub(crate) fn read(dir: ContainerDir) -> Result<Option<Self>, StoreError> {
        // The record first: an exit record that comes in between belongs to it.
        let Some(record) = read_json(&dir.record())? else {
            return Ok(None);
        };
        let exit = read_json(&dir.exit())?;
        Ok(Some(Self { dir, record, exit }))
    }

    pub(crate) fn state(&self) -> State {
        State::of(self.record.phase, self.exit.clone())
    }

    /// What it was made with.
    pub(crate) fn settings(&self) -> Result<&Settings, StoreError> {
        self.record
            .settings
            .as_ref()
            .ok_or_else(|| StoreError::Busy(self.record.name.clone()))
    }

    /// Takes the lock; somebody else's work on the container is an error.
    pub(crate) fn lock(&self) -> Result<ContainerLock, StoreError> {
        ContainerLock::try_take(&self.dir.lock())?
            .ok_or_else(|| StoreError::Busy(self.record.name.clone()))
    }

    /// Writes the record.
    pub(crate) fn write(&self) -> Result<(), StoreError> {
        write_json(&self.dir.record(), &self.record)
    }

    /// Removes everything. The lock's file goes last with its directory, so whoever removes holds it.
    pub(crate) fn remove(&self) -> Result<(), StoreError> {
        remove_dir(&self.dir.state)?;
        remove_dir(&self.dir.data)
    }
}

/// A container that is being made. Dropped before it is finished, nothing is left of it.
#[derive(Debug)]
pub(crate) struct Draft {
    pub(crate) container: Container,
    lock: Option<ContainerLock>,
}

impl Draft {
    /// Makes it a container.
    pub(crate) fn finish(
        mut self,
        settings: Settings,
    ) -> Result<(Container, ContainerLock), StoreError> {
        self.container.record.settings = Some(settings);
        self.container.record.phase = Phase::Created;
        self.container.write()?;
        let lock = self.lock.take().expect("only finish takes the lock");
        Ok((self.container.clone(), lock))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if self.lock.is_some() {
            // Whatever stays is swept by the next command, because nobody holds the lock then.
            let _ = self.container.remove();
        }
    }
}

/// All containers of one data directory.
#[derive(Debug, Clone)]
pub(crate) struct ContainerStore {
    locations: Locations,
}

impl ContainerStore {
    pub(crate) fn new(locations: &Locations) -> Self {
        Self {
            locations: locations.clone(),
        }
    }

    /// Begins a container. The name is taken from now on.
    pub(crate) fn begin(&self, name: Option<&str>) -> Result<Draft, StoreError> {
        let _names = self.lock_names()?;
        let all = self.list()?;
        let holder = |name: &str| all.iter().find(|other| other.record.name == name);
        let name = match name {
            None => names::free_name(|name| holder(name).is_some()),
            Some(name) => match holder(name) {
                None => name.to_owned(),
                Some(other) => {
                    return Err(StoreError::NameTaken {
                        name: name.to_owned(),
                        id: id::short(&other.record.id).to_owned(),
                    });
                }
            },
        };
        let id = id::random();
        let dir = ContainerDir::new(&self.locations, &id);
        create_dir(&dir.data)?;
        let lock = ContainerLock::try_take(&dir.lock())?.expect("nobody else knows the new id");
        let container = Container {
            record: Record {
                id,
                name,
                created: Timestamp::now(),
                phase: Phase::Creating,
                settings: None,
            },
            dir,
            exit: None,
        };
        let draft = Draft {
            container,
            lock: Some(lock),
        };
        draft.container.write()?;
        Ok(draft)
    }

    /// Names are given, and directories get their first files, by one process at a time.
    pub(super) fn lock_names(&self) -> Result<ContainerLock, StoreError> {
        ContainerLock::wait(&self.locations.data.join("containers.lock"))
    }

    /// All containers, the newest first.
    pub(crate) fn list(&self) -> Result<Vec<Container>, StoreError> {
        let mut all = Vec::new();
        for id in self.ids()? {
            // One that has just been removed or was never finished is none.
            all.extend(Container::read(ContainerDir::new(&self.locations, &id))?);
        }
        all.sort_by_key(|container| std::cmp::Reverse(container.record.created));
        Ok(all)
    }

    /// The ids of all directories.
    pub(crate) fn ids(&self) -> Result<Vec<String>, StoreError> {
        subdirectories(&self.locations.containers())
    }

    /// The ids of all state directories.
    pub(super) fn state_ids(&self) -> Result<Vec<String>, StoreError> {
        subdirectories(&self.locations.state)
    }

    /// Exit records for processes that are gone.
    pub(super) fn orphaned_exit_files(&self) -> Result<Vec<PathBuf>, StoreError> {
        let names = entries(&self.locations.state)?;
        let orphans = names.iter().filter(|name| exit_file::is_orphan(name));
        Ok(orphans
            .map(|name| self.locations.state.join(name))
            .collect())
    }

    pub(super) fn dir(&self, id: &str) -> ContainerDir {
        ContainerDir::new(&self.locations, id)
    }

    /// Finds a container by name, id or the beginning of its id.
    pub(crate) fn find(&self, reference: &str) -> Result<Container, StoreError> {
        let all = self.list()?;
        let exact = |c: &&Container| c.record.name == reference || c.record.id == reference;
        if let Some(found) = all.iter().find(exact) {
            return Ok(found.clone());
        }
        let mut starting = all
            .into_iter()
            .filter(|c| !reference.is_empty() && c.record.id.starts_with(reference));
        match (starting.next(), starting.next()) {
            (None, _) => Err(StoreError::NotFound(reference.to_owned())),
            (Some(found), None) => Ok(found),
            (Some(_), Some(_)) => Err(StoreError::Ambiguous(reference.to_owned())),
        }
    }
}

/// Names in a directory.
pub(crate) fn entries(dir: &Path) -> Result<Vec<String>, StoreError> {
    let failed = || StoreError::files("list", dir);
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed())? {
        // Names that are not UTF-8 are none of ours.
        names.extend(entry.map_err(failed())?.file_name().into_string());
    }
    Ok(names)
}

fn subdirectories(dir: &Path) -> Result<Vec<String>, StoreError> {
    let mut names = entries(dir)?;
    names.retain(|name| dir.join(name).is_dir());
    Ok(names)
}

/// Makes a directory that only its owner may enter.
pub(crate) fn create_dir(path: &Path) -> Result<(), StoreError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(StoreError::files("create", path))
}

pub(super) fn remove_dir(path: &Path) -> Result<(), StoreError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(StoreError::files("remove", path)(error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Reads a file; nothing when it does not exist.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, StoreError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StoreError::files("read", path)(error)),
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|source| StoreError::Malformed(path.to_owned(), source))
}

/// Writes a file as a whole or not at all.
pub(crate) fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<(), StoreError> {
    let bytes = serde_json::to_vec_pretty(value).expect("plain data encodes");
    let new = path.with_extension("new");
    fs::write(&new, bytes)
        .and_then(|()| fs::rename(&new, path))
        .map_err(StoreError::files("write", path))
}
