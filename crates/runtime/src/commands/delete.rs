//! `delete`.

use hull_sandbox::cgroup::HostCgroup;
use hull_sandbox::state::Status;
use hull_shim::engine::clean_up;

use super::Context;
use crate::container::Container;
use crate::error::RuntimeError;

const SIGKILL: u32 = 9;

/// Forgets a container that has stopped, or with `force` whichever. Its pod ends with its last container.
pub(super) async fn delete(context: &Context, id: &str, force: bool) -> Result<(), RuntimeError> {
    let record = match context.store.find(id) {
        Err(RuntimeError::NotFound(_)) if force => return Ok(()),
        record => record?,
    };
    let container = Container::of(record).await;
    match &container {
        Ok(container) => match stop(container, force).await {
            // A pod process that does not answer is ended below.
            Err(_) if force => {}
            stopped => stopped?,
        },
        Err(_) if force => {}
        Err(_) => drop(container?),
    }
    forget(context, id).await
}

async fn stop(container: &Container, force: bool) -> Result<(), RuntimeError> {
    let status = container.status().await?;
    match (status, container.pod()) {
        (Status::Running | Status::Paused, _) if !force => Err(RuntimeError::NotStopped(
            container.record.id.clone(),
            status,
        )),
        (Status::Running | Status::Paused | Status::Created, Some(pod)) => {
            // One that has ended meanwhile is what is wanted.
            match pod.kill("", SIGKILL, true).await {
                Err(error) if !error.is_not_found() => return Err(RuntimeError::Pod(error)),
                Ok(()) | Err(_) => {}
            }
            match pod.wait("").await {
                Err(error) if !error.is_not_found() => Err(RuntimeError::Pod(error)),
                Ok(_) | Err(_) => Ok(()),
            }
        }
        _ => Ok(()),
    }
}

/// Takes away what is left of a container that does not run, and its pod if nobody else is in it.
pub(super) async fn forget(context: &Context, id: &str) -> Result<(), RuntimeError> {
    let record = match context.store.find(id) {
        // Not even made known.
        Err(RuntimeError::NotFound(_)) => return Ok(()),
        record => record?,
    };
    let container = Container::of(record.clone()).await;
    let pod = container.as_ref().ok().and_then(Container::pod);
    let deleted = match pod {
        Some(pod) => pod.delete("").await,
        None => Ok(()),
    };
    if context.store.begin_deletion(&record)? {
        if let Some(pod) = pod {
            pod.shutdown().await;
        }
        // A pod process that never got the container waits for it.
        clean_up(&record.pod).await?;
    } else if let Err(error) = deleted
        && !error.is_not_found()
    {
        // With the pod it would have gone.
        return Err(RuntimeError::Pod(error));
    }
    if let Some(cgroup) = &record.cgroup {
        HostCgroup::new(cgroup)?.remove()?;
    }
    context.store.remove(id)
}
