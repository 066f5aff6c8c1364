use tokio::net::TcpStream;

use super::*;

/// A relay at a free port, and the host's side of it.
async fn relay() -> (SocketAddr, SocketAddr, UnixStream) {
    let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let at = (udp.local_addr().unwrap(), tcp.local_addr().unwrap());
    tokio::spawn(carry(udp, tcp, ours));
    (at.0, at.1, theirs)
}

async fn question(host: &mut UnixStream) -> (Header, Vec<u8>) {
    let mut header = [0; Header::LENGTH];
    host.read_exact(&mut header).await.unwrap();
    let header = Header::parse(header).unwrap();
    let mut message = vec![0; header.length.into()];
    host.read_exact(&mut message).await.unwrap();
    (header, message)
}

async fn answer(host: &mut UnixStream, to: Header, message: &[u8]) {
    let frame = Header::frame(to.number, to.transport, message).unwrap();
    host.write_all(&frame).await.unwrap();
}

async fn client(server: SocketAddr) -> UdpSocket {
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    client.connect(server).await.unwrap();
    client
}

async fn receive(client: &UdpSocket) -> Vec<u8> {
    let mut buffer = [0; 512];
    let length = client.recv(&mut buffer).await.unwrap();
    buffer[..length].to_vec()
}

#[tokio::test]
async fn each_gets_the_answer_to_its_own_question() {
    let (udp, tcp, mut host) = relay().await;
    let one = client(udp).await;
    one.send(b"question of one").await.unwrap();
    let (first, text) = question(&mut host).await;
    assert_eq!(text, b"question of one");
    assert_eq!(first.transport, Transport::Udp);
    let mut two = TcpStream::connect(tcp).await.unwrap();
    two.write_all(b"\0\x03two").await.unwrap();
    let (second, text) = question(&mut host).await;
    assert_eq!(text, b"two");
    assert_eq!(second.transport, Transport::Tcp);
    // Not in their order.
    answer(&mut host, second, b"to two").await;
    answer(&mut host, first, b"to one").await;
    let mut told = [0; 8];
    two.read_exact(&mut told).await.unwrap();
    assert_eq!(&told, b"\0\x06to two");
    assert_eq!(receive(&one).await, b"to one");
}

#[tokio::test]
async fn who_gets_no_answer_is_told() {
    let (udp, _, mut host) = relay().await;
    let one = client(udp).await;
    let asked = b"\x12\x34\x01\x00\0\x01\0\0\0\0\0\0\x01a\0\0\x01\0\x01";
    one.send(asked).await.unwrap();
    let (header, _) = question(&mut host).await;
    answer(&mut host, header, b"").await;
    let failure = b"\x12\x34\x81\x02\0\x01\0\0\0\0\0\0\x01a\0\0\x01\0\x01";
    assert_eq!(receive(&one).await, failure);
}

#[tokio::test]
async fn the_host_is_not_asked_too_much() {
    let (udp, tcp, mut host) = relay().await;
    let one = client(udp).await;
    let mut first = None;
    for number in 0..MAX_DATAGRAMS {
        one.send(format!("{number}").as_bytes()).await.unwrap();
        let (header, _) = question(&mut host).await;
        first.get_or_insert(header);
    }
    one.send(b"one too many").await.unwrap();
    let mut two = TcpStream::connect(tcp).await.unwrap();
    two.write_all(b"\0\x03two").await.unwrap();
    assert_eq!(question(&mut host).await.1, b"two");
    answer(&mut host, first.unwrap(), b"there is room again").await;
    assert_eq!(receive(&one).await, b"there is room again");
}

#[tokio::test]
async fn an_address_is_served_anew() {
    let names = Names::default();
    let address = Ipv4Addr::new(127, 72, 85, 53);
    if let Err(error) = UdpSocket::bind((address, PORT)).await {
        eprintln!("not run: port {PORT} is not for everybody: {error}");
        return;
    }
    let mut hosts = Vec::new();
    for _ in 0..2 {
        let (ours, theirs) = UnixStream::pair().unwrap();
        names.replace(address, ours).await.unwrap();
        hosts.push(theirs);
    }
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    client.send_to(b"question", (address, PORT)).await.unwrap();
    assert_eq!(question(&mut hosts[1]).await.1, b"question");
    assert_eq!(hosts[0].read(&mut [0]).await.unwrap(), 0);
}
