//! The muxer and both queues, with a guest in memory and real sockets.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};

use hull_devices::vsock::muxer::Muxer;
use hull_devices::vsock::packet::{Header, Op};
use hull_devices::vsock::queues::{serve_receive, serve_transmit};
use tempfile::TempDir;
use virtio_queue::Queue;

use super::{CID, Guest, header};

/// Everything between a host program and a guest program.
pub struct Bench {
    pub directory: TempDir,
    pub muxer: Muxer,
    pub receive: Queue,
    pub transmit: Queue,
    pub guest: Guest,
}

impl Bench {
    pub fn new() -> Self {
        Self::with_limit(4096)
    }

    pub fn with_limit(connections: usize) -> Self {
        Self::build(connections, 256)
    }

    pub fn with_buffers(buffers: u16) -> Self {
        Self::build(4096, buffers)
    }

    pub fn build(connections: usize, buffers: u16) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let uds = directory.path().join("vsock");
        let listener = UnixListener::bind(&uds).unwrap();
        let mut guest = Guest::in_memory();
        guest.post(0..buffers);
        Self {
            muxer: Muxer::new(CID, listener.into(), uds, connections).unwrap(),
            receive: guest.receive.queue(),
            transmit: guest.transmit.queue(),
            directory,
            guest,
        }
    }

    /// The device's turn, until there is nothing more to do.
    pub fn turn(&mut self) {
        loop {
            let events = self.muxer.poll();
            let memory = &self.guest.memory;
            let sent = serve_transmit(&mut self.muxer, &mut self.transmit, memory).unwrap();
            let received = serve_receive(&mut self.muxer, &mut self.receive, memory).unwrap();
            if !events && !sent && !received {
                break;
            }
        }
    }

    pub fn next(&mut self) -> (Header, Vec<u8>) {
        self.try_next().expect("no packet for the guest")
    }

    pub fn try_next(&mut self) -> Option<(Header, Vec<u8>)> {
        self.turn();
        self.guest.next()
    }

    pub fn expect(&mut self, op: Op) -> Header {
        let (header, _) = self.next();
        assert_eq!(header.operation(), Some(op), "{header:?}");
        header
    }

    pub fn send(&mut self, header: &Header, payload: &[u8]) {
        let len = u32::try_from(payload.len()).unwrap();
        self.guest.send(&Header { len, ..*header }, payload);
        self.turn();
    }

    pub fn client(&self) -> UnixStream {
        let client = UnixStream::connect(self.directory.path().join("vsock")).unwrap();
        client.set_nonblocking(true).unwrap();
        client
    }

    pub fn listen(&self, port: u32) -> UnixListener {
        UnixListener::bind(self.directory.path().join(format!("vsock_{port}"))).unwrap()
    }

    /// A host program and the guest's header of a connection that both have agreed to.
    pub fn connect(&mut self) -> (UnixStream, Header) {
        let mut client = self.client();
        client.write_all(b"CONNECT 1024\n").unwrap();
        let request = self.expect(Op::Request);
        let mine = header(1024, request.src_port);
        self.send(&mine.with_op(Op::Response), &[]);
        let answer = format!("OK {}\n", request.src_port);
        assert_eq!(read(&mut client), (answer.into_bytes(), false));
        (client, mine)
    }
}

/// What there is to read, and whether it ended.
pub fn read(stream: &mut UnixStream) -> (Vec<u8>, bool) {
    let mut all = Vec::new();
    let mut buffer = [0; 65536];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return (all, true),
            Ok(count) => all.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return (all, false),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return (all, true),
            Err(error) => panic!("{error}"),
        }
    }
}

/// Bytes that are different everywhere.
pub fn pattern(len: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    (0..len).map(|_| next()).collect()
}
