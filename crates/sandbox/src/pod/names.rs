//! Name servers that the pod's containers are told of and only the host reaches.

use std::collections::HashSet;
use std::error::Error;
use std::net::Ipv4Addr;
use std::sync::Arc;

use hull_agent_api::agent;

use super::Pod;
use crate::error::SandboxError;
use crate::guest::promptly;
use crate::network::on_loopback;

/// Addresses that are served in the guest.
pub(super) type ServedNames = tokio::sync::Mutex<HashSet<Ipv4Addr>>;

impl Pod {
    /// Lets the guest reach them. An engine may have made one, and said so in a container's `/etc/resolv.conf`, at any
    /// time before the container starts, and whenever it connects the pod with another network. Names that do not
    /// resolve end nothing.
    pub(super) async fn serve_names(self: &Arc<Self>) {
        if let Err(error) = self.serve_all_names().await {
            let error: &(dyn Error + 'static) = &error;
            tracing::warn!(error, "a name server of the pod's network is out of reach");
        }
    }

    async fn serve_all_names(self: &Arc<Self>) -> Result<(), SandboxError> {
        // Held until the end: of two calls at a time the second finds what the first has done.
        let mut served = self.served_names.lock().await;
        let wanted: HashSet<Ipv4Addr> = {
            let containers = self.containers.lock().await;
            let texts = containers
                .values()
                .filter(|container| container.init().exit().is_none())
                .filter_map(|container| container.files().resolv_conf());
            texts.flat_map(|text| on_loopback(&text)).collect()
        };
        let new = wanted.difference(&served).copied().collect();
        for server in self.machine.network.name_servers(new).await? {
            self.serve_name_server(server).await?;
            served.insert(server);
        }
        if !served.is_empty() {
            self.machine.network.let_answers_in().await?;
        }
        Ok(())
    }

    async fn serve_name_server(self: &Arc<Self>, server: Ipv4Addr) -> Result<(), SandboxError> {
        let (token, stream) = self.guest.open_stream().await?;
        let stream = stream
            .into_std()
            .map_err(SandboxError::host("pass a connection on"))?;
        let request = agent::ServeNamesRequest {
            token,
            address: server.to_string(),
            ..Default::default()
        };
        let answer = self.guest.agent().serve_names(promptly(), &request).await;
        answer.map_err(|source| SandboxError::Agent {
            action: "serve names",
            source,
        })?;
        let pod = Arc::clone(self);
        tokio::spawn(async move {
            let carried = tokio::select! {
                carried = pod.machine.network.carry_names(server, stream) => carried,
                _ = pod.ended() => return,
            };
            match carried {
                // The end of the guest, as a rule, or it has said why.
                Ok(()) => tracing::debug!(%server, "the guest has closed the way to a name server"),
                Err(error) => {
                    let error: &(dyn Error + 'static) = &error;
                    tracing::warn!(error, %server, "the guest does not reach a name server any more");
                }
            }
            pod.served_names.lock().await.remove(&server);
        });
        Ok(())
    }
}
