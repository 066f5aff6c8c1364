//! `run`.

use std::process::Child;

use hull_shim::client::signals::{Event, Signals};

use super::Context;
use super::create::{Bundle, check_console, create_container};
use super::notify::{self, Listener};
use crate::arguments::RunArgs;
use crate::error::RuntimeError;

/// Makes a container and lets it run, and unless `detach` waits for its end.
pub(super) async fn run(context: &Context, args: &RunArgs) -> Result<u8, RuntimeError> {
    let bundle = Bundle::read(context, &args.new.bundle)?;
    check_console(&args.new.process, bundle.has_terminal(), args.detach)?;
    // Before the container can end.
    let signals = Signals::catch().map_err(RuntimeError::host("catch signals"))?;
    let (pod, monitor) = create_container(context, &args.new, &args.id, &bundle).await?;
    let listener = Listener::bind(&context.store, &args.id)?;
    if let Err(error) = pod.start_process("").await {
        super::delete::forget(context, &args.id).await?;
        return Err(RuntimeError::program(bundle.args())(error));
    }
    let told = notify::wait(listener);
    if args.detach {
        told.await?;
        return Ok(0);
    }
    tokio::spawn(async move {
        if let Err(error) = told.await {
            eprintln!("hull-runtime: {}", hull_shim::client::report::chain(&error));
        }
    });
    let code = wait(monitor, signals).await?;
    if !args.keep {
        super::delete::forget(context, &args.id).await?;
    }
    Ok(code)
}

/// Waits for a monitor's end, and passes on to it what comes meanwhile. Answers with its exit status.
pub(super) async fn wait(mut monitor: Child, mut signals: Signals) -> Result<u8, RuntimeError> {
    let pid = i32::try_from(monitor.id()).expect("process ids are positive `int`s");
    let waiting = tokio::task::spawn_blocking(move || monitor.wait());
    tokio::pin!(waiting);
    loop {
        tokio::select! {
            ended = &mut waiting => {
                let status = ended
                    .map_err(std::io::Error::from)
                    .and_then(|status| status)
                    .map_err(RuntimeError::host("wait for the monitor"))?;
                return Ok(exit_code(status));
            }
            event = signals.next() => if let Event::Signal(number) = event {
                let signal = i32::try_from(number).unwrap_or_default();
                // SAFETY: the process is a child that was not waited for, and the call takes no pointer.
                unsafe { libc::kill(pid, signal) };
            },
        }
    }
}

/// As shells report it.
fn exit_code(status: std::process::ExitStatus) -> u8 {
    use std::os::unix::process::ExitStatusExt;
    let signal = || status.signal().map_or(1, |signal| 128 + signal);
    u8::try_from(status.code().unwrap_or_else(signal)).unwrap_or(u8::MAX)
}
