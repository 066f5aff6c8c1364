//! What each command does.

mod about;
mod check;
mod cp;
mod end;
mod error;
mod exec;
mod image;
mod logs;
mod ps;
mod run;
mod start;
mod stats;
mod table;
mod volumes;

use crate::arguments::{Arguments, Command};
use crate::container::{ContainerStore, sweep};
use crate::images;
use crate::locations::Locations;

pub(crate) use error::CommandError;

/// What every command has.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) locations: Locations,
    pub(crate) store: ContainerStore,
    /// No notices.
    pub(crate) quiet: bool,
}

impl Context {
    /// Puts right what killed processes have left.
    async fn sweep(&self) -> Result<(), CommandError> {
        sweep(&self.store).await?;
        Ok(images::release_orphans(&self.locations, &self.store)?)
    }
}

/// Carries a command out. Answers with the exit code.
pub(crate) async fn carry_out(
    arguments: Arguments,
    locations: Locations,
) -> Result<u8, CommandError> {
    let context = Context {
        store: ContainerStore::new(&locations),
        locations,
        quiet: arguments.global.quiet,
    };
    match arguments.command {
        Command::Run(args) => run::run(&context, &args).await,
        Command::Create(args) => run::create(&context, &args).await,
        Command::Start(args) => start::start(&context, &args).await,
        Command::Exec(args) => exec::exec(&context, &args).await,
        Command::Ps(args) => ps::ps(&context, &args).await,
        Command::Logs(args) => logs::logs(&context, &args).await,
        Command::Stop(args) => end::stop(&context, &args).await,
        Command::Kill(args) => end::kill(&context, &args).await,
        Command::Rm(args) => end::rm(&context, &args).await,
        Command::Inspect(args) => ps::inspect(&context, &args).await,
        Command::Stats(args) => stats::stats(&context, &args).await,
        Command::Cp(args) => cp::cp(&context, &args).await,
        Command::Check(args) => check::check(&context, &args),
        Command::Images(args) => image::images(&context, &args),
        Command::Pull(args) => image::pull(&context, &args).await,
        Command::Load(args) => image::load(&context, &args).await,
        Command::Rmi(args) => image::rmi(&context, &args).await,
        Command::Volume(command) => volumes::volume(&context, &command).await,
        Command::Config(command) => about::config(&command),
        Command::Version(args) => about::version(&args),
        Command::Completions(args) => about::completions(&args),
        Command::Man(args) => about::man(&args),
    }
}

/// Writes a command's answer. A reader that has read enough is no failure.
fn print(text: &str) -> Result<u8, CommandError> {
    use std::io::Write;

    let mut stdout = std::io::stdout().lock();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(CommandError::System("write the answer", error))
        }
        Ok(()) | Err(_) => Ok(0),
    }
}
