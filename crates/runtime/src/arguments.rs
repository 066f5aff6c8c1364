//! The command line: runc's and crun's, as far as engines and people use it.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Runs OCI containers, each pod in its own virtual machine.
#[derive(Debug, Parser)]
#[command(name = "hull-runtime", disable_version_flag = true)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// What every command takes.
#[derive(Debug, Args)]
pub(crate) struct GlobalArgs {
    /// Directory for what is known of containers.
    #[arg(long, value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,
    /// File that errors are appended to.
    #[arg(long, value_name = "FILE")]
    pub(crate) log: Option<PathBuf>,
    /// Format of the log.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub(crate) log_format: LogFormat,
    /// Ignored: errors are all that is logged.
    #[arg(long)]
    pub(crate) debug: bool,
    /// Ignored: what the specification says of the control group tells.
    #[arg(long)]
    pub(crate) systemd_cgroup: bool,
    /// Ignored: whether there is privilege shows when it is needed.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) rootless: Option<String>,
    /// Ignored: there are no checkpoints.
    #[arg(long, value_name = "PATH", hide = true)]
    pub(crate) criu: Option<PathBuf>,
    /// Print the version.
    #[arg(long, short = 'v')]
    pub(crate) version: bool,
}

/// How the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// An object on each line.
    Json,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a container; its program waits for `start`.
    Create(CreateArgs),
    /// Let a container's program run.
    Start(Container),
    /// Make a container and let it run.
    Run(RunArgs),
    /// Print a container's state.
    State(Container),
    /// Send a signal to a container's first process.
    Kill(KillArgs),
    /// Forget a container and all that it has left.
    Delete(DeleteArgs),
    /// Run a further program in a container.
    Exec(Box<ExecArgs>),
    /// List containers.
    List(ListArgs),
    /// List the processes that stand for a container's on the host.
    Ps(PsArgs),
    /// Freeze a container.
    Pause(Container),
    /// Let a frozen container go on.
    Resume(Container),
    /// Change a container's limits.
    Update(Box<UpdateArgs>),
    /// Print what a container uses.
    Events(EventsArgs),
    /// Write an example of a specification.
    Spec(SpecArgs),
    /// Print what this runtime can do.
    Features,
    /// Not supported.
    Checkpoint(Unsupported),
    /// Not supported.
    Restore(Unsupported),
}

/// A container.
#[derive(Debug, Args)]
pub(crate) struct Container {
    /// The container's id.
    pub(crate) id: String,
}

/// Of `create`.
#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    #[command(flatten)]
    pub(crate) new: NewArgs,
    /// The container's id.
    pub(crate) id: String,
}

/// A container to be.
#[derive(Debug, Args)]
pub(crate) struct NewArgs {
    /// Directory with config.json.
    #[arg(long, short, value_name = "DIR", default_value = ".")]
    pub(crate) bundle: PathBuf,
    #[command(flatten)]
    pub(crate) process: ProcessArgs,
    /// Ignored: the guest's root is a file system of its own.
    #[arg(long)]
    pub(crate) no_pivot: bool,
    /// Ignored: the guest's keyrings are its own.
    #[arg(long)]
    pub(crate) no_new_keyring: bool,
    /// Ignored: there are no subreapers in a guest's way.
    #[arg(long)]
    pub(crate) no_subreaper: bool,
}

/// A process to be.
#[derive(Debug, Args)]
pub(crate) struct ProcessArgs {
    /// File for the process id of what stands for the process.
    #[arg(long, value_name = "FILE")]
    pub(crate) pid_file: Option<PathBuf>,
    /// Socket that takes the terminal.
    #[arg(long, value_name = "SOCKET")]
    pub(crate) console_socket: Option<PathBuf>,
    /// Descriptors above 2 that the program shall have; a virtual machine cannot have any.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) preserve_fds: u32,
}

/// Of `run`.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) new: NewArgs,
    /// Do not wait for the end.
    #[arg(long, short)]
    pub(crate) detach: bool,
    /// Do not delete the container at its end.
    #[arg(long)]
    pub(crate) keep: bool,
    /// The container's id.
    pub(crate) id: String,
}

/// Of `kill`.
#[derive(Debug, Args)]
pub(crate) struct KillArgs {
    /// To all of the container's processes.
    #[arg(long, short)]
    pub(crate) all: bool,
    /// The container's id.
    pub(crate) id: String,
    /// The signal's name or number.
    #[arg(default_value = "SIGTERM")]
    pub(crate) signal: String,
}

/// Of `delete`.
#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    /// Kill it first if it runs; that there is none is no error.
    #[arg(long, short)]
    pub(crate) force: bool,
    /// The container's id.
    pub(crate) id: String,
}

