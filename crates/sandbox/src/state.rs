//! The states of a process, and which change may follow which.

use std::fmt;

use serde::{Deserialize, Serialize};

/// State of a container's init or of a further process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Made, waiting to be started.
    Created,
    /// Started.
    Running,
    /// Frozen.
    Paused,
    /// Ended; its exit status is kept until it is deleted.
    Stopped,
}

/// A change of state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transition {
    /// The program is let run.
    Start,
    /// All threads are frozen.
    Pause,
    /// All threads are thawed.
    Resume,
    /// The process ended, or its virtual machine did.
    Exit,
    /// The process is forgotten.
    Delete,
}

/// A change that the state does not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("cannot {transition} a process that is {status}")]
pub struct InvalidTransition {
    /// The state it is in.
    pub status: Status,
    /// What was asked.
    pub transition: Transition,
}

impl Status {
    /// The state after `transition`. A deleted process stays stopped.
    ///
    /// # Errors
    /// When the transition is not allowed.
    pub fn after(self, transition: Transition) -> Result<Self, InvalidTransition> {
        use Status::{Created, Paused, Running, Stopped};
        use Transition::{Delete, Exit, Pause, Resume, Start};
        match (self, transition) {
            (Created, Start) | (Paused, Resume) => Ok(Running),
            (Running, Pause) => Ok(Paused),
            (Created | Running | Paused | Stopped, Exit) | (Created | Stopped, Delete) => {
                Ok(Stopped)
            }
            (Created, Pause | Resume)
            | (Running, Start | Resume | Delete)
            | (Paused, Start | Pause | Delete)
            | (Stopped, Start | Pause | Resume) => Err(InvalidTransition {
                status: self,
                transition,
            }),
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        })
    }
}

impl fmt::Display for Transition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Start => "start",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Exit => "end",
            Self::Delete => "delete",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Status::{Created, Paused, Running, Stopped};
    use Transition::{Delete, Exit, Pause, Resume, Start};

    #[test]
    fn only_these_transitions_are_allowed() {
        let allowed = [
            (Created, Start, Running),
            (Created, Exit, Stopped),
            (Created, Delete, Stopped),
            (Running, Pause, Paused),
            (Running, Exit, Stopped),
            (Paused, Resume, Running),
            (Paused, Exit, Stopped),
            (Stopped, Exit, Stopped),
            (Stopped, Delete, Stopped),
        ];
        for status in [Created, Running, Paused, Stopped] {
            for transition in [Start, Pause, Resume, Exit, Delete] {
                let expected = allowed
                    .iter()
                    .find(|(from, by, _)| (*from, *by) == (status, transition))
                    .map(|(_, _, to)| *to);
                assert_eq!(
                    status.after(transition).ok(),
                    expected,
                    "{status} {transition}"
                );
            }
        }
    }
}
