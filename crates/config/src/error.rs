//! Why there is no configuration.

use std::io;
use std::path::PathBuf;

use crate::origin::{Origin, Place};
use crate::size::Size;

/// Why the configuration cannot be read, or an annotation not be followed.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("cannot read the configuration file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The drop-ins cannot be listed.
    #[error("cannot list the configuration files in {}", path.display())]
    List {
        /// Their directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file is not TOML.
    #[error("{place}: {message}")]
    Syntax {
        /// Where.
        place: Place,
        /// What is wrong there.
        message: String,
    },
    /// A file sets what does not exist.
    #[error("{place}: there is no {kind} `{key}`{}", did_you_mean("", *nearest))]
    Unknown {
        /// Where.
        place: Place,
        /// "setting" or "table".
        kind: &'static str,
        /// What was written.
        key: String,
        /// What may have been meant.
        nearest: Option<&'static str>,
    },
    /// A setting cannot have this value.
    #[error("{origin}: `{key}` cannot be {value}")]
    Value {
        /// Where the value was written.
        origin: Origin,
        /// The setting, or a table that was written as one.
        key: String,
        /// The value as it was written.
        value: String,
        /// Why not.
        source: ValueError,
    },
    /// An annotation of Hull's that does not exist.
    #[error(
        "there is no annotation `{}`{}",
        name.escape_debug(),
        did_you_mean(crate::ANNOTATION_PREFIX, *nearest)
    )]
    UnknownAnnotation {
        /// Its name.
        name: String,
        /// The key of the setting that may have been meant.
        nearest: Option<&'static str>,
    },
    /// An annotation for a setting that no annotation may change.
    #[error("annotation `{name}`: no annotation may change `{key}`")]
    NeverAnnotation {
        /// The annotation.
        name: String,
        /// The setting.
        key: &'static str,
    },
    /// An annotation that the operator does not allow.
    #[error(
        "annotation `{name}` is not allowed: `annotations.allow` in {file} does not list `{key}`"
    )]
    NotAllowed {
        /// The annotation.
        name: String,
        /// The setting.
        key: &'static str,
        /// The file and line that set `annotations.allow`, or the file that could.
        file: String,
    },
}

/// Why a setting cannot have a value: what it has to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// Not an integer, or too small or large.
    #[error("it has to be an integer from {least} to {most}")]
    Integer {
        /// The smallest.
        least: u32,
        /// The largest.
        most: u32,
    },
    /// Not one of a few words.
    #[error("it has to be one of {}", .0.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", "))]
    Choice(Vec<&'static str>),
    /// Not a size.
    #[error(
        "it has to be a size: an integer of bytes, or an integer with K, M, G, KiB, MiB or GiB, such as \"512MiB\""
    )]
    NotASize,
    /// More than [`Size`] holds.
    #[error("that is more memory than any machine has")]
    SizeTooLarge,
    /// A size below the least.
    #[error("it has to be at least {0}")]
    SizeTooSmall(Size),
    /// Not an absolute path.
    #[error("it has to be an absolute path")]
    Path,
    /// Not a list of settings.
    #[error("it has to be an array of settings' keys, such as [\"vm.memory\"]")]
    Keys,
    /// There is no such setting to list.
    #[error("there is no setting `{}`{}", key.escape_debug(), did_you_mean("", *nearest))]
    NoSuchKey {
        /// What was written.
        key: String,
        /// What may have been meant.
        nearest: Option<&'static str>,
    },
    /// A setting that no annotation may change.
    #[error("no annotation may change `{0}`")]
    NeverAnnotation(&'static str),
    /// A table was written as a setting.
    #[error("it is a table of settings")]
    Table,
}

/// The end of a message about something that does not exist.
fn did_you_mean(prefix: &str, nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |nearest| {
        format!("; did you mean `{prefix}{nearest}`?")
    })
}
