//! The command line.

mod container;
mod image;
mod manage;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

pub(crate) use container::{ContainerArgs, CreateArgs, ExecArgs, Network, PullPolicy, RunArgs};
pub(crate) use image::{ImagesArgs, LoadArgs, PullArgs, RmiArgs};
pub(crate) use manage::{
    CheckArgs, CompletionsArgs, ConfigCommand, CpArgs, InspectArgs, KillArgs, LogsArgs, ManArgs,
    PsArgs, RmArgs, StartArgs, StatsArgs, StopArgs, VersionArgs, VolumeCommand,
};

/// Runs OCI containers, each in a virtual machine of its own.
#[derive(Debug, Parser)]
#[command(
    name = "hull",
    version,
    max_term_width = 100,
    propagate_version = true,
    after_help = "`hull run IMAGE COMMAND` is the place to start; `hull check` says what this host can do."
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// Keep all data and state below DIR [default: /var/lib/hull and /run/hull, or XDG directories]
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "HULL_ROOT",
        hide_env_values = true
    )]
    pub(crate) root: Option<PathBuf>,
    /// Print no notices, only errors
    #[arg(long, global = true, env = "HULL_QUIET", value_parser = clap::builder::FalseyValueParser::new())]
    pub(crate) quiet: bool,
}

/// What `hull` does.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a command in a new container
    Run(Box<RunArgs>),
    /// Make a container without starting it
    Create(Box<CreateArgs>),
    /// Start containers that were made or have ended
    Start(StartArgs),
    /// Run a further command in a running container
    Exec(ExecArgs),
    /// List containers
    Ps(PsArgs),
    /// Show the output of a detached container
    Logs(LogsArgs),
    /// End containers: their stop signal, then SIGKILL
    Stop(StopArgs),
    /// Send a signal to containers
    Kill(KillArgs),
    /// Remove containers
    Rm(RmArgs),
    /// Show all that is known of containers, as JSON
    Inspect(InspectArgs),
    /// Show what running containers use
    Stats(StatsArgs),
    /// Copy files between a container and the host
    Cp(CpArgs),
    /// List images
    Images(ImagesArgs),
    /// Fetch an image from a registry
    Pull(PullArgs),
    /// Take images from an archive
    Load(LoadArgs),
    /// Remove images
    Rmi(RmiArgs),
    /// List and remove volumes
    #[command(subcommand)]
    Volume(VolumeCommand),
    /// Say what this host can do, and what to do about what is missing
    Check(CheckArgs),
    /// The operator's configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Show versions
    Version(VersionArgs),
    /// Print a completion script for a shell
    Completions(CompletionsArgs),
    /// Write the manual pages into a directory
    Man(ManArgs),
}

impl Command {
    /// Commands that touch no container, image or volume.
    pub(crate) fn is_about_hull(&self) -> bool {
        matches!(
            self,
            Self::Config(_) | Self::Version(_) | Self::Completions(_) | Self::Man(_)
        )
    }

    /// Commands that find out by themselves whether an ordinary user can be root in a namespace.
    pub(crate) fn enters_namespaces_itself(&self) -> bool {
        matches!(self, Self::Check(_))
    }

    /// Commands whose own failures are told from those of the program that they run: 125, as in
    /// Docker. All others fail with 1.
    pub(crate) fn runs_a_program(&self) -> bool {
        matches!(
            self,
            Self::Run(_) | Self::Create(_) | Self::Start(_) | Self::Exec(_)
        )
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Arguments::command().debug_assert();
    }

    fn run(line: &str) -> RunArgs {
        let words = line.split_whitespace();
        match Arguments::try_parse_from(words).unwrap().command {
            Command::Run(run) => *run,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn options_end_with_the_image() {
        let args = run("hull run -it --rm -e A=1 debian ls -la --color -e");
        assert!(args.container.interactive && args.container.tty && args.container.rm);
        assert_eq!(
            args.container.image_and_command,
            ["debian", "ls", "-la", "--color", "-e"]
        );
        let args = run("hull run debian --version");
        assert_eq!(args.container.image_and_command, ["debian", "--version"]);
    }

    #[test]
    fn bad_values_are_refused() {
        for line in [
            "hull run",
            "hull run --memory 0 x",
            "hull run --cpus 0 x",
            "hull run --name -x- x",
            "hull run --no-such-flag x",
            "hull run --network bridge x",
            "hull run --security-opt apparmor=x x",
            "hull run -v a:b:c:d x",
        ] {
            assert!(
                Arguments::try_parse_from(line.split_whitespace()).is_err(),
                "{line}"
            );
        }
    }
}
