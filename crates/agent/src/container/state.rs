//! What a container is doing, and so what can be asked of it.

/// From creation on. Only the end of init leads to the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Init waits to be started.
    Created,
    Running,
    Paused,
    /// Init has ended.
    Stopped,
}

impl State {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }

    pub(crate) fn can_start(self) -> bool {
        match self {
            Self::Created => true,
            Self::Running | Self::Paused | Self::Stopped => false,
        }
    }

    /// Its namespaces are there as soon as it is made.
    pub(crate) fn can_exec(self) -> bool {
        match self {
            Self::Created | Self::Running => true,
            Self::Paused | Self::Stopped => false,
        }
    }

    pub(crate) fn can_pause(self) -> bool {
        match self {
            Self::Running => true,
            Self::Created | Self::Paused | Self::Stopped => false,
        }
    }

    pub(crate) fn can_resume(self) -> bool {
        match self {
            Self::Paused => true,
            Self::Created | Self::Running | Self::Stopped => false,
        }
    }

    pub(crate) fn can_update(self) -> bool {
        match self {
            Self::Created | Self::Running | Self::Paused => true,
            Self::Stopped => false,
        }
    }

    pub(crate) fn can_remove(self) -> bool {
        match self {
            Self::Stopped => true,
            Self::Created | Self::Running | Self::Paused => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::State::{self, Created, Paused, Running, Stopped};

    #[test]
    fn each_state_allows_what_it_should() {
        let allowed = |test: fn(State) -> bool| {
            [Created, Running, Paused, Stopped]
                .into_iter()
                .filter(|&state| test(state))
                .collect::<Vec<_>>()
        };
        assert_eq!(allowed(State::can_start), [Created]);
        assert_eq!(allowed(State::can_exec), [Created, Running]);
        assert_eq!(allowed(State::can_pause), [Running]);
        assert_eq!(allowed(State::can_resume), [Paused]);
        assert_eq!(allowed(State::can_update), [Created, Running, Paused]);
        assert_eq!(allowed(State::can_remove), [Stopped]);
    }
}
