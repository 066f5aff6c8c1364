//! Files of containers, handled without ever leaving their roots: what a container or an image has
//! put there (links, odd file types) leads nowhere outside.

mod copy;
mod view;

pub(crate) use copy::{CopyError, CopyOptions, copy_between, copy_tree};
pub(crate) use view::{RootView, ViewError};
