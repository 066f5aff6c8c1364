//! `registries.toml`: mirrors and the registries that need special care.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// Which registries need special care, and which have mirrors.
///
/// ```toml
/// [registry."docker.io"]
/// mirrors = ["mirror.example.com", "http://10.0.0.1:5000"]
///
/// [registry."registry.example.com:5000"]
/// http = true              # plain HTTP; the default for localhost
///
/// [registry."other.example.com"]
/// ca-file = "/etc/hull/other.pem"
/// skip-tls-verify = false
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registries {
    /// By host and port, as in image references.
    #[serde(default)]
    pub registry: BTreeMap<String, RegistryConfig>,
}

/// What is special about a registry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RegistryConfig {
    /// Hosts to ask first, in this order; `http://` before one means plain HTTP.
    #[serde(default)]
    pub mirrors: Vec<String>,
    /// Plain HTTP. Said nothing: for loopback addresses only.
    #[serde(default)]
    pub http: Option<bool>,
    /// Accept any certificate.
    #[serde(default)]
    pub skip_tls_verify: bool,
    /// A PEM file with one more certificate to trust.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
}

/// Why `registries.toml` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RegistriesError {
    /// It cannot be read.
    #[error("cannot read {0}")]
    Read(PathBuf, #[source] io::Error),
    /// It makes no sense.
    #[error("cannot understand {0}")]
    Parse(PathBuf, #[source] toml::de::Error),
}

impl Registries {
    /// Reads the first that exists of `hull/registries.toml` in `XDG_CONFIG_HOME` (or `~/.config`),
    /// and `/etc/hull/registries.toml`. Without any, nothing is special.
    ///
    /// # Errors
    /// When one exists and cannot be used.
    pub fn find() -> Result<Self, RegistriesError> {
        let variable = |name| std::env::var_os(name).map(PathBuf::from);
        let user = variable("XDG_CONFIG_HOME").or_else(|| Some(variable("HOME")?.join(".config")));
        let candidates = user
            .map(|dir| dir.join("hull/registries.toml"))
            .into_iter()
            .chain([PathBuf::from("/etc/hull/registries.toml")]);
        for path in candidates {
            if path.exists() {
                return Self::read(&path);
            }
        }
        Ok(Self::default())
    }

    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read or makes no sense.
    pub fn read(path: &Path) -> Result<Self, RegistriesError> {
        let text = fs::read_to_string(path)
            .map_err(|error| RegistriesError::Read(path.to_owned(), error))?;
        toml::from_str(&text).map_err(|error| RegistriesError::Parse(path.to_owned(), error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_strictly() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("registries.toml");
        let read = |text: &str| {
            fs::write(&path, text).unwrap();
            Registries::read(&path)
        };
        let registries = read(
            "[registry.\"docker.io\"]\nmirrors = [\"http://m:1\"]\n[registry.x]\nhttp = false\n",
        )
        .unwrap();
        assert_eq!(registries.registry["docker.io"].mirrors, ["http://m:1"]);
        assert_eq!(registries.registry["x"].http, Some(false));
        for bad in ["[registry.x]\nhtpt = true", "registry = 1", "mirrors = []"] {
            assert!(
                matches!(read(bad), Err(RegistriesError::Parse(..))),
                "{bad}"
            );
        }
        let missing = Registries::read(&temp.path().join("none"));
        assert!(matches!(missing, Err(RegistriesError::Read(..))));
    }
}
