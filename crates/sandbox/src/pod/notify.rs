//! Notification sockets of containers, and their connections.

use std::error::Error;

use hull_agent_api::agent;
use tokio::net::UnixStream;

use super::Pod;
use crate::container::Container;
use crate::error::SandboxError;
use crate::guest::promptly;
use crate::notify::pass_on;
use crate::spec::NotifySocket;

impl Pod {
    /// Opens the connection of a socket, which `pid` uses on the host, and says by what token the guest knows it.
    pub(super) async fn open_notify_socket(
        &self,
        socket: &NotifySocket,
        pid: u32,
    ) -> Result<String, SandboxError> {
        let (token, stream) = self.guest.open_stream().await?;
        start(stream, socket.clone(), pid);
        Ok(token)
    }

    /// The same for a container of another pod process's.
    pub(super) async fn reopen_notify_socket(
        &self,
        container: &Container,
    ) -> Result<(), SandboxError> {
        let Some(socket) = container.notify_socket() else {
            return Ok(());
        };
        let token = self
            .open_notify_socket(socket, container.init().pid())
            .await?;
        let request = agent::AttachNotifySocketRequest {
            container_id: container.id().to_owned(),
            token,
            ..Default::default()
        };
        let agent = self.guest.agent();
        let answer = agent.attach_notify_socket(promptly(), &request).await;
        answer.map(drop).map_err(|source| SandboxError::Agent {
            action: "take a new connection for a notification socket",
            source,
        })
    }
}

/// It ends with the socket in the guest.
fn start(stream: UnixStream, socket: NotifySocket, pid: u32) {
    tokio::spawn(async move {
        if let Err(error) = pass_on(stream, socket, pid).await {
            let error: &(dyn Error + 'static) = &error;
            tracing::warn!(
                error,
                "notifications of a container are not passed on any more"
            );
        }
    });
}
