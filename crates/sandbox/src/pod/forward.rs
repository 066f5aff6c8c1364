//! Connections to the loopback of the pod's network namespace, which go on in the guest.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use hull_agent_api::agent;
use tokio::net::{TcpListener, TcpStream};

use super::Pod;
use crate::error::SandboxError;
use crate::guest::promptly;
use crate::network::{Loopback, dialled_port};

/// Carries connections into the guest for as long as the pod lives.
pub(super) fn start(pod: &Arc<Pod>, loopback: Loopback) -> io::Result<()> {
    let link = Arc::new(loopback.link);
    for listener in loopback.listeners {
        let listener = TcpListener::from_std(listener)?;
        tokio::spawn(serve(Arc::clone(pod), listener, Arc::clone(&link)));
    }
    Ok(())
}

async fn serve(pod: Arc<Pod>, listener: TcpListener, _link: Arc<OwnedFd>) {
    let accepting = async {
        loop {
            match listener.accept().await {
                Ok((connection, _)) => {
                    let pod = Arc::clone(&pod);
                    tokio::spawn(async move {
                        if let Err(error) = carry(&pod, connection).await {
                            tracing::debug!(%error, "a connection to the pod's loopback ended");
                        }
                    });
                }
                Err(error) => {
                    tracing::error!(%error, "cannot accept a connection to the pod's loopback");
                    // Out of descriptors, as a rule: others have to go first.
                    tokio::task::yield_now().await;
                }
            }
        }
    };
    tokio::select! {
        () = accepting => {}
        _ = pod.ended() => {}
    }
}

/// Where nobody listens in the guest, the connection is closed: it has been accepted already.
async fn carry(pod: &Pod, mut connection: TcpStream) -> Result<(), SandboxError> {
    let failed = || SandboxError::host("carry a connection into the guest");
    let port = dialled_port(&connection).map_err(failed())?;
    let (token, mut stream) = pod.guest.open_stream().await?;
    let request = agent::ForwardPortRequest {
        token,
        port: port.into(),
        ..Default::default()
    };
    let answer = pod.guest.agent().forward_port(promptly(), &request).await;
    answer.map_err(|source| SandboxError::Agent {
        action: "connect to a port",
        source,
    })?;
    let copied = tokio::io::copy_bidirectional(&mut connection, &mut stream).await;
    copied.map(drop).map_err(failed())
}
