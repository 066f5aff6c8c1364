//! The configuration as a whole.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::error::ConfigError;
use crate::file;
use crate::origin::Origin;
use crate::settings::{
    AnnotationSettings, GuestSettings, LogSettings, NetworkSettings, RootSettings, VmSettings,
};

/// The configuration file when no other is named. It need not exist.
pub const DEFAULT_FILE: &str = "/etc/hull/config.toml";

/// The environment variable that names another configuration file.
pub const FILE_VARIABLE: &str = "HULL_CONFIG";

/// What the operator, or a pod with the operator's permission, has chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// A pod's virtual machine.
    pub vm: VmSettings,
    /// A container's root.
    pub root: RootSettings,
    /// The guest's files.
    pub guest: GuestSettings,
    /// A pod's network.
    pub network: NetworkSettings,
    /// What a pod may ask for.
    pub annotations: AnnotationSettings,
    /// The pod process's log.
    pub log: LogSettings,
    /// The configuration file, whether it exists or not.
    pub(crate) file: PathBuf,
    /// Where the values that are not the defaults come from, by key.
    pub(crate) origins: BTreeMap<&'static str, Origin>,
}

impl Default for Config {
    /// The built-in defaults.
    fn default() -> Self {
        Self {
            vm: VmSettings::default(),
            root: RootSettings::default(),
            guest: GuestSettings::default(),
            network: NetworkSettings::default(),
            annotations: AnnotationSettings::default(),
            log: LogSettings::default(),
            file: DEFAULT_FILE.into(),
            origins: BTreeMap::new(),
        }
    }
}

impl Config {
    /// The defaults, changed by the configuration file, changed by its drop-ins (`config.d/*.toml`
    /// beside it, in the order of their names).
    ///
    /// The file is `explicit`, else what `$HULL_CONFIG` names, else [`DEFAULT_FILE`].
    ///
    /// # Errors
    /// When a file cannot be read, is not TOML, sets what does not exist, or sets a value that
    /// cannot be; or when the file does not exist although it was named.
    pub fn load(explicit: Option<&Path>) -> Result<Self, ConfigError> {
        match chosen(explicit, std::env::var_os(FILE_VARIABLE)) {
            Some(named) => Self::read(named, true),
            None => Self::read(DEFAULT_FILE.into(), false),
        }
    }

    fn read(file: PathBuf, must_exist: bool) -> Result<Self, ConfigError> {
        let mut config = Self {
            file: file.clone(),
            ..Self::default()
        };
        match config.apply_file(&file) {
            Err(ConfigError::Read { source, .. })
                if !must_exist && source.kind() == std::io::ErrorKind::NotFound => {}
            result => result?,
        }
        for drop_in in file::drop_ins(&file)? {
            config.apply_file(&drop_in)?;
        }
        Ok(config)
    }

    /// The configuration file, whether it exists or not.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }
}

/// The file that was named. An empty variable names none.
fn chosen(explicit: Option<&Path>, variable: Option<OsString>) -> Option<PathBuf> {
    let named = || variable.filter(|name| !name.is_empty()).map(PathBuf::from);
    explicit.map(Path::to_owned).or_else(named)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_argument_counts_before_the_variable() {
        let explicit = Some(Path::new("/a"));
        assert_eq!(chosen(explicit, Some("/b".into())), Some("/a".into()));
        assert_eq!(chosen(None, Some("/b".into())), Some("/b".into()));
        assert_eq!(chosen(None, Some("".into())), None);
        assert_eq!(chosen(None, None), None);
    }

    #[test]
    fn only_a_file_that_nobody_named_may_be_missing() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.toml");
        assert!(matches!(
            Config::read(file.clone(), true),
            Err(ConfigError::Read { path, .. }) if path == file
        ));
        let config = Config::read(file.clone(), false).unwrap();
        assert_eq!(config.file(), file);
        assert_eq!(config.vm, VmSettings::default());

        // Drop-ins count without it.
        std::fs::create_dir(dir.path().join("config.d")).unwrap();
        std::fs::write(dir.path().join("config.d/a.toml"), "vm.vcpus = 3").unwrap();
        assert_eq!(Config::read(file.clone(), false).unwrap().vm.vcpus, 3);

        // One that cannot be read is not one that is missing.
        std::fs::create_dir(&file).unwrap();
        assert!(matches!(
            Config::read(file, false),
            Err(ConfigError::Read { .. })
        ));
    }
}
