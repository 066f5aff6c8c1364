//! `hull start`.

use hull_sandbox::GuestFiles;

use super::run::tcg_notice;
use super::{CommandError, Context};
use crate::arguments::StartArgs;
use crate::bundle::BundleError;
use crate::container::{State, settle};
use crate::launch::{self, Launch};
use crate::stdio::Signals;

/// `hull start`.
pub(crate) async fn start(context: &Context, args: &StartArgs) -> Result<u8, CommandError> {
    if args.attach && args.containers.len() > 1 {
        return Err(CommandError::usage("only one container can be attached to"));
    }
    let mut code = 0;
    for reference in &args.containers {
        code = start_one(context, reference, args.attach).await?;
        if !args.attach {
            println!("{reference}");
        }
    }
    Ok(code)
}

async fn start_one(context: &Context, reference: &str, attach: bool) -> Result<u8, CommandError> {
    let found = context.store.find(reference)?;
    let lock = found.lock()?;
    // Read again: what was found may have been another's work until the lock was ours.
    let found = context.store.find(reference)?;
    let mut container = match found.state() {
        State::Running { .. } => {
            drop(lock);
            return already_running(context, reference, attach).await;
        }
        State::Creating | State::Created | State::Exited { .. } => found,
    };
    let mut pod = container.settings()?.pod.clone();
    pod.guest = GuestFiles::find().map_err(BundleError::from)?;
    let exit_file = container.dir.exit();
    if let Some(single) = &mut pod.single {
        single.exit_file.clone_from(&exit_file);
    }
    match std::fs::remove_file(&exit_file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(CommandError::System(
                "remove the container's exit record",
                error,
            ));
        }
        Ok(()) | Err(_) => {}
    }
    launch::mark_started(&mut container, attach)?;
    let notice = tcg_notice(context, pod.acceleration);
    let mut signals = Signals::catch().map_err(|e| CommandError::System("catch signals", e))?;
    let launch = Launch::begin(&container.dir, &pod).await?;
    let code = if attach {
        launch.attached(container, lock, &mut signals).await?
    } else {
        launch.detached(container, &mut signals).await?;
        0
    };
    notice.await;
    Ok(u8::try_from(code).unwrap_or(u8::MAX))
}

/// Starting what runs is no error, but it cannot be attached to. What only seemed to run is started.
async fn already_running(
    context: &Context,
    reference: &str,
    attach: bool,
) -> Result<u8, CommandError> {
    let container = context.store.find(reference)?;
    let name = container.record.name.clone();
    let settled = settle(container).await?;
    match settled.map(|container| container.state()) {
        Some(State::Running { .. }) if !attach => Ok(0),
        Some(State::Running { .. }) => Err(CommandError::usage(
            "the container runs already; `hull logs -f` shows its output",
        )),
        Some(State::Exited { .. }) => Box::pin(start_one(context, reference, attach)).await,
        Some(state) => Err(CommandError::WrongState {
            name,
            state: state.word(),
            needed: "created or exited",
        }),
        None => Err(crate::container::StoreError::NotFound(reference.to_owned()).into()),
    }
}
