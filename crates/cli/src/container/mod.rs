//! The containers that Hull knows, in a directory each.
//!
//! A container's data directory is its OCI bundle (`config.json`) with what Hull adds: `hull.json`
//! ([`Record`]), `exit.json` (written by the pod process when the container has ended), the writable
//! layer (`upper`, `work`), the files that are mounted over `/etc`, its volumes without a name and
//! its log. The state directory holds what a running container needs and is gone when it has ended.
//!
//! Whoever changes a container holds its lock ([`ContainerLock`]). A process that is killed leaves
//! its lock free, so that the next one can tell an unfinished container from one that is in work.

mod directory;
mod exit_file;
mod lock;
mod names;
mod record;
mod store;
mod sweep;

pub(crate) use directory::ContainerDir;
pub(crate) use exit_file::exit_file_name;
pub(crate) use lock::ContainerLock;
pub(crate) use record::{Phase, Settings, State, at};
pub(crate) use store::{
    Container, ContainerStore, StoreError, create_dir, entries, read_json, write_json,
};
pub(crate) use sweep::{settle, sweep};
