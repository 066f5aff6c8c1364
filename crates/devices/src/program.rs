//! What the programs have in common: how each starts and ends, and the option for its sandbox.

use clap::{Args, Parser, ValueEnum};

use crate::process;

/// The body of a program's `main`: prepares the process, reads the command line, runs, and says in one line
/// why it failed.
pub fn main<A: Parser>(name: &'static str, run: impl FnOnce(A) -> anyhow::Result<()>) {
    process::use_one_heap();
    process::log_to_stderr(name);
    if let Err(error) = run(A::parse()) {
        eprintln!("{name}: {error:#}");
        std::process::exit(1);
    }
}

/// Whether a program shuts itself in.
#[derive(Debug, Clone, Copy, Args)]
pub struct SandboxOption {
    /// Sandbox to enter before anything is read from the guest or its VMM
    #[arg(long, value_enum, default_value_t = Sandbox::Namespace)]
    sandbox: Sandbox,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Sandbox {
    /// Namespaces, few capabilities or none, a system call filter, and a root of its own where there are
    /// files to reach
    Namespace,
    /// None, for debugging
    None,
}

impl SandboxOption {
    /// Whether there is a sandbox to enter.
    #[must_use]
    pub fn is_on(self) -> bool {
        self.sandbox == Sandbox::Namespace
    }
}
