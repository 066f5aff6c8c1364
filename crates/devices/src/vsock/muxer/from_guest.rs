//! Packets from the guest.

use vm_memory::VolatileSlice;

use super::{Entry, Muxer};
use crate::vsock::connection::{Connection, Ports, Reaction};
use crate::vsock::greeting;
use crate::vsock::packet::{self, HOST_CID, Header, Op, Parts, TYPE_STREAM};
use crate::vsock::stream::{HostStream, Progress};

/// How many resets may wait for the guest before no further packet is taken from it.
const MAX_RESETS: usize = 256;

impl Muxer {
    /// Whether packets may be taken from the guest: not while it leaves our answers lying.
    #[must_use]
    pub fn takes_packets(&self) -> bool {
        self.resets.len() < MAX_RESETS
    }

    /// Takes in a packet from the guest.
    pub fn on_packet(&mut self, header: &Header, payload: Parts<'_>) {
        if header.src_cid != self.guest_cid || header.dst_cid != HOST_CID {
            return;
        }
        let ports = Ports {
            host: header.dst_port,
            guest: header.src_port,
        };
        let Some(op) = header.operation().filter(|_| header.kind == TYPE_STREAM) else {
            return self.refuse(ports, header.kind);
        };
        let Some(&id) = self.by_ports.get(&ports) else {
            return match op {
                Op::Request => self.connect(ports, header),
                Op::Reset => {}
                _ => self.refuse(ports, header.kind),
            };
        };
        let Some(connection) = self
            .entries
            .get_mut(&id)
            .and_then(|e| e.connection.as_mut())
        else {
            return;
        };
        match connection.on_packet(op, header) {
            Reaction::None => self.flush(id),
            Reaction::Accepted => self.accepted(id, ports),
            Reaction::Deliver => self.deliver(id, payload),
            Reaction::Finished => {
                self.refuse(ports, TYPE_STREAM);
                self.unlink(id, ports);
                self.flush(id);
            }
            Reaction::Gone => {
                self.unlink(id, ports);
                self.flush(id);
            }
            Reaction::Violation => self.reset(id),
        }
    }

    /// The guest asks for a host program.
    fn connect(&mut self, ports: Ports, request: &Header) {
        if self.draining || self.entries.len() >= self.max_connections {
            return self.refuse(ports, TYPE_STREAM);
        }
        let mut path = self.uds.clone().into_os_string();
        path.push(format!("_{}", ports.host));
        let Ok(stream) = HostStream::connect(path.as_ref()) else {
            return self.refuse(ports, TYPE_STREAM);
        };
        let connection = Connection::from_guest(ports, self.guest_cid, request);
        match self.insert(stream, Some(connection)) {
            Some(id) => {
                self.by_ports.insert(ports, id);
                self.queue(id);
            }
            None => self.refuse(ports, TYPE_STREAM),
        }
    }

    /// The guest has accepted a connection from the host.
    fn accepted(&mut self, id: u64, ports: Ports) {
        let Some(Entry {
            stream: Some(stream),
            ..
        }) = self.entries.get(&id)
        else {
            return;
        };
        // The socket is empty and has room for the line, unless the program has gone.
        let line = greeting::accepted(ports.host);
        if stream.send_bytes(line.as_bytes()) == Progress::Bytes(line.len()) {
            self.flush(id);
        } else {
            self.reset(id);
        }
    }

    /// Passes data from the guest on to the host, and holds what does not fit.
    fn deliver(&mut self, id: u64, mut payload: Parts<'_>) {
        let Some(Entry {
            stream,
            connection: Some(connection),
            ..
        }) = self.entries.get_mut(&id)
        else {
            return;
        };
        let len: usize = payload.iter().map(VolatileSlice::len).sum();
        let Some(stream) = stream.as_ref().filter(|_| connection.host_receives()) else {
            connection.passed_on(len);
            return self.queue(id);
        };
        if len > 0 && connection.backlog().is_empty() {
            match stream.send(&payload) {
                Progress::Bytes(count) => {
                    connection.passed_on(count);
                    packet::advance(&mut payload, count);
                }
                Progress::Blocked => {}
                Progress::Ended => {
                    connection.passed_on(len);
                    connection.on_host_deaf();
                    payload.clear();
                }
            }
        }
        for part in &payload {
            part.copy_to(connection.hold(part.len()));
        }
        self.queue(id);
    }
}
