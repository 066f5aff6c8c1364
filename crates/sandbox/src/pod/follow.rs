//! The guest's network follows what happens in the pod's network namespace.

use std::error::Error;
use std::io;
use std::sync::Arc;

use super::Pod;
use crate::error::SandboxError;
use crate::guest::promptly;
use crate::network::Follower;

/// Follows for as long as the pod lives.
pub(super) fn start(pod: &Arc<Pod>, follower: Box<Follower>) {
    let pod = Arc::clone(pod);
    tokio::spawn(async move {
        tokio::select! {
            end = run(&pod, follower) => if let Err(error) = end {
                tracing::error!(%error, "changes of the pod's network are not followed any more");
            },
            _ = pod.ended() => {}
        }
    });
}

async fn run(pod: &Arc<Pod>, mut follower: Box<Follower>) -> io::Result<()> {
    loop {
        follower.changed().await?;
        if let Err(error) = update(pod, &mut follower).await {
            let error: &(dyn Error + 'static) = &error;
            tracing::warn!(
                error,
                "the guest does not follow a change of the pod's network"
            );
        }
        pod.serve_names().await;
    }
}

async fn update(pod: &Pod, follower: &mut Follower) -> Result<(), SandboxError> {
    let update = follower.look().await?;
    if update.is_recorded() {
        // Before anything is connected that would have to be taken away.
        pod.save().await?;
    }
    let Some(network) = follower.connect(update).await? else {
        return Ok(());
    };
    let told = pod.guest.agent();
    let told = told.configure_network(promptly(), &network).await;
    told.map_err(|source| SandboxError::Agent {
        action: "change its network",
        source,
    })?;
    follower.keep(network);
    Ok(())
}
