//! What stands on the host for a process in a virtual machine.
//!
//! An engine knows a process by an id of the host. It waits for that process's end as its parent or subreaper,
//! takes its exit status from there, and enters its namespaces when it means the container's. The process also has
//! the streams that the engine gave to `create` or `exec`, and closes them at the end. So a process is left behind
//! for each: [`begin`] is how, and [`run`] what it does.

mod child;
mod control;
mod root;
mod start;
mod streams;
mod terminal;
mod watch;

use std::io;
use std::path::{Path, PathBuf};

use hull_sandbox::stdio::StdioConfig;
use serde::{Deserialize, Serialize};

pub(crate) use child::{DESCRIPTOR, run};
pub(crate) use root::RootPlan;
pub(crate) use start::{Monitor, begin};

/// What a monitor shall have.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Begin {
    /// The process that it stands for, as process listings show it.
    #[serde(skip)]
    pub(crate) args: Vec<String>,
    /// Where its process has a terminal, from.
    pub(crate) terminal: Terminal,
    /// The network namespace that engines find it in.
    pub(crate) network: Network,
}

/// Where a terminal comes from.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) enum Terminal {
    /// There is none.
    #[default]
    None,
    /// It is the one that this process has as its streams.
    Own,
    /// A new one, which whoever listens on this socket gets.
    For(PathBuf),
}

/// A network namespace.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) enum Network {
    /// The one it is in.
    #[default]
    Same,
    /// A new one, for the engine to fill.
    New,
    /// This one.
    At(PathBuf),
}

/// What a monitor says when it is ready, or that it cannot be.
#[derive(Debug, Serialize, Deserialize)]
enum Ready {
    /// Where the process's streams shall lead.
    Streams(StdioConfig),
    /// Why not.
    Failed(String),
}

/// What a monitor is told when its process is there.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    /// State directory of the pod.
    pub(crate) pod: PathBuf,
    /// The container.
    pub(crate) id: String,
    /// The process; empty for the container's first.
    pub(crate) exec_id: String,
    /// The files that engines find in its mount namespace.
    pub(crate) root: Option<RootPlan>,
    /// The control group that it is in.
    pub(crate) cgroup: Cgroup,
}

/// A control group, as engines name them.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) enum Cgroup {
    /// The one it is in.
    #[default]
    Same,
    /// That of its pod, which has made it.
    OfPod(String),
    /// One that nobody else is in.
    Own(String),
}

/// What it says then.
#[derive(Debug, Serialize, Deserialize)]
enum Watching {
    /// All is well.
    Yes,
    /// Why it cannot.
    Failed(String),
}

/// This process in the host's `/proc`, where it has another number than in its own process namespace.
fn own_proc() -> io::Result<PathBuf> {
    let own = std::fs::read_link("/proc/self")?;
    Ok(Path::new("/proc").join(own))
}

/// Whether this monitor has a process namespace of its own.
fn has_own_processes() -> bool {
    std::process::id() == 1
}
