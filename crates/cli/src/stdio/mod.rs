//! The streams of a process in a container, as this program's own.

mod attached;
mod fifos;
mod input;
mod output;
mod patience;
mod signals;
mod terminal;

pub(crate) use attached::{AttachError, Attached, Ended, Streams};
pub(crate) use fifos::Fifos;
pub(crate) use signals::Signals;
pub(crate) use terminal::{is_terminal, restore_at_panic};
