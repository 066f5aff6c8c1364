//! `hull-runtime`: the OCI runtime command line, for Podman, Docker, CRI-O and whoever else drives a runtime by
//! [it](https://github.com/opencontainers/runtime-spec/blob/main/runtime.md). It is a client of the pod process,
//! and leaves a [`monitor`] for each process in a container.

mod arguments;
mod commands;
mod container;
mod error;
mod log;
mod monitor;
mod place;
mod store;

use std::process::ExitCode;

use clap::Parser;
use hull_shim::client::report::chain;

use arguments::{Arguments, Command};
use commands::Context;
use error::RuntimeError;
use log::Log;

fn main() -> ExitCode {
    hull_shim::client::terminal::restore_at_panic();
    let descriptor = std::env::var(monitor::DESCRIPTOR);
    if let Some(descriptor) = descriptor.ok().and_then(|text| text.parse().ok()) {
        // Nobody hears what it could say.
        return monitor::run(descriptor).map_or(ExitCode::FAILURE, ExitCode::from);
    }
    let arguments = Arguments::parse();
    let log = Log::new(&arguments.global);
    // The program of `exec` can end with any other.
    let failed = match arguments.command {
        Some(Command::Exec(_)) => 255,
        _ => 1,
    };
    match run(arguments) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            log.error(&chain(&error));
            ExitCode::from(failed)
        }
    }
}

fn run(arguments: Arguments) -> Result<u8, RuntimeError> {
    if arguments.global.version {
        return commands::version();
    }
    let Some(command) = arguments.command else {
        let usage = "no command: `hull-runtime --help` lists them".to_owned();
        return Err(RuntimeError::Invalid(usage));
    };
    keep_descriptors_here()?;
    let context = Context::new(&arguments.global)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(RuntimeError::host("start the runtime"))?;
    let outcome = runtime.block_on(commands::carry_out(&context, command));
    // A thread that waits for input never ends by itself.
    runtime.shutdown_background();
    outcome
}

/// Engines leave descriptors open that are for this process only: what outlives it must not hold them.
fn keep_descriptors_here() -> Result<(), RuntimeError> {
    const FIRST: libc::c_uint = 3;
    let flags = libc::c_int::try_from(libc::CLOSE_RANGE_CLOEXEC).expect("a small number");
    // SAFETY: the call takes no pointer, and closes nothing: the descriptors are only not handed on.
    match unsafe { libc::close_range(FIRST, libc::c_uint::MAX, flags) } {
        0 => Ok(()),
        _ => Err(RuntimeError::host("keep descriptors to this process")(
            std::io::Error::last_os_error(),
        )),
    }
}
