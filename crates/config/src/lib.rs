//! The operator's configuration of Hull.
//!
//! [`Config::load`] puts the built-in defaults, the configuration file and its drop-ins together;
//! [`Config::with_annotations`] adds what a pod asks for, as far as the operator lets it. Every value
//! knows where it comes from.
//!
//! A setting is a field in `settings` and a row of the table in `schema`. All else follows from the
//! row: reading files, the nearest key of an unknown one, annotations, and what is shown.

mod annotations;
mod choice;
mod config;
mod error;
mod file;
mod nearest;
mod origin;
mod schema;
mod settings;
mod show;
mod size;
mod value;

pub use annotations::ANNOTATION_PREFIX;
pub use config::{Config, DEFAULT_FILE, FILE_VARIABLE};
pub use error::{ConfigError, ValueError};
pub use hull_vm::{Acceleration, FileSharing, Vmm};
pub use origin::{Origin, Place};
pub use settings::{
    AnnotationSettings, GuestSettings, LogLevel, LogSettings, RootKind, RootSettings, Start,
    VmSettings,
};
pub use show::Entry;
pub use size::Size;
