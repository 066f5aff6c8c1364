//! Why a virtual machine could not be run.

use std::io;
use std::path::PathBuf;

use crate::config::{MAX_MEMORY_MIB, MAX_VCPUS, MIN_MEMORY_MIB};

/// Why a virtual machine could not be started or changed.
#[derive(Debug, thiserror::Error)]
pub enum VmError {
    /// The driver cannot do this at all.
    #[error("{driver} cannot do this: {what}")]
    Unsupported {
        /// Name of the driver.
        driver: &'static str,
        /// What was asked.
        what: &'static str,
    },
    /// The VMM's program is not on this host.
    #[error("{program} is not installed (looked in PATH): {advice}")]
    ProgramMissing {
        /// File name of the program.
        program: String,
        /// What a person can do about it.
        advice: &'static str,
    },
    /// The variable that names the VMM's program names nothing.
    #[error("{variable} names {}, which is no file: correct it or unset it", path.display())]
    ProgramVariable {
        /// The variable.
        variable: &'static str,
        /// What it names.
        path: PathBuf,
    },
    /// Guest memory out of range.
    #[error(
        "a guest needs {MIN_MEMORY_MIB} to {MAX_MEMORY_MIB} MiB of memory, not {asked_mib} MiB"
    )]
    Memory {
        /// What was asked, MiB.
        asked_mib: u32,
    },
    /// Number of CPUs out of range.
    #[error("a guest has 1 to {MAX_VCPUS} CPUs, not {asked}")]
    Vcpus {
        /// What was asked.
        asked: u32,
    },
    /// Kernel or initramfs cannot be read.
    #[error("cannot read the guest's {}", path.display())]
    BootFile {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The kernel file is something else.
    #[error("{} is not an uncompressed x86-64 ELF kernel", path.display())]
    NotAKernel {
        /// The file.
        path: PathBuf,
    },
    /// KVM was asked for by name, or the VMM has nothing else, and it does not work here.
    #[error("KVM is needed and cannot run a guest here: {reason}")]
    KvmUnusable {
        /// What the probe found.
        reason: String,
    },
    /// A file, socket or process operation of the host failed.
    #[error("cannot {action}")]
    Host {
        /// What was tried, and on what.
        action: String,
        /// Why it failed.
        source: io::Error,
    },
    /// The kernel refused the rules for the files that the VMM reaches.
    #[error("cannot keep the VMM from the host's files")]
    Landlock(#[source] landlock::RulesetError),
    /// The VMM ended before it could be used, or instead of doing what it was told.
    #[error("{program} {status}{}{}", during(*command), said(log))]
    Died {
        /// File name of the program.
        program: String,
        /// What it did: "exited with status 1".
        status: String,
        /// What it was told, if it was told anything.
        command: Option<&'static str>,
        /// Last lines that it wrote.
        log: String,
    },
    /// There is no snapshot, or not a whole and sound one.
    #[error("{} is not a snapshot of a machine", dir.display())]
    NotASnapshot {
        /// Its directory.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The snapshot is of another machine than the one that is to go on from it.
    #[error("the snapshot {} is of a machine {differs}", dir.display())]
    OtherMachine {
        /// Its directory.
        dir: PathBuf,
        /// In what they differ.
        differs: String,
    },
    /// The VMM refused a command.
    #[error("the VMM refused `{command}`: {answer}")]
    Refused {
        /// The command's name.
        command: &'static str,
        /// The VMM's own words.
        answer: String,
    },
    /// The connection to the VMM broke.
    #[error("lost the connection to the VMM during `{command}`")]
    Disconnected {
        /// The command's name.
        command: &'static str,
        /// Why.
        source: io::Error,
    },
}

fn during(command: Option<&str>) -> String {
    match command {
        None => " before it could be used".to_owned(),
        Some(command) => format!(" during `{command}`"),
    }
}

fn said(log: &str) -> String {
    match log.trim() {
        "" => String::new(),
        log => format!(": {log}"),
    }
}

impl VmError {
    /// For `map_err` on host operations: `action` completes "cannot …".
    pub fn host(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::Host { action, source }
    }
}
