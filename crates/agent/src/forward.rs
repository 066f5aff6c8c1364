//! Ports of the guest's loopback, for the host.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::unix::net::UnixStream as StdUnixStream;

use hull_agent_api::agent::ForwardPortRequest;
use tokio::net::{TcpStream, UnixStream};

use crate::error::AgentError;
use crate::stdio::Parked;

/// Connects to a port, and then carries what comes either way until both ways have ended.
pub(crate) async fn forward(
    request: &ForwardPortRequest,
    parked: &Parked,
) -> Result<(), AgentError> {
    let invalid = |field, value: String| AgentError::Invalid { field, value };
    let port =
        u16::try_from(request.port).map_err(|_| invalid("port", request.port.to_string()))?;
    let host = parked
        .claim(&request.token)
        .ok_or_else(|| invalid("token", request.token.clone()))?;
    let mut connection = match TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await {
        Ok(connection) => connection,
        // A server of IPv6 only; if there is none either, the first answer is the one to tell.
        Err(refused) => TcpStream::connect((Ipv6Addr::LOCALHOST, port))
            .await
            .map_err(|_| AgentError::NotListening {
                port,
                source: refused,
            })?,
    };
    // What is done with a connected stream socket is the same for every family.
    let host = StdUnixStream::from(host.into_inner());
    let mut host = UnixStream::from_std(host).map_err(AgentError::io("watch a connection"))?;
    tokio::spawn(async move {
        let carried: io::Result<_> =
            tokio::io::copy_bidirectional(&mut connection, &mut host).await;
        if let Err(error) = carried {
            log::debug!("a connection to port {port} broke: {error}");
        }
    });
    Ok(())
}
