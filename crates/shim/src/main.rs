//! `containerd-shim-hull-v2`: the process that owns one pod.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use hull_shim::daemon::{self, Options};
use tracing_subscriber::EnvFilter;

/// Runs one pod and serves containerd's Task API for it.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The pod process. Started by `hull`, not by people.
    Pod(PodArguments),
}

#[derive(Debug, Args)]
struct PodArguments {
    /// Directory with pod.json.
    #[arg(long)]
    state_dir: PathBuf,
    /// Inherited listening socket for the Task API.
    #[arg(long)]
    socket_fd: i32,
    /// Inherited read end of a pipe whose end ends the pod.
    #[arg(long)]
    lifeline_fd: Option<i32>,
    /// Take over the pod of a pod process that is gone.
    #[arg(long)]
    attach: bool,
}

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(
            EnvFilter::try_from_env("HULL_LOG").unwrap_or_else(|_| EnvFilter::new("warn")),
        )
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    let Command::Pod(arguments) = Arguments::parse().command;
    match pod(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn pod(arguments: PodArguments) -> anyhow::Result<()> {
    // Signals of the terminal that `hull` was typed at are not for us.
    nix::unistd::setsid().context("cannot leave the session")?;
    let options = Options {
        state_dir: arguments.state_dir,
        socket: arguments.socket_fd,
        lifeline: arguments.lifeline_fd,
        attach: arguments.attach,
    };
    // One heap for all threads, of which there are few: what one of them frees can be given back.
    // SAFETY: takes no pointer; no other thread runs yet.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
    daemon::enter_mount_namespace(&options)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    Ok(runtime.block_on(daemon::run(options))?)
}
