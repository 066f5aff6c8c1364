//! Commands on containers, volumes and this program.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};

use crate::values::signal;

/// Options of `ps`.
#[derive(Debug, Args)]
pub(crate) struct PsArgs {
    /// Show containers that have ended or were never started too
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Print ids only
    #[arg(short = 'q', long)]
    pub(crate) ids: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Options of `start`.
#[derive(Debug, Args)]
pub(crate) struct StartArgs {
    /// Show the container's output and exit with its code
    #[arg(short, long)]
    pub(crate) attach: bool,
    /// Containers, by name or id
    #[arg(required = true)]
    pub(crate) containers: Vec<String>,
}

/// Options of `logs`.
#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// Go on until the container ends
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Begin with the last so many lines
    #[arg(short = 'n', long, value_name = "LINES")]
    pub(crate) tail: Option<usize>,
    /// Show when each line was written
    #[arg(short, long)]
    pub(crate) timestamps: bool,
    /// The container, by name or id
    pub(crate) container: String,
}

/// Options of `stop`.
#[derive(Debug, Args)]
pub(crate) struct StopArgs {
    /// Seconds to wait before SIGKILL [default: the container's own]
    #[arg(short = 't', long = "time", value_name = "SECONDS")]
    pub(crate) time: Option<u32>,
    /// Containers, by name or id
    #[arg(required = true)]
    pub(crate) containers: Vec<String>,
}

/// Options of `kill`.
#[derive(Debug, Args)]
pub(crate) struct KillArgs {
    /// Signal, by name or number
    #[arg(short, long, default_value = "KILL", value_parser = signal::parse)]
    pub(crate) signal: u32,
    /// Containers, by name or id
    #[arg(required = true)]
    pub(crate) containers: Vec<String>,
}

/// Options of `rm`.
#[derive(Debug, Args)]
pub(crate) struct RmArgs {
    /// Kill containers that run; do not mind those that are not there
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Containers, by name or id
    #[arg(required = true)]
    pub(crate) containers: Vec<String>,
}

/// Options of `inspect`.
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// Containers, by name or id
    #[arg(required = true)]
    pub(crate) containers: Vec<String>,
}

/// Options of `stats`.
#[derive(Debug, Args)]
pub(crate) struct StatsArgs {
    /// Print once instead of every second
    #[arg(long)]
    pub(crate) no_stream: bool,
    /// Print JSON, one object a line
    #[arg(long)]
    pub(crate) json: bool,
    /// Containers, by name or id [default: all that run]
    pub(crate) containers: Vec<String>,
}

/// Options of `cp`.
#[derive(Debug, Args)]
pub(crate) struct CpArgs {
    /// Keep owners and extended attributes
    #[arg(short, long)]
    pub(crate) archive: bool,
    /// Copy what SOURCE leads to when it is a symbolic link
    #[arg(short = 'L', long)]
    pub(crate) follow_link: bool,
    /// What to copy: CONTAINER:PATH, or PATH on the host
    #[arg(value_hint = ValueHint::AnyPath)]
    pub(crate) source: String,
    /// Where to: PATH on the host, or CONTAINER:PATH
    #[arg(value_hint = ValueHint::AnyPath)]
    pub(crate) target: String,
}

/// Commands on volumes.
#[derive(Debug, Subcommand)]
pub(crate) enum VolumeCommand {
    /// List volumes
    Ls {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove volumes and what is in them
    Rm {
        /// The volumes' names
        #[arg(required = true)]
        volumes: Vec<String>,
    },
}

/// Options of `check`.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Commands on the configuration.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Show the values that count, and where each comes from
    Show,
}

/// Options of `version`.
#[derive(Debug, Args)]
pub(crate) struct VersionArgs {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Options of `completions`.
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    pub(crate) shell: clap_complete::Shell,
}

/// Options of `man`.
#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// Directory for the pages, which is made if need be
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) output: PathBuf,
}
