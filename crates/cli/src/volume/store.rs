//! The directories that Hull keeps as volumes.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::files::{CopyError, RootView, copy_tree};

/// Why a volume or a bind mount is not to be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VolumeError {
    /// A file of the store cannot be used.
    #[error("cannot {what} {path}")]
    Files {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// A bind mount's source does not exist.
    #[error("cannot mount {0}: there is no such file or directory")]
    NoSource(PathBuf),
    /// The image's content cannot be copied.
    #[error("cannot fill the volume {name} with what the image has in {target}")]
    Fill {
        name: String,
        target: String,
        #[source]
        source: CopyError,
    },
    /// Two mounts at one place.
    #[error("two mounts at {0}")]
    Twice(String),
    /// A path that is not text cannot be written into a specification.
    #[error("the path {0:?} is not UTF-8")]
    NotText(PathBuf),
    /// There is no such volume.
    #[error("no such volume: {0}")]
    Unknown(String),
    /// A container needs the volume.
    #[error("the volume {volume} is in use by container {container}")]
    InUse { volume: String, container: String },
}

impl VolumeError {
    fn files(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Files { what, path, source }
    }
}

/// The volumes below one directory.
#[derive(Debug)]
pub(crate) struct VolumeStore {
    dir: PathBuf,
}

impl VolumeStore {
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Where a volume's files are.
    pub(crate) fn data(&self, name: &str) -> PathBuf {
        self.dir.join(name).join("data")
    }

    /// The volume's files. A new volume gets what the image has at `target` when `fill` is given.
    pub(crate) fn open(
        &self,
        name: &str,
        target: &str,
        fill: Option<&RootView>,
    ) -> Result<PathBuf, VolumeError> {
        let data = self.data(name);
        if data.exists() {
            return Ok(data);
        }
        // Filled under another name first: a volume that exists is complete.
        let draft = self
            .dir
            .join(name)
            .join(format!("draft-{}", std::process::id()));
        fs::create_dir_all(&draft).map_err(VolumeError::files("create", &draft))?;
        if let Some(image) = fill {
            let filled = image
                .open_dir(target)
                .map_err(CopyError::at("open", Path::new(target)))
                .and_then(|dir| match dir {
                    Some(dir) => copy_tree(&dir, &draft),
                    None => Ok(()),
                });
            filled.map_err(|source| VolumeError::Fill {
                name: name.to_owned(),
                target: target.to_owned(),
                source,
            })?;
        }
        match fs::rename(&draft, &data) {
            Ok(()) => Ok(data),
            // Another container was faster; its volume is as good.
            Err(_) if data.exists() => {
                fs::remove_dir_all(&draft).map_err(VolumeError::files("remove", &draft))?;
                Ok(data)
            }
            Err(error) => Err(VolumeError::files("create", &data)(error)),
        }
    }

    /// Names of all volumes, sorted.
    pub(crate) fn list(&self) -> Result<Vec<String>, VolumeError> {
        let failed = || VolumeError::files("list", &self.dir);
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(failed())? {
            let name = entry.map_err(failed())?.file_name();
            names.extend(
                name.into_string()
                    .ok()
                    .filter(|name| self.data(name).exists()),
            );
        }
        names.sort();
        Ok(names)
    }

    /// Removes a volume and what is in it.
    pub(crate) fn remove(&self, name: &str) -> Result<(), VolumeError> {
        let dir = self.dir.join(name);
        match fs::remove_dir_all(&dir) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(VolumeError::Unknown(name.to_owned()))
            }
            Err(error) => Err(VolumeError::files("remove", &dir)(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_keeps_its_files_until_it_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let store = VolumeStore::new(dir.path().to_owned());
        let data = store.open("a", "/data", None).unwrap();
        fs::write(data.join("file"), "x").unwrap();
        assert_eq!(store.open("a", "/data", None).unwrap(), data);
        assert_eq!(fs::read(data.join("file")).unwrap(), b"x");
        assert_eq!(store.list().unwrap(), ["a"]);
        store.remove("a").unwrap();
        assert!(store.list().unwrap().is_empty());
        assert!(matches!(store.remove("a"), Err(VolumeError::Unknown(_))));
    }
}
