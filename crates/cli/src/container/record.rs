//! What Hull remembers of a container.

use std::collections::BTreeMap;

use hull_sandbox::mount::MountSpec;
use hull_sandbox::{ExitRecord, PodConfig};
use hull_vm::process::ProcessRecord;
use serde::{Deserialize, Serialize};

use crate::timestamp::Timestamp;

/// The contents of `hull.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Record {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) created: Timestamp,
    pub(crate) phase: Phase,
    /// Nothing while it is being created.
    pub(crate) settings: Option<Settings>,
}

/// How far a container has come. Whether one that was started still runs is not written here: the pod
/// process knows, and leaves an exit record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "phase", deny_unknown_fields)]
pub(crate) enum Phase {
    /// In work by whoever holds the lock; nothing is left of it when nobody does.
    Creating,
    /// Ready to be started.
    Created,
    /// Was started.
    Started {
        at: Timestamp,
        /// The process that shows its output, and with which it ends.
        owner: Option<ProcessRecord>,
    },
}

/// What a container was made with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    /// As the person named it.
    pub(crate) image: String,
    /// Digest of the image, or its path.
    pub(crate) image_id: String,
    /// Program and arguments.
    pub(crate) command: Vec<String>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) tty: bool,
    pub(crate) interactive: bool,
    /// Removed when it ends.
    pub(crate) auto_remove: bool,
    pub(crate) stop_signal: u32,
    /// Between the stop signal and SIGKILL.
    pub(crate) stop_timeout_seconds: u32,
    /// Named volumes in use.
    pub(crate) volumes: Vec<String>,
    /// How the root is mounted.
    pub(crate) rootfs: Vec<MountSpec>,
    pub(crate) pod: PodConfig,
}

/// The state of a container, as people see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum State {
    Creating,
    Created,
    Running { since: Timestamp },
    Exited { record: ExitRecord },
}

impl State {
    /// The state that phase, exit record and the pod process's life make together. An exit record
    /// counts most: it is written last.
    pub(crate) fn of(phase: Phase, exit: Option<ExitRecord>) -> Self {
        match (phase, exit) {
            (Phase::Creating, _) => Self::Creating,
            (Phase::Created, _) => Self::Created,
            (Phase::Started { .. }, Some(record)) => Self::Exited { record },
            (Phase::Started { at, .. }, None) => Self::Running { since: at },
        }
    }

    /// One word.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running { .. } => "running",
            Self::Exited { .. } => "exited",
        }
    }

    /// A phrase, as Docker's `ps` has it.
    pub(crate) fn phrase(&self) -> String {
        match self {
            Self::Creating => "Creating".to_owned(),
            Self::Created => "Created".to_owned(),
            Self::Running { since } => format!("Up {}", since.age()),
            Self::Exited { record } => match (record.exit, &record.failure) {
                (Some(exit), None) => {
                    format!("Exited ({}) {} ago", exit.code, at(exit.at_ns).age())
                }
                (Some(exit), Some(_)) => {
                    format!("Failed ({}) {} ago", exit.code, at(exit.at_ns).age())
                }
                (None, _) => "Failed to start".to_owned(),
            },
        }
    }
}

impl Phase {
    /// Belongs to a process that is gone: its pod should have ended with it.
    pub(crate) fn is_orphaned(self) -> bool {
        match self {
            Self::Creating | Self::Created => false,
            Self::Started { owner, .. } => owner.is_some_and(|owner| !owner.is_alive()),
        }
    }
}

/// A time in nanoseconds since the epoch.
pub(crate) fn at(nanoseconds: i64) -> Timestamp {
    let part = i32::try_from(nanoseconds.rem_euclid(1_000_000_000)).unwrap_or(0);
    Timestamp::from_unix(nanoseconds.div_euclid(1_000_000_000), part)
}

#[cfg(test)]
mod tests {
    use hull_sandbox::ExitStatus;

    use super::*;

    #[test]
    fn an_exit_record_counts_only_for_what_was_started() {
        let record = ExitRecord {
            exit: Some(ExitStatus {
                code: 3,
                at_ns: 0,
                oom_killed: false,
            }),
            failure: None,
            console: vec![],
        };
        let started = Phase::Started {
            at: Timestamp::from_unix(1, 0),
            owner: None,
        };
        assert_eq!(
            State::of(Phase::Created, Some(record.clone())).word(),
            "created"
        );
        assert_eq!(State::of(started, None).word(), "running");
        let exited = State::of(started, Some(record));
        assert_eq!(exited.word(), "exited");
        assert!(exited.phrase().starts_with("Exited (3) "));
    }
}