/// Of `exec`.
#[derive(Debug, Args)]
pub(crate) struct ExecArgs {
    #[command(flatten)]
    pub(crate) streams: ProcessArgs,
    /// File with the process, as in a specification.
    #[arg(long, short, value_name = "FILE")]
    pub(crate) process: Option<PathBuf>,
    /// Do not wait for the end.
    #[arg(long, short)]
    pub(crate) detach: bool,
    /// Give it a terminal.
    #[arg(long, short)]
    pub(crate) tty: bool,
    /// Its working directory.
    #[arg(long, value_name = "DIR")]
    pub(crate) cwd: Option<PathBuf>,
    /// A variable of its environment.
    #[arg(long, short, value_name = "NAME=VALUE")]
    pub(crate) env: Vec<String>,
    /// Its user and group.
    #[arg(long, short, value_name = "UID[:GID]")]
    pub(crate) user: Option<String>,
    /// A further group.
    #[arg(long, short = 'g', value_name = "GID")]
    pub(crate) additional_gids: Vec<u32>,
    /// A further capability.
    #[arg(long, short, value_name = "NAME")]
    pub(crate) cap: Vec<String>,
    /// Keep it from gaining privileges.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) no_new_privs: Option<bool>,
    /// Ignored: the host's AppArmor has no part in a guest.
    #[arg(long, value_name = "PROFILE")]
    pub(crate) apparmor: Option<String>,
    /// Ignored: the host's SELinux has no part in a guest.
    #[arg(long, value_name = "LABEL")]
    pub(crate) process_label: Option<String>,
    /// Not supported.
    #[arg(long, value_name = "PATH")]
    pub(crate) cgroup: Option<String>,
    /// Ignored: a container that is paused takes the process, which waits with it.
    #[arg(long)]
    pub(crate) ignore_paused: bool,
    /// The container's id.
    pub(crate) id: String,
    /// The program and its arguments.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) command: Vec<String>,
}

/// Of `list`.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// How.
    #[arg(long, short, value_enum, default_value_t = TableFormat::Table)]
    pub(crate) format: TableFormat,
    /// Ids only.
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

/// For people or programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TableFormat {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// Of `ps`.
#[derive(Debug, Args)]
pub(crate) struct PsArgs {
    /// How.
    #[arg(long, short, value_enum, default_value_t = TableFormat::Table)]
    pub(crate) format: TableFormat,
    /// The container's id.
    pub(crate) id: String,
    /// Options of ps(1), instead of `-ef`.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) options: Vec<String>,
}

/// Of `update`. Sizes are bytes; -1 is no limit.
#[derive(Debug, Args)]
#[command(allow_negative_numbers = true)]
pub(crate) struct UpdateArgs {
    /// File with a `linux.resources` object, `-` for the standard input.
    #[arg(long, short, value_name = "FILE")]
    pub(crate) resources: Option<PathBuf>,
    /// Weight of block I/O.
    #[arg(long)]
    pub(crate) blkio_weight: Option<u16>,
    /// Microseconds in which `cpu-quota` may be used.
    #[arg(long)]
    pub(crate) cpu_period: Option<u64>,
    /// Microseconds of CPU time in each period.
    #[arg(long)]
    pub(crate) cpu_quota: Option<i64>,
    /// Microseconds by which a quota may be exceeded.
    #[arg(long)]
    pub(crate) cpu_burst: Option<u64>,
    /// Share of the CPU time.
    #[arg(long, visible_alias = "cpu-share")]
    pub(crate) cpu_shares: Option<u64>,
    /// Ignored: a guest's CPUs are its own.
    #[arg(long)]
    pub(crate) cpuset_cpus: Option<String>,
    /// Ignored: a guest's memory nodes are its own.
    #[arg(long)]
    pub(crate) cpuset_mems: Option<String>,
    /// Memory.
    #[arg(long)]
    pub(crate) memory: Option<i64>,
    /// Memory that is not taken away when it is scarce.
    #[arg(long)]
    pub(crate) memory_reservation: Option<i64>,
    /// Memory and swap together.
    #[arg(long)]
    pub(crate) memory_swap: Option<i64>,
    /// Processes.
    #[arg(long)]
    pub(crate) pids_limit: Option<i64>,
    /// The container's id.
    pub(crate) id: String,
}

/// Of `events`.
#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    /// Print once and end.
    #[arg(long)]
    pub(crate) stats: bool,
    /// How often.
    #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
    pub(crate) interval: std::time::Duration,
    /// The container's id.
    pub(crate) id: String,
}

/// Of `spec`.
#[derive(Debug, Args)]
pub(crate) struct SpecArgs {
    /// Directory for config.json.
    #[arg(long, short, value_name = "DIR", default_value = ".")]
    pub(crate) bundle: PathBuf,
    /// For an ordinary user.
    #[arg(long)]
    pub(crate) rootless: bool,
}

/// Whatever it is.
#[derive(Debug, Args)]
pub(crate) struct Unsupported {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    pub(crate) rest: Vec<String>,
}
