//! The streams of a process in a container, as this program's own.

mod attached;
mod fifos;
mod input;
mod output;
mod patience;

pub(crate) use attached::{AttachError, Attached, Ended, Streams};
pub(crate) use fifos::Fifos;
pub(crate) use hull_shim::client::signals::Signals;
pub(crate) use hull_shim::client::terminal::{is_terminal, restore_at_panic};
