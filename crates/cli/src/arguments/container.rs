//! `run`, `create` and `exec`.

use std::path::PathBuf;

use clap::{Args, ValueEnum, ValueHint};
use hull_vm::{Acceleration, Vmm};
use oci_spec::runtime::PosixRlimit;

use crate::spec::{CapabilityChoice, parse_capability};
use crate::values::cpus::{self, Cpus};
use crate::values::environment::{self, Variable};
use crate::values::publish::{self, Publish};
use crate::values::security::{self, SecurityOption};
use crate::values::{name, signal, size, sysctl, ulimit};
use crate::volume::{MountOption, parse_mount, parse_tmpfs, parse_volume};

/// When to ask the registry for an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum PullPolicy {
    /// When the store has not got it
    #[default]
    Missing,
    /// Every time
    Always,
    /// Never: an image that is not in the store is an error
    Never,
}

/// The container's network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Network {
    /// Loopback only
    None,
    /// The host's connections, from a network namespace of the pod's own
    #[default]
    Nat,
}

/// Options of `run`.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Run in the background and print the container's id
    #[arg(short, long)]
    pub(crate) detach: bool,
    #[command(flatten)]
    pub(crate) container: ContainerArgs,
}

/// Options of `create`.
#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    #[command(flatten)]
    pub(crate) container: ContainerArgs,
}

/// What a container is made of.
#[derive(Debug, Args)]
#[command(next_help_heading = "Container")]
pub(crate) struct ContainerArgs {
    /// Keep standard input open
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Remove the container when it has ended
    #[arg(long)]
    pub(crate) rm: bool,
    /// Name of the container [default: made up]
    #[arg(long, value_parser = name::parse)]
    pub(crate) name: Option<String>,
    /// Set an environment variable; without a value, pass the one that hull has
    #[arg(short, long, value_name = "NAME[=VALUE]", value_parser = environment::parse)]
    pub(crate) env: Vec<Variable>,
    /// Read environment variables from a file, one a line
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) env_file: Vec<PathBuf>,
    /// Attach a label
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    pub(crate) label: Vec<String>,
    /// Working directory
    #[arg(short, long, value_name = "DIR")]
    pub(crate) workdir: Option<String>,
    /// User and group of the command, by name or number
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub(crate) user: Option<String>,
    /// Further group of the command
    #[arg(long, value_name = "GROUP")]
    pub(crate) group_add: Vec<String>,
    /// Program to run instead of the image's entry point; "" for none
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) entrypoint: Option<String>,
    /// Host name in the container [default: the beginning of its id]
    #[arg(long, value_parser = name::parse_host)]
    pub(crate) hostname: Option<String>,
    /// Signal that `hull stop` sends first [default: the image's, or TERM]
    #[arg(long, value_name = "SIGNAL", value_parser = signal::parse)]
    pub(crate) stop_signal: Option<u32>,
    /// Seconds that `hull stop` waits before it kills
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    pub(crate) stop_timeout: u32,
    /// When to ask the registry for the image
    #[arg(long, value_enum, default_value_t)]
    pub(crate) pull: PullPolicy,
    /// Platform of the image; the guest runs linux/amd64 only
    #[arg(long, value_name = "OS/ARCH")]
    pub(crate) platform: Option<String>,

    #[command(flatten)]
    pub(crate) files: FileArgs,
    #[command(flatten)]
    pub(crate) machine: MachineArgs,
    #[command(flatten)]
    pub(crate) network: NetworkArgs,
    #[command(flatten)]
    pub(crate) security: SecurityArgs,

    /// The image, then the command to run in it instead of the image's own
    #[arg(
        required = true,
        trailing_var_arg = true,
        value_names = ["IMAGE", "COMMAND"],
        help_heading = None,
        value_hint = ValueHint::CommandWithArguments
    )]
    pub(crate) image_and_command: Vec<String>,
}

/// What the container sees of files.
#[derive(Debug, Args)]
#[command(next_help_heading = "Files")]
pub(crate) struct FileArgs {
    /// Show a directory or file of the host, or a volume
    #[arg(short, long, value_name = "[SOURCE:]TARGET[:OPTIONS]", value_parser = parse_volume)]
    pub(crate) volume: Vec<MountOption>,
    /// The same in Docker's long form: type=bind|volume|tmpfs,source=…,target=…,readonly,…
    #[arg(long, value_name = "FIELDS", value_parser = parse_mount)]
    pub(crate) mount: Vec<MountOption>,
    /// Mount a directory of memory
    #[arg(long, value_name = "TARGET[:OPTIONS]", value_parser = parse_tmpfs)]
    pub(crate) tmpfs: Vec<MountOption>,
    /// Forbid writing to the container's root
    #[arg(long)]
    pub(crate) read_only: bool,
    /// Size of /dev/shm
    #[arg(long, value_name = "SIZE", default_value = "64m", value_parser = size::parse)]
    pub(crate) shm_size: u64,
}

