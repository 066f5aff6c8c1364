//! Configuration files of a test's own.

use std::error::Error;
use std::fs;
use std::path::PathBuf;

use hull_config::{Config, ConfigError};

/// A directory with a configuration file.
pub(crate) struct Files {
    dir: tempfile::TempDir,
}

impl Files {
    pub(crate) fn new(config: &str) -> Self {
        let files = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        files.write("config.toml", config);
        files
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub(crate) fn load(&self) -> Result<Config, ConfigError> {
        Config::load(Some(&self.path("config.toml")))
    }

    /// What a person reads, without the directory's name.
    pub(crate) fn told(&self, error: &ConfigError) -> String {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        text.replace(&format!("{}/", self.dir.path().display()), "")
    }

    /// Where a value comes from, without the directory's name.
    pub(crate) fn origin(&self, config: &Config, key: &str) -> String {
        let origin = config.origin(key).to_string();
        origin.replace(&format!("{}/", self.dir.path().display()), "")
    }
}
