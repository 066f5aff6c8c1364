//! A name server that only the host reaches, at an address of the guest's own loopback.

mod connection;

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use hull_agent_api::agent::ServeNamesRequest;
use hull_agent_api::names::{Header, MAX_CONNECTIONS, MAX_DATAGRAMS, PORT, Transport};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, UdpSocket, UnixStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::error::AgentError;
use crate::stdio::Parked;

/// The addresses that are served.
#[derive(Debug, Default)]
pub(crate) struct Names {
    served: tokio::sync::Mutex<HashMap<Ipv4Addr, JoinHandle<()>>>,
}

impl Names {
    /// Serves an address for as long as the host's connection lasts.
    pub(crate) async fn serve(
        &self,
        request: &ServeNamesRequest,
        parked: &Parked,
    ) -> Result<(), AgentError> {
        let invalid = |field, value: &str| AgentError::Invalid {
            field,
            value: value.to_owned(),
        };
        let address: Ipv4Addr = request
            .address
            .parse()
            .ok()
            .filter(Ipv4Addr::is_loopback)
            .ok_or_else(|| invalid("address", &request.address))?;
        let host = parked
            .claim(&request.token)
            .ok_or_else(|| invalid("token", &request.token))?;
        // What is done with a connected stream socket is the same for every family.
        let host = StdUnixStream::from(host.into_inner());
        let host = UnixStream::from_std(host).map_err(AgentError::io("watch a connection"))?;
        self.replace(address, host).await
    }

    async fn replace(&self, address: Ipv4Addr, host: UnixStream) -> Result<(), AgentError> {
        let mut served = self.served.lock().await;
        if let Some(before) = served.remove(&address) {
            before.abort();
            // Its sockets are closed then. It does not panic.
            let _ended = before.await;
        }
        let cannot = || AgentError::io(format!("listen on {address}:{PORT}"));
        let udp = UdpSocket::bind((address, PORT)).await.map_err(cannot())?;
        let tcp = TcpListener::bind((address, PORT)).await.map_err(cannot())?;
        let serving = tokio::spawn(async move {
            if let Err(error) = carry(udp, tcp, host).await {
                log::warn!("names are not resolved at {address} any more: {error}");
            }
        });
        served.insert(address, serving);
        Ok(())
    }
}

/// Everything is in this future, and so ends with it.
async fn carry(udp: UdpSocket, tcp: TcpListener, host: UnixStream) -> io::Result<()> {
    let (from_host, to_host) = host.into_split();
    let relay = Relay {
        udp,
        to_host: tokio::sync::Mutex::new(to_host),
        open: Mutex::default(),
    };
    tokio::select! {
        ended = relay.answers(from_host) => ended,
        ended = relay.datagrams() => ended,
        ended = relay.connections(&tcp) => ended,
    }
}

/// Whoever waits for an answer.
#[derive(Debug)]
enum Asker {
    Datagram { from: SocketAddr, question: Vec<u8> },
    Connection(oneshot::Sender<Vec<u8>>),
}

/// Questions that wait for their answers.
#[derive(Debug, Default)]
struct Open {
    last: u32,
    askers: HashMap<u32, Asker>,
}

#[derive(Debug)]
struct Relay {
    udp: UdpSocket,
    to_host: tokio::sync::Mutex<OwnedWriteHalf>,
    open: Mutex<Open>,
}

impl Relay {
    fn open(&self) -> MutexGuard<'_, Open> {
        // Nothing panics while it is held.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Passes answers on, until the host closes.
    async fn answers(&self, mut host: OwnedReadHalf) -> io::Result<()> {
        loop {
            let mut header = [0; Header::LENGTH];
            match host.read_exact(&mut header).await {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                read => read?,
            };
            let header = Header::parse(header).map_err(io::Error::other)?;
            let mut answer = vec![0; header.length.into()];
            host.read_exact(&mut answer).await?;
            let asker = self.open().askers.remove(&header.number);
            match asker {
                Some(Asker::Connection(sender)) => drop(sender.send(answer)),
                Some(Asker::Datagram { from, question }) => {
                    let answer = or_failure(answer, &question);
                    // Who has asked may be gone.
                    let _sent = self.udp.send_to(&answer, from).await;
                }
                None => {}
            }
        }
    }

    /// Takes questions over UDP. One too many is lost, as datagrams may be, and asked again.
    async fn datagrams(&self) -> io::Result<()> {
        let mut buffer = vec![0; usize::from(u16::MAX)];
        loop {
            let (length, from) = match self.udp.recv_from(&mut buffer).await {
                Ok(received) => received,
                // What became of an answer that was sent before.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
                Err(error) => return Err(error),
            };
            let is_datagram = |asker: &&Asker| matches!(asker, Asker::Datagram { .. });
            let open = self.open().askers.values().filter(is_datagram).count();
            if open < MAX_DATAGRAMS {
                let question = buffer[..length].to_vec();
                let asker = Asker::Datagram {
                    from,
                    question: question.clone(),
                };
                self.ask(Transport::Udp, &question, asker).await?;
            }
        }
    }

    /// Takes questions over TCP.
    async fn connections(&self, listener: &TcpListener) -> io::Result<()> {
        let mut connections = FuturesUnordered::new();
        loop {
            tokio::select! {
                accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                    Ok((connection, _)) => connections.push(connection::serve(self, connection)),
                    Err(error) => {
                        log::warn!("cannot accept a question for a name: {error}");
                        // Out of descriptors, as a rule: others have to go first.
                        tokio::task::yield_now().await;
                    }
                },
                Some(()) = connections.next() => {}
            }
        }
    }

    /// The answer to a question over TCP.
    async fn answer(&self, question: &[u8]) -> io::Result<Vec<u8>> {
        let (sender, answer) = oneshot::channel();
        self.ask(Transport::Tcp, question, Asker::Connection(sender))
            .await?;
        let answer = answer.await.map_err(io::Error::other)?;
        Ok(or_failure(answer, question))
    }

    async fn ask(&self, transport: Transport, question: &[u8], asker: Asker) -> io::Result<()> {
        let number = {
            let mut open = self.open();
            open.last = open.last.wrapping_add(1);
            let number = open.last;
            open.askers.insert(number, asker);
            number
        };
        let frame = Header::frame(number, transport, question).map_err(io::Error::other)?;
        self.to_host.lock().await.write_all(&frame).await
    }
}

/// The server's answer; where it has none, what says so: the question again as an answer with the code `SERVFAIL`
/// (RFC 1035, 4.1.1), so that nobody waits for more.
fn or_failure(answer: Vec<u8>, question: &[u8]) -> Vec<u8> {
    const HEADER: usize = 12;
    const IS_ANSWER: u8 = 0x80;
    const KEPT: u8 = 0x79;
    const SERVER_FAILURE: u8 = 2;
    if !answer.is_empty() || question.len() < HEADER {
        return answer;
    }
    let mut failure = question.to_vec();
    failure[2] = IS_ANSWER | failure[2] & KEPT;
    failure[3] = SERVER_FAILURE;
    failure
}

#[cfg(test)]
mod tests;
