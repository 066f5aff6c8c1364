//! One program's connection to a name server: messages with their lengths (RFC 1035, 4.2.2).

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Relay;

/// How long a connection may be silent: there is room for few.
const PATIENCE: Duration = Duration::from_secs(10);

/// Answers one question after the other, until there is no other.
pub(super) async fn serve(relay: &Relay, mut connection: TcpStream) {
    if let Err(error) = converse(relay, &mut connection).await {
        log::debug!("a question for a name came to nothing: {error}");
    }
}

async fn converse(relay: &Relay, connection: &mut TcpStream) -> io::Result<()> {
    loop {
        let question = timeout(PATIENCE, read(connection)).await??;
        let answer = relay.answer(&question).await?;
        let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
        let mut message = length.to_be_bytes().to_vec();
        message.extend(answer);
        timeout(PATIENCE, connection.write_all(&message)).await??;
    }
}

async fn read(connection: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = connection.read_u16().await?;
    let mut message = vec![0; length.into()];
    connection.read_exact(&mut message).await?;
    Ok(message)
}
