//! Where Hull keeps its data and its state.

use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Where everything is. Data outlives a reboot, state does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Locations {
    /// Images, containers and volumes.
    pub(crate) data: PathBuf,
    /// Sockets and FIFOs of running containers.
    pub(crate) state: PathBuf,
}

/// What the locations depend on.
#[derive(Debug, Default)]
pub(crate) struct Surroundings {
    /// The user id of whoever runs this program, in the host's terms.
    pub(crate) uid: u32,
    /// `--root` or `HULL_ROOT`.
    pub(crate) root: Option<PathBuf>,
    /// `XDG_DATA_HOME`.
    pub(crate) data_home: Option<OsString>,
    /// `XDG_RUNTIME_DIR`.
    pub(crate) runtime_dir: Option<OsString>,
    /// `HOME`.
    pub(crate) home: Option<OsString>,
}

/// Why there is no place for data or state.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LocationError {
    /// An ordinary user without a home.
    #[error(
        "cannot tell where to keep data: neither HOME nor XDG_DATA_HOME is set to an absolute path"
    )]
    NoHome,
    /// A directory cannot be made.
    #[error("cannot create {0}")]
    Create(PathBuf, #[source] io::Error),
    /// A path cannot be made absolute.
    #[error("cannot tell where {0} is")]
    Absolute(PathBuf, #[source] io::Error),
    /// A path that cannot be told to the pod process, whose requests are text.
    #[error("cannot keep anything in {0:?}: the path is not UTF-8")]
    NotText(PathBuf),
    /// Somebody else's directory stands where the state would be.
    #[error("{0} belongs to another user")]
    NotOwned(PathBuf),
}

/// Longest state directory: a socket's address holds 108 bytes, the longest name in a container's
/// state directory needs 32 and the container's id 33.
const MAX_STATE_BYTES: usize = 108 - 32 - 33;

impl Surroundings {
    /// This process's surroundings.
    pub(crate) fn of_process(uid: u32, root: Option<PathBuf>) -> Self {
        Self {
            uid,
            root,
            data_home: std::env::var_os("XDG_DATA_HOME"),
            runtime_dir: std::env::var_os("XDG_RUNTIME_DIR"),
            home: std::env::var_os("HOME"),
        }
    }
}

impl Locations {
    /// Decides where everything is; makes nothing.
    pub(crate) fn find(of: &Surroundings) -> Result<Self, LocationError> {
        let found = Self::choose(of)?;
        for path in [&found.data, &found.state] {
            if path.to_str().is_none() {
                return Err(LocationError::NotText(path.clone()));
            }
        }
        Ok(found)
    }

    fn choose(of: &Surroundings) -> Result<Self, LocationError> {
        let absolute = |path: &Option<OsString>| {
            path.as_ref()
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
        };
        let own_tmp = || PathBuf::from(format!("/tmp/hull-{}", of.uid));
        if let Some(root) = &of.root {
            let data = std::path::absolute(root)
                .map_err(|source| LocationError::Absolute(root.clone(), source))?;
            let inside = data.join("run");
            let state = if inside.as_os_str().len() <= MAX_STATE_BYTES {
                inside
            } else {
                own_tmp().join(format!("{:016x}", fnv1a(&data)))
            };
            return Ok(Self { data, state });
        }
        if of.uid == 0 {
            return Ok(Self {
                data: "/var/lib/hull".into(),
                state: "/run/hull".into(),
            });
        }
        let data = absolute(&of.data_home)
            .or_else(|| absolute(&of.home).map(|home| home.join(".local/share")))
            .ok_or(LocationError::NoHome)?
            .join("hull");
        let state = absolute(&of.runtime_dir)
            .map(|dir| dir.join("hull"))
            .filter(|dir| dir.as_os_str().len() <= MAX_STATE_BYTES)
            .unwrap_or_else(own_tmp);
        Ok(Self { data, state })
    }

    /// Makes the directories. `owner` is this process's user id.
    pub(crate) fn create(&self, owner: u32) -> Result<(), LocationError> {
        for dir in [&self.data, &self.state, &self.containers(), &self.volumes()] {
            create_private(dir, owner)?;
        }
        Ok(())
    }

    /// A directory for each container.
    pub(crate) fn containers(&self) -> PathBuf {
        self.data.join("containers")
    }

    /// Images of containers' roots.
    pub(crate) fn root_images(&self) -> PathBuf {
        self.data.join("root-images")
    }

    /// Snapshots of guests that have booted.
    pub(crate) fn templates(&self) -> PathBuf {
        self.data.join("templates")
    }

    /// A directory for each volume.
    pub(crate) fn volumes(&self) -> PathBuf {
        self.data.join("volumes")
    }
}

/// Makes a directory that only its owner may enter. One that another user has put there first, as
/// anybody can below /tmp, is refused.
fn create_private(dir: &Path, owner: u32) -> Result<(), LocationError> {
    let failed = |source| LocationError::Create(dir.to_owned(), source);
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(failed)?;
    let metadata = fs::symlink_metadata(dir).map_err(failed)?;
    if metadata.is_dir() && metadata.uid() != owner {
        return Err(LocationError::NotOwned(dir.to_owned()));
    }
    Ok(())
}

/// A short name for a path: FNV-1a, 64 bits.
fn fnv1a(path: &Path) -> u64 {
    let bytes = path.as_os_str().as_encoded_bytes();
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(of: &Surroundings) -> (String, String) {
        let found = Locations::find(of).unwrap();
        let text = |path: PathBuf| path.to_str().unwrap().to_owned();
        (text(found.data), text(found.state))
    }

    fn user() -> Surroundings {
        Surroundings {
            uid: 1000,
            home: Some("/home/u".into()),
            ..Surroundings::default()
        }
    }

    #[test]
    fn root_uses_the_systems_directories() {
        let root = Surroundings {
            home: Some("/root".into()),
            runtime_dir: Some("/run/user/0".into()),
            ..Surroundings::default()
        };
        assert_eq!(find(&root), ("/var/lib/hull".into(), "/run/hull".into()));
    }

    #[test]
    fn a_user_has_directories_of_their_own() {
        assert_eq!(
            find(&user()),
            ("/home/u/.local/share/hull".into(), "/tmp/hull-1000".into())
        );
        let xdg = Surroundings {
            data_home: Some("/d".into()),
            runtime_dir: Some("/run/user/1000".into()),
            ..user()
        };
        assert_eq!(find(&xdg), ("/d/hull".into(), "/run/user/1000/hull".into()));
        let relative = Surroundings {
            home: Some("not/absolute".into()),
            ..user()
        };
        assert!(matches!(
            Locations::find(&relative),
            Err(LocationError::NoHome)
        ));
    }

    #[test]
    fn a_path_that_is_no_text_is_refused() {
        use std::os::unix::ffi::OsStringExt;
        let path = || OsString::from_vec(b"/x\xff".to_vec());
        let root = Surroundings {
            root: Some(path().into()),
            ..user()
        };
        let home = Surroundings {
            data_home: Some(path()),
            ..user()
        };
        for of in [root, home] {
            let error = Locations::find(&of).unwrap_err();
            assert!(matches!(error, LocationError::NotText(_)), "{error}");
        }
    }

    #[test]
    fn a_chosen_root_holds_both_unless_its_path_is_too_long_for_sockets() {
        let short = Surroundings {
            root: Some("/x".into()),
            ..user()
        };
        assert_eq!(find(&short), ("/x".into(), "/x/run".into()));
        let long = |letter: &str| {
            find(&Surroundings {
                root: Some(format!("/{}", letter.repeat(90)).into()),
                ..user()
            })
            .1
        };
        assert!(long("x").starts_with("/tmp/hull-1000/") && long("x").len() <= MAX_STATE_BYTES);
        assert_ne!(long("x"), long("y"));
    }
}
