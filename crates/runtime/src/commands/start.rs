//! `start`.

use hull_sandbox::state::Status;

use super::Context;
use super::notify::{self, Listener};
use crate::container::Container;
use crate::error::RuntimeError;

/// Lets a container's program run.
pub(super) async fn start(context: &Context, id: &str) -> Result<(), RuntimeError> {
    let container = Container::find(&context.store, id).await?;
    let pod = match container.status().await? {
        Status::Stopped => {
            return Err(RuntimeError::Invalid(
                "cannot start a container that has stopped".to_owned(),
            ));
        }
        Status::Running | Status::Paused => {
            return Err(RuntimeError::Invalid(
                "cannot start an already running container".to_owned(),
            ));
        }
        Status::Created => container.pod().ok_or(RuntimeError::NotRunning)?,
    };
    let process = container.record.process.as_ref();
    let listener = Listener::bind(&context.store, id)?;
    pod.start_process("").await.map_err(RuntimeError::program(
        process.and_then(|process| process.args().as_ref()),
    ))?;
    notify::wait(listener).await
}
