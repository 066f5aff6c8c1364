//! `hull`: runs OCI containers, each in a virtual machine of its own.

mod arguments;
mod bundle;
mod commands;
mod container;
mod etc_files;
mod files;
mod id;
mod images;
mod launch;
mod locations;
mod progress;
mod rootless;
mod spec;
mod stdio;
mod timestamp;
mod values;
mod volume;

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use arguments::Arguments;
use commands::CommandError;
use locations::{Locations, Surroundings};

/// Hull failed before or instead of running a program.
const FAILED_TO_RUN: u8 = 125;
/// Any other command failed.
const FAILED: u8 = 1;
/// The command line is wrong.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    stdio::restore_at_panic();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return ExitCode::from(refuse(&error)),
    };
    let failed = match arguments.command.runs_a_program() {
        true => FAILED_TO_RUN,
        false => FAILED,
    };
    match run(arguments) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("hull: {}", hull_shim::client::report::chain(error.as_ref()));
            let command = error.downcast_ref::<CommandError>();
            let code = command.and_then(CommandError::exit_code);
            ExitCode::from(code.unwrap_or(failed))
        }
    }
}

/// What follows the reason in clap's own words.
const FURTHER: [&str; 3] = ["Usage:", "For more information", "tip:"];

/// Tells of a wrong command line in one line, and of a right one that asks for help at length.
fn refuse(error: &clap::Error) -> u8 {
    if matches!(
        error.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
    ) {
        // Nothing is lost when nobody reads it.
        let _ = error.print();
        return 0;
    }
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let _ = error.print();
        return USAGE;
    }
    let text = error.render().to_string();
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let said: Vec<_> = lines
        .take_while(|line| !FURTHER.iter().any(|start| line.starts_with(start)))
        .collect();
    let said = said.join(" ");
    eprintln!("hull: {}", said.strip_prefix("error: ").unwrap_or(&said));
    let first = std::env::args().skip(1).find(|word| !word.starts_with('-'));
    match first.as_deref() {
        Some("run" | "create" | "start" | "exec") => FAILED_TO_RUN,
        _ => USAGE,
    }
}

fn run(arguments: Arguments) -> Result<u8, Box<dyn std::error::Error>> {
    let uid = nix::unistd::geteuid().as_raw();
    let surroundings = Surroundings::of_process(uid, arguments.global.root.clone());
    let locations = Locations::find(&surroundings)?;
    if !arguments.command.is_about_hull() {
        locations.create(uid)?;
        if uid != 0 && !arguments.command.enters_namespaces_itself() {
            rootless::enter(&locations.state)?;
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(commands::carry_out(arguments, locations));
    // A thread that waits for a person's input never ends by itself.
    runtime.shutdown_background();
    Ok(outcome?)
}
