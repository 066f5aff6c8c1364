//! `containerd-shim-hull-v2`: the process that owns one pod, and what containerd runs to start it.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::Parser;
use hull_shim::daemon::{self, Options};
use hull_shim::engine::{self, Action, Invocation};
use hull_shim::events;
use hull_shim::log::PodLog;
use tracing_subscriber::EnvFilter;

/// Runs one pod and serves containerd's Task API for it. Started by `hull` and by this program itself
/// when containerd asks for it, not by people.
#[derive(Debug, Parser)]
#[command(version, name = "containerd-shim-hull-v2 pod")]
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
    /// Socket of the engine's Events service.
    #[arg(long, requires = "namespace")]
    events: Option<PathBuf>,
    /// The engine's namespace.
    #[arg(long)]
    namespace: Option<String>,
    /// FIFO from which the engine reads the log.
    #[arg(long)]
    log_fifo: Option<PathBuf>,
}

fn main() -> ExitCode {
    let mut arguments = std::env::args();
    let outcome = match arguments.nth(1).as_deref() {
        Some(engine::CLEAN_UP) => clean_up(arguments.next().map(PathBuf::from)),
        Some("pod") => pod(PodArguments::parse_from(std::env::args().skip(1))),
        _ => engine(std::env::args().skip(1)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("containerd-shim-hull-v2: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn log_to(log: PodLog) {
    tracing_subscriber::fmt()
        .with_env_filter(
            EnvFilter::try_from_env("HULL_LOG").unwrap_or_else(|_| EnvFilter::new("warn")),
        )
        .with_writer(Arc::new(log))
        .with_ansi(false)
        .init();
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")
}

/// What containerd asks for.
fn engine(arguments: impl Iterator<Item = String>) -> anyhow::Result<()> {
    let invocation = Invocation::parse(arguments)?;
    log_to(PodLog::open(None).context("cannot open the log")?);
    match invocation.action {
        Action::Start => runtime()?.block_on(engine::start(&invocation))?,
        Action::Delete => runtime()?.block_on(engine::delete(&invocation))?,
        Action::Info => engine::info()?,
        Action::Version => println!("containerd-shim-hull-v2 {}", env!("CARGO_PKG_VERSION")),
    }
    Ok(())
}

/// What `delete` leaves to a process of its own.
fn clean_up(state_dir: Option<PathBuf>) -> anyhow::Result<()> {
    let state_dir = state_dir.context("the state directory is missing")?;
    log_to(PodLog::open(None).context("cannot open the log")?);
    Ok(runtime()?.block_on(engine::clean_up(&state_dir))?)
}

fn pod(arguments: PodArguments) -> anyhow::Result<()> {
    // Signals of the terminal that `hull` was typed at are not for us.
    nix::unistd::setsid().context("cannot leave the session")?;
    log_to(PodLog::open(arguments.log_fifo.as_deref()).context("cannot open the log")?);
    let namespace = arguments.namespace.unwrap_or_default();
    let events = arguments
        .events
        .map(|socket| events::Address { socket, namespace });
    let options = Options {
        state_dir: arguments.state_dir,
        socket: arguments.socket_fd,
        lifeline: arguments.lifeline_fd,
        attach: arguments.attach,
        events,
    };
    // One heap for all threads, of which there are few: what one of them frees can be given back.
    // SAFETY: takes no pointer; no other thread runs yet.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
    daemon::enter_mount_namespace(&options)?;
    if let Err(error) = runtime()?.block_on(daemon::run(options)) {
        tracing::error!(
            error = format!("{:#}", anyhow::Error::from(error)),
            "the pod failed"
        );
        anyhow::bail!("the pod failed");
    }
    Ok(())
}
