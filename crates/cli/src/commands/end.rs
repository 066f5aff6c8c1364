//! `hull stop`, `hull kill` and `hull rm`.

use std::time::Duration;

use super::{CommandError, Context, print};
use crate::arguments::{KillArgs, RmArgs, StopArgs};
use crate::container::{Container, State, StoreError, settle};
use crate::images;
use hull_shim::client::{Pod, PodError};

const SIGKILL: u32 = 9;

/// A container as it is, after anything that a killed process left has been put right.
async fn find(context: &Context, reference: &str) -> Result<Container, CommandError> {
    let settled = settle(context.store.find(reference)?).await?;
    Ok(settled.ok_or_else(|| StoreError::NotFound(reference.to_owned()))?)
}

/// Sends a signal. A container that has just ended needs none.
async fn signal(pod: &Pod, number: u32) -> Result<(), PodError> {
    match pod.kill("", number, false).await {
        Err(error) if !error.is_not_found() => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// `hull stop`.
pub(crate) async fn stop(context: &Context, args: &StopArgs) -> Result<u8, CommandError> {
    for reference in &args.containers {
        let container = find(context, reference).await?;
        if matches!(container.state(), State::Running { .. }) {
            let settings = container.settings()?;
            let seconds = args.time.unwrap_or(settings.stop_timeout_seconds);
            let pod = Pod::connect(&container.dir.state, container.dir.id()).await?;
            let patience = Duration::from_secs(seconds.into());
            if seconds > 0 {
                signal(&pod, settings.stop_signal).await?;
                // Whether it ended or the patience did: the next step is right for both.
                let _ = tokio::time::timeout(patience, pod.wait("")).await;
            }
            signal(&pod, SIGKILL).await?;
            pod.gone().await;
        }
        print(&format!("{reference}\n"))?;
    }
    Ok(0)
}

/// `hull kill`.
pub(crate) async fn kill(context: &Context, args: &KillArgs) -> Result<u8, CommandError> {
    for reference in &args.containers {
        let container = super::exec::running(context, reference).await?;
        let pod = Pod::connect(&container.dir.state, container.dir.id()).await?;
        pod.kill("", args.signal, false).await?;
        if args.signal == SIGKILL {
            pod.gone().await;
        }
        print(&format!("{reference}\n"))?;
    }
    Ok(0)
}

/// `hull rm`.
pub(crate) async fn rm(context: &Context, args: &RmArgs) -> Result<u8, CommandError> {
    for reference in &args.containers {
        match find(context, reference).await {
            Ok(container) => remove(container, args.force).await?,
            Err(CommandError::Store(StoreError::NotFound(_))) if args.force => {}
            Err(error) => return Err(error),
        }
        print(&format!("{reference}\n"))?;
    }
    images::release_orphans(&context.locations, &context.store)?;
    Ok(0)
}

async fn remove(container: Container, force: bool) -> Result<(), CommandError> {
    let running = matches!(container.state(), State::Running { .. });
    if running && !force {
        return Err(CommandError::WrongState {
            name: container.record.name,
            state: "running",
            needed: "stopped (-f kills it)",
        });
    }
    if running {
        match Pod::connect(&container.dir.state, container.dir.id()).await {
            Ok(pod) => pod.shutdown().await,
            // It has ended just now.
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
        if !container.dir.data.exists() {
            // With --rm it has removed itself.
            return Ok(());
        }
    }
    let _lock = container.lock()?;
    Ok(container.remove()?)
}
