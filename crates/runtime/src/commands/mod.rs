//! The commands.

mod capabilities;
mod create;
mod delete;
mod events;
mod exec;
mod features;
mod kill;
mod list;
mod notify;
mod ps;
mod run;
mod spec;
mod start;
mod state;
mod update;

use std::io::Write;
use std::path::{Path, PathBuf};

use hull_sandbox::cgroup::in_user_namespace;
use hull_sandbox::state::Status;
use hull_shim::engine;

use crate::arguments::{Command, GlobalArgs};
use crate::container::Container;
use crate::error::RuntimeError;
use crate::log::Log;
use crate::store::Store;

/// The newest version of the specification that is understood.
const SPEC_VERSION: &str = "1.2.1";

/// What commands have in common.
#[derive(Debug)]
pub(crate) struct Context {
    /// The known containers.
    pub(crate) store: Store,
    /// Where pods' state directories are.
    pub(crate) state: PathBuf,
    /// Where warnings go.
    log: Log,
    /// Whether the containers' directory was named.
    root_is_given: bool,
}

impl Context {
    pub(crate) fn new(arguments: &GlobalArgs) -> Result<Self, RuntimeError> {
        let state = state_root();
        let root = match &arguments.root {
            Some(root) => std::path::absolute(root)
                .map_err(RuntimeError::host(format!("find {}", root.display())))?,
            None => state.join("runtime"),
        };
        Ok(Self {
            store: Store::new(root),
            state,
            log: Log::new(arguments),
            root_is_given: arguments.root.is_some(),
        })
    }

    /// One that was named and is not there is a mistake.
    fn check_root(&self) -> Result<(), RuntimeError> {
        let root = self.store.root();
        match root.metadata() {
            Err(error) if self.root_is_given => Err(RuntimeError::host(format!(
                "find {}",
                root.display()
            ))(error)),
            Ok(_) | Err(_) => Ok(()),
        }
    }
}

/// The system's directory, or that of a user who is root in a namespace of their own only.
fn state_root() -> PathBuf {
    let is_named = std::env::var_os("HULL_ROOT").is_some();
    let is_systems_root = nix::unistd::geteuid().is_root() && !in_user_namespace();
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(dir) if !is_named && !is_systems_root => Path::new(&dir).join("hull"),
        Some(_) | None => engine::state_root(),
    }
}

/// Does what a command line asks for. Answers with the exit status.
///
/// # Errors
/// When it cannot be done.
pub(crate) async fn carry_out(context: &Context, command: Command) -> Result<u8, RuntimeError> {
    match command {
        Command::Create(args) => create::create(context, &args).await.map(success),
        Command::Start(args) => start::start(context, &args.id).await.map(success),
        Command::Run(args) => run::run(context, &args).await,
        Command::State(args) => state::state(context, &args.id).await.map(success),
        Command::Kill(args) => kill::kill(context, &args).await.map(success),
        Command::Delete(args) => delete::delete(context, &args.id, args.force)
            .await
            .map(success),
        Command::Exec(args) => exec::exec(context, &args).await,
        Command::List(args) => list::list(context, &args).await.map(success),
        Command::Ps(args) => ps::ps(context, &args).await.map(success),
        Command::Pause(args) => pause(context, &args.id).await.map(success),
        Command::Resume(args) => resume(context, &args.id).await.map(success),
        Command::Update(args) => update::update(context, &args).await.map(success),
        Command::Events(args) => events::events(context, &args).await.map(success),
        Command::Spec(args) => spec::spec(&args).map(success),
        Command::Features => features::features().map(success),
        Command::Checkpoint(_) => Err(RuntimeError::Unsupported("checkpoints of a container")),
        Command::Restore(_) => Err(RuntimeError::Unsupported("containers from a checkpoint")),
    }
}

fn success((): ()) -> u8 {
    0
}

async fn pause(context: &Context, id: &str) -> Result<(), RuntimeError> {
    let container = Container::find(&context.store, id).await?;
    let pod = container.pod_if("pause", &[Status::Running]).await?;
    Ok(pod.pause().await?)
}

async fn resume(context: &Context, id: &str) -> Result<(), RuntimeError> {
    let container = Container::find(&context.store, id).await?;
    let pod = container.pod_if("resume", &[Status::Paused]).await?;
    Ok(pod.resume().await?)
}

/// `--version`. The first line is what `runc --version` begins with, but for the name.
pub(crate) fn version() -> Result<u8, RuntimeError> {
    print(&format!(
        "hull-runtime version {}\nspec: {SPEC_VERSION}\n",
        env!("CARGO_PKG_VERSION")
    ))?;
    Ok(0)
}

/// Writes to the standard output.
fn print(text: &str) -> Result<(), RuntimeError> {
    let mut stdout = std::io::stdout();
    stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
        .map_err(RuntimeError::host("write to the standard output"))
}