/// The virtual machine.
#[derive(Debug, Args)]
#[command(next_help_heading = "Virtual machine")]
pub(crate) struct MachineArgs {
    /// Memory limit of the container [default: none in a machine with 512m]
    #[arg(short, long, value_name = "SIZE", value_parser = size::parse_memory)]
    pub(crate) memory: Option<u64>,
    /// CPUs, possibly a fraction [default: 2, or the host's if it has fewer]
    #[arg(long, value_name = "NUMBER", value_parser = cpus::parse)]
    pub(crate) cpus: Option<Cpus>,
    /// Largest number of processes and threads; -1 for no limit
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true, value_parser = clap::value_parser!(i64).range(-1..=4_194_304))]
    pub(crate) pids_limit: Option<i64>,
    /// Virtual machine monitor: qemu [default: the configuration's, qemu]
    #[arg(long, value_name = "VMM")]
    pub(crate) vmm: Option<Vmm>,
    /// How the guest's instructions run: auto, kvm or tcg [default: the configuration's, auto]
    #[arg(long, value_name = "HOW")]
    pub(crate) accel: Option<Acceleration>,
}

/// The network.
#[derive(Debug, Args)]
#[command(next_help_heading = "Network")]
pub(crate) struct NetworkArgs {
    /// Network of the container
    #[arg(long, visible_alias = "net", value_enum, default_value_t)]
    pub(crate) network: Network,
    /// Lead a port of the host into the container
    #[arg(short, long, value_name = "[[ADDRESS:]PORT:]PORT[/PROTOCOL]", value_parser = publish::parse)]
    pub(crate) publish: Vec<Publish>,
    /// Name server to use instead of the host's
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) dns: Vec<std::net::IpAddr>,
    /// Line for the container's /etc/hosts
    #[arg(long, value_name = "NAME:ADDRESS")]
    pub(crate) add_host: Vec<String>,
}

/// What the container may do.
#[derive(Debug, Args)]
#[command(next_help_heading = "Security")]
pub(crate) struct SecurityArgs {
    /// Add a capability
    #[arg(long, value_name = "CAPABILITY", value_parser = parse_capability)]
    pub(crate) cap_add: Vec<CapabilityChoice>,
    /// Drop a capability
    #[arg(long, value_name = "CAPABILITY", value_parser = parse_capability)]
    pub(crate) cap_drop: Vec<CapabilityChoice>,
    /// seccomp=unconfined, seccomp=FILE (OCI format) or no-new-privileges
    #[arg(long, value_name = "OPTION", value_parser = security::parse)]
    pub(crate) security_opt: Vec<SecurityOption>,
    /// All capabilities and no system call filter, within the virtual machine
    #[arg(long)]
    pub(crate) privileged: bool,
    /// Resource limit of the command
    #[arg(long, value_name = "NAME=SOFT[:HARD]", value_parser = ulimit::parse)]
    pub(crate) ulimit: Vec<PosixRlimit>,
    /// Kernel setting of the container
    #[arg(long, value_name = "NAME=VALUE", value_parser = sysctl::parse)]
    pub(crate) sysctl: Vec<(String, String)>,
    /// Not supported: a guest has no devices of the host
    #[arg(long, hide = true, value_name = "DEVICE")]
    pub(crate) device: Vec<String>,
    /// Not supported: the container's command is its process 1
    #[arg(long, hide = true)]
    pub(crate) init: bool,
}

/// Options of `exec`.
#[derive(Debug, Args)]
pub(crate) struct ExecArgs {
    /// Keep standard input open
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Do not wait for the command
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Set an environment variable; without a value, pass the one that hull has
    #[arg(short, long, value_name = "NAME[=VALUE]", value_parser = environment::parse)]
    pub(crate) env: Vec<Variable>,
    /// Read environment variables from a file, one a line
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) env_file: Vec<PathBuf>,
    /// Working directory
    #[arg(short, long, value_name = "DIR")]
    pub(crate) workdir: Option<String>,
    /// User and group of the command, by name or number
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub(crate) user: Option<String>,
    /// All capabilities, within the virtual machine
    #[arg(long)]
    pub(crate) privileged: bool,
    /// The container, by name or id
    pub(crate) container: String,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) command: Vec<String>,
}
