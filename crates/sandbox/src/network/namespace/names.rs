//! Name servers that listen at an address of the namespace's loopback, as Docker's does in networks of one's
//! own. In the guest, such an address is the guest's own loopback, so its programs' questions are carried here.
//!
//! The guest is not trusted: it has so many questions open and no more, and the next one stays unread.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::Duration;

use hull_agent_api::names::{Header, MAX_QUESTIONS, PORT, Transport};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::{TcpStream, UdpSocket, UnixStream};
use tokio::sync::{Mutex, Semaphore};
use tokio::task::JoinSet;

use super::NetworkError;

/// Longest time for an answer. Docker's server asks up to three others and gives each 4 s.
const PATIENCE: Duration = Duration::from_secs(15);

/// This thread's sockets, and its namespace.
const SOCKETS: &str = "/proc/thread-self/net/udp";
const OWN_NAMESPACE: &str = "/proc/thread-self/ns/net";

/// Whether a namespace is another than this thread's.
pub(super) fn is_another(namespace: &File) -> io::Result<bool> {
    let of = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
    Ok(of(namespace.metadata()?) != of(std::fs::metadata(OWN_NAMESPACE)?))
}

/// Those of `wanted` at which somebody listens in this thread's namespace. Docker's server has a port that the kernel
/// chose, and a rule of the firewall leads from port 53 to it.
pub(super) fn served(wanted: &[Ipv4Addr]) -> Result<Vec<Ipv4Addr>, NetworkError> {
    let sockets =
        std::fs::read_to_string(SOCKETS).map_err(NetworkError::host(format!("read {SOCKETS}")))?;
    let listening: Vec<SocketAddrV4> = sockets.lines().filter_map(listener).collect();
    let is_served = |address: &Ipv4Addr| {
        listening.iter().any(|socket| {
            let anywhere = socket.ip().is_unspecified() && socket.port() == PORT;
            socket.ip() == address || anywhere
        })
    };
    Ok(wanted.iter().copied().filter(is_served).collect())
}

/// The address of an unconnected socket, as a line of [`SOCKETS`] has it.
fn listener(line: &str) -> Option<SocketAddrV4> {
    let mut fields = line.split_whitespace().skip(1);
    let (local, remote) = (fields.next()?, fields.next()?);
    if remote != "00000000:0000" {
        return None;
    }
    let (address, port) = local.split_once(':')?;
    // The kernel prints the address's four bytes as one number.
    let address = u32::from_str_radix(address, 16).ok()?.to_ne_bytes();
    let port = u16::from_str_radix(port, 16).ok()?;
    Some(SocketAddrV4::new(address.into(), port))
}

/// Carries the guest's questions to the server, which this thread reaches, until the guest closes.
pub(super) async fn carry(guest: UnixStream, server: Ipv4Addr) -> Result<(), NetworkError> {
    carry_to(guest, SocketAddrV4::new(server, PORT)).await
}

async fn carry_to(guest: UnixStream, server: SocketAddrV4) -> Result<(), NetworkError> {
    let (mut from_guest, to_guest) = guest.into_split();
    let to_guest = Arc::new(Mutex::new(to_guest));
    let room = Arc::new(Semaphore::new(MAX_QUESTIONS));
    let mut open = JoinSet::new();
    loop {
        let permit = Arc::clone(&room).acquire_owned().await;
        let permit = permit.expect("nobody closes it");
        while open.try_join_next().is_some() {}
        let mut header = [0; Header::LENGTH];
        let read = async {
            from_guest.read_exact(&mut header).await?;
            let header = Header::parse(header).map_err(io::Error::other)?;
            let mut question = vec![0; header.length.into()];
            from_guest.read_exact(&mut question).await?;
            Ok((header, question))
        };
        let (header, question) = match read.await {
            Err(error) if is_end(&error) => return Ok(()),
            read => read.map_err(NetworkError::host("read a question for a name"))?,
        };
        let to_guest = Arc::clone(&to_guest);
        open.spawn(async move {
            let answer = answer(server, header.transport, &question).await;
            drop(question);
            // A guest that does not take it is found out by what reads.
            let _sent = reply(&to_guest, header, &answer).await;
            drop(permit);
        });
    }
}

fn is_end(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset
    )
}

async fn reply(guest: &Mutex<OwnedWriteHalf>, to: Header, answer: &[u8]) -> io::Result<()> {
    let frame = Header::frame(to.number, to.transport, answer).map_err(io::Error::other)?;
    guest.lock().await.write_all(&frame).await
}

/// The server's answer, or nothing.
async fn answer(server: SocketAddrV4, transport: Transport, question: &[u8]) -> Vec<u8> {
    let asked = async {
        match transport {
            Transport::Udp => ask_udp(server, question).await,
            Transport::Tcp => ask_tcp(server, question).await,
        }
    };
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => {
            tracing::debug!(%server, %error, "a question for a name came to nothing");
            Vec::new()
        }
        Err(_) => {
            tracing::debug!(%server, "a question for a name was not answered");
            Vec::new()
        }
    }
}

async fn ask_udp(server: SocketAddrV4, question: &[u8]) -> io::Result<Vec<u8>> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
    socket.connect(server).await?;
    socket.send(question).await?;
    loop {
        // Nobody listens, as a rule. That alone makes no socket readable.
        if socket
            .ready(Interest::READABLE | Interest::ERROR)
            .await?
            .is_error()
        {
            let error = socket.take_error()?;
            return Err(error.unwrap_or_else(|| io::ErrorKind::ConnectionRefused.into()));
        }
        // There is an answer now: the long buffer is not held while one is waited for.
        let mut answer = vec![0; usize::from(u16::MAX)];
        match socket.try_recv(&mut answer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            received => {
                answer.truncate(received?);
                answer.shrink_to_fit();
                return Ok(answer);
            }
        }
    }
}

async fn ask_tcp(server: SocketAddrV4, question: &[u8]) -> io::Result<Vec<u8>> {
    let length = u16::try_from(question.len()).map_err(io::Error::other)?;
    let mut message = length.to_be_bytes().to_vec();
    message.extend(question);
    let mut server = TcpStream::connect(server).await?;
    server.write_all(&message).await?;
    let length = server.read_u16().await?;
    let mut answer = vec![0; length.into()];
    server.read_exact(&mut answer).await?;
    Ok(answer)
}

#[cfg(test)]
mod tests;
