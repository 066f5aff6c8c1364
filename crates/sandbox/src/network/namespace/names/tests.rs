use tokio::net::TcpListener;

use super::*;

async fn ask(guest: &mut UnixStream, number: u32, transport: Transport, text: &[u8]) {
    let frame = Header::frame(number, transport, text).unwrap();
    guest.write_all(&frame).await.unwrap();
}

async fn told(guest: &mut UnixStream) -> (u32, Vec<u8>) {
    let mut header = [0; Header::LENGTH];
    guest.read_exact(&mut header).await.unwrap();
    let header = Header::parse(header).unwrap();
    let mut answer = vec![0; header.length.into()];
    guest.read_exact(&mut answer).await.unwrap();
    (header.number, answer)
}

/// A name server, of UDP and TCP, at a port of its own.
async fn server() -> (UdpSocket, TcpListener, SocketAddrV4) {
    let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let at = udp.local_addr().unwrap();
    let tcp = TcpListener::bind(at).await.unwrap();
    let std::net::SocketAddr::V4(at) = at else {
        panic!("not of IPv4");
    };
    (udp, tcp, at)
}

#[tokio::test]
async fn questions_are_asked_as_they_were() {
    let (udp, tcp, at) = server().await;
    let (mut guest, host) = UnixStream::pair().unwrap();
    let carried = tokio::spawn(carry_to(host, at));
    ask(&mut guest, 7, Transport::Udp, b"one").await;
    let mut question = [0; 512];
    let (length, from) = udp.recv_from(&mut question).await.unwrap();
    assert_eq!(&question[..length], b"one");
    ask(&mut guest, 8, Transport::Tcp, b"two").await;
    let (mut connection, _) = tcp.accept().await.unwrap();
    let mut question = [0; 5];
    connection.read_exact(&mut question).await.unwrap();
    assert_eq!(&question, b"\0\x03two");
    connection.write_all(b"\0\x06to two").await.unwrap();
    assert_eq!(told(&mut guest).await, (8, b"to two".to_vec()));
    udp.send_to(b"to one", from).await.unwrap();
    assert_eq!(told(&mut guest).await, (7, b"to one".to_vec()));
    drop(guest);
    carried.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_server_that_is_gone_has_no_answer() {
    let (udp, tcp, at) = server().await;
    drop((udp, tcp));
    let (mut guest, host) = UnixStream::pair().unwrap();
    tokio::spawn(carry_to(host, at));
    for (number, transport) in [(1, Transport::Udp), (2, Transport::Tcp)] {
        ask(&mut guest, number, transport, b"question").await;
        assert_eq!(told(&mut guest).await, (number, Vec::new()));
    }
}

/// The connection is full long before all has been taken, whatever the guest sends.
#[tokio::test]
async fn a_flood_is_left_unread() {
    let (udp, _tcp, at) = server().await;
    let (guest, host) = UnixStream::pair().unwrap();
    tokio::spawn(carry_to(host, at));
    let mut number = 0;
    let frame = Header::frame(1, Transport::Udp, &[0; 1000]).unwrap();
    let mut question = [0; 2048];
    let mut seen = 0;
    // The server has the first ones, so the host is at work.
    while seen < MAX_QUESTIONS {
        tokio::select! {
            written = guest.writable() => {
                written.unwrap();
                // It may be full at this very moment, or take a part: then nothing more is a frame.
                if number < MAX_QUESTIONS && guest.try_write(&frame).is_ok() {
                    number += 1;
                } else {
                    tokio::task::yield_now().await;
                }
            }
            received = udp.recv_from(&mut question) => {
                received.unwrap();
                seen += 1;
            }
        }
    }
    let mut left = 0_usize;
    while let Ok(written) = guest.try_write(&frame) {
        left += written;
        assert!(left < 64 << 20, "everything is taken");
        tokio::task::yield_now().await;
    }
    assert!(udp.try_recv_from(&mut question).is_err());
}

#[tokio::test]
async fn what_is_no_question_ends_it() {
    let (_udp, _tcp, at) = server().await;
    let (mut guest, host) = UnixStream::pair().unwrap();
    guest.write_all(&[9; Header::LENGTH]).await.unwrap();
    assert!(carry_to(host, at).await.is_err());
}

#[test]
fn listening_sockets_are_read() {
    let line = "  344: 0B00007F:D5E2 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 1 2 0 0";
    let expected = "127.0.0.11:54754".parse().unwrap();
    assert_eq!(listener(line), Some(expected));
    let connected = line.replace("00000000:0000 07", "0100007F:0035 01");
    assert_eq!(listener(&connected), None);
    assert_eq!(listener("  sl  local_address rem_address   st"), None);
}

#[test]
fn an_address_is_served_where_somebody_listens() {
    let (with, without) = ([127, 72, 85, 1].into(), [127, 72, 85, 2].into());
    let _socket = std::net::UdpSocket::bind((with, 0)).unwrap();
    assert_eq!(served(&[without, with]).unwrap(), [with]);
}
