//! All connections: which socket and which ports belong together, and whose turn it is.

mod from_guest;
mod to_guest;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::connection::{Connection, Ports, State};
use super::greeting::{self, Greeting};
use super::packet::{Header, Op, TYPE_STREAM};
use super::stream::{self, HostStream, Progress};
pub use to_guest::Demand;

/// The listener's token; connections count up from 1.
const LISTENER: u64 = 0;
/// Host ports of connections from the host are this and above, so that they cannot be mistaken for a
/// service.
const FIRST_HOST_PORT: u32 = 1 << 30;
/// Buffers for a connection that had little to send the last time.
const SMALL_BURST: usize = 2;
/// Events taken from the kernel at once.
const EVENTS: usize = 64;

/// A host socket and the connection that it has, if it has said to where.
#[derive(Debug)]
struct Entry {
    /// `None` once the host's program has gone.
    stream: Option<HostStream>,
    /// `None` while the greeting is not complete.
    connection: Option<Connection>,
    /// There may be bytes to read, or an end.
    readable: bool,
    /// It waits for its turn to send to the guest.
    queued: bool,
    /// The number of buffers to fill in the next turn.
    burst: usize,
}

/// A refusal that the guest is to get.
#[derive(Debug)]
struct Reset {
    ports: Ports,
    kind: u16,
}

/// The connections of one guest.
#[derive(Debug)]
pub struct Muxer {
    guest_cid: u64,
    uds: PathBuf,
    max_connections: usize,
    listener: Option<OwnedFd>,
    epoll: Epoll,
    entries: HashMap<u64, Entry>,
    by_ports: HashMap<Ports, u64>,
    turns: VecDeque<u64>,
    resets: VecDeque<Reset>,
    next_id: u64,
    next_port: u32,
    draining: bool,
}

impl Muxer {
    /// Takes connections to the guest from `listener`, and connects the guest's to the sockets
    /// `<uds>_<port>`.
    ///
    /// # Errors
    /// When the kernel has no room for an event queue.
    pub fn new(
        guest_cid: u64,
        listener: OwnedFd,
        uds: PathBuf,
        max_connections: usize,
    ) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        stream::set_nonblocking(listener.as_fd())?;
        let events = EpollEvent::new(EventSet::IN | EventSet::EDGE_TRIGGERED, LISTENER);
        epoll.ctl(ControlOperation::Add, listener.as_raw_fd(), events)?;
        Ok(Self {
            guest_cid,
            uds,
            max_connections,
            listener: Some(listener),
            epoll,
            entries: HashMap::new(),
            by_ports: HashMap::new(),
            turns: VecDeque::new(),
            resets: VecDeque::new(),
            next_id: LISTENER + 1,
            next_port: FIRST_HOST_PORT,
            draining: false,
        })
    }

    /// The event queue: readable when [`Self::poll`] has something to do.
    #[must_use]
    pub fn epoll(&self) -> &Epoll {
        &self.epoll
    }

    /// Takes in what has happened on the host's side; false if nothing has.
    pub fn poll(&mut self) -> bool {
        let mut events = [EpollEvent::default(); EVENTS];
        // Without waiting it fails only if the descriptor is none.
        let count = self.epoll.wait(0, &mut events).unwrap_or(0);
        for event in &events[..count] {
            match event.data() {
                LISTENER => self.accept(),
                id => self.on_event(id, event.event_set()),
            }
        }
        count > 0
    }

    fn accept(&mut self) {
        while let Some(listener) = &self.listener {
            match HostStream::accept(listener.as_fd()) {
                // Beyond the limit a connection is closed at once rather than left without an answer.
                Ok(stream) if self.entries.len() < self.max_connections => {
                    self.insert(stream, None);
                }
                Ok(_) | Err(nix::errno::Errno::ECONNABORTED) => {}
                Err(_) => return,
            }
        }
    }

    fn insert(&mut self, stream: HostStream, connection: Option<Connection>) -> Option<u64> {
        let id = self.next_id;
        self.next_id += 1;
        let set = EventSet::IN | EventSet::OUT | EventSet::READ_HANG_UP | EventSet::EDGE_TRIGGERED;
        // Without an event queue the connection cannot live, and closes.
        let fd = stream.as_fd().as_raw_fd();
        self.epoll
            .ctl(ControlOperation::Add, fd, EpollEvent::new(set, id))
            .ok()?;
        let entry = Entry {
            stream: Some(stream),
            connection,
            readable: false,
            queued: false,
            burst: SMALL_BURST,
        };
        self.entries.insert(id, entry);
        Some(id)
    }

    fn on_event(&mut self, id: u64, events: EventSet) {
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        if events.intersects(EventSet::IN | EventSet::READ_HANG_UP | EventSet::HANG_UP) {
            entry.readable = true;
        }
        let gone = events.intersects(EventSet::HANG_UP | EventSet::ERROR);
        match &mut entry.connection {
            None if gone => self.remove(id),
            None => self.greet(id),
            Some(connection) => {
                if gone {
                    match connection.state() {
                        State::Requested => return self.remove(id),
                        State::Asked => return self.reset(id),
                        State::Established | State::Draining => connection.on_host_deaf(),
                    }
                }
                self.flush(id);
            }
        }
    }

    /// Reads the greeting of a new host connection, if it has come in full.
    fn greet(&mut self, id: u64) {
        let Some(Entry {
            stream: Some(stream),
            ..
        }) = self.entries.get(&id)
        else {
            return;
        };
        let mut bytes = [0; greeting::MAX_LINE];
        let count = match stream.peek(&mut bytes) {
            Progress::Bytes(count) => count,
            Progress::Blocked => return,
            Progress::Ended => return self.remove(id),
        };
        match greeting::parse(&bytes[..count]) {
            Greeting::Incomplete => {}
            Greeting::Invalid => self.remove(id),
            Greeting::Connect { port, len } => {
                if stream.take(&mut bytes[..len]) != Progress::Bytes(len) {
                    return self.remove(id);
                }
                let ports = Ports {
                    host: self.free_port(port),
                    guest: port,
                };
                let connection = Connection::to_guest(ports, self.guest_cid);
                self.by_ports.insert(ports, id);
                if let Some(entry) = self.entries.get_mut(&id) {
                    entry.connection = Some(connection);
                }
                self.queue(id);
            }
        }
    }

    /// A host port that no connection to the guest's `guest` port has. There are far more ports than
    /// connections.
    fn free_port(&mut self, guest: u32) -> u32 {
        loop {
            let host = self.next_port;
            self.next_port = host.checked_add(1).unwrap_or(FIRST_HOST_PORT);
            if !self.by_ports.contains_key(&Ports { host, guest }) {
                return host;
            }
        }
    }

    /// Writes what is held for the host, and ends the directions that the guest has ended.
    fn flush(&mut self, id: u64) {
        let Some(Entry {
            stream,
            connection: Some(connection),
            ..
        }) = self.entries.get_mut(&id)
        else {
            return;
        };
        if let Some(stream) = stream {
            while !connection.backlog().is_empty() {
                match stream.send_bytes(connection.backlog()) {
                    Progress::Bytes(count) => connection.release(count),
                    Progress::Blocked => break,
                    Progress::Ended => connection.on_host_deaf(),
                }
            }
            if connection.is_delivered() {
                stream.end_sending();
            }
            if connection.is_unheard() {
                stream.end_receiving();
            }
        }
        if connection.state() == State::Draining && connection.backlog().is_empty() {
            self.remove(id);
        } else {
            self.queue(id);
        }
    }

    /// Gives a connection its turn if it has something for the guest.
    fn queue(&mut self, id: u64) {
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        let Some(connection) = &entry.connection else {
            return;
        };
        let has_data = entry.readable && connection.credit() > 0;
        if !entry.queued && (has_data || connection.owed().is_some()) {
            entry.queued = true;
            self.turns.push_back(id);
        }
    }

    /// Forgets every connection that the guest knows of: its driver starts anew.
    pub fn on_guest_reset(&mut self) {
        self.resets.clear();
        let known: Vec<u64> = self
            .entries
            .iter()
            .filter(|(_, entry)| {
                let state = entry.connection.as_ref().map(Connection::state);
                matches!(state, Some(State::Asked | State::Established))
            })
            .map(|(&id, _)| id)
            .collect();
        for id in known {
            self.abandon(id);
        }
    }

    /// The guest has gone for good: only what it sent is still delivered.
    pub fn drain(&mut self) {
        self.draining = true;
        self.listener = None;
        let all: Vec<u64> = self.entries.keys().copied().collect();
        for id in all {
            self.abandon(id);
        }
    }

    /// Whether there is nothing left to deliver after [`Self::drain`].
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.draining && self.entries.is_empty()
    }

    /// Treats a connection as if the guest had reset it.
    fn abandon(&mut self, id: u64) {
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        match &mut entry.connection {
            None => self.remove(id),
            Some(connection) => {
                connection.on_packet(Op::Reset, &Header::default());
                let ports = connection.ports();
                self.unlink(id, ports);
                self.flush(id);
            }
        }
    }

    /// Ends a connection and tells the guest.
    fn reset(&mut self, id: u64) {
        if let Some(connection) = self.entries.get(&id).and_then(|e| e.connection.as_ref()) {
            let ports = connection.ports();
            self.refuse(ports, TYPE_STREAM);
        }
        self.remove(id);
    }

    fn refuse(&mut self, ports: Ports, kind: u16) {
        self.resets.push_back(Reset { ports, kind });
    }

    /// Closes a connection's socket and forgets it.
    fn remove(&mut self, id: u64) {
        if let Some(entry) = self.entries.remove(&id)
            && let Some(connection) = entry.connection
        {
            self.unlink(id, connection.ports());
        }
    }

    /// Frees the ports of a connection, which another one may have by now.
    fn unlink(&mut self, id: u64, ports: Ports) {
        if self.by_ports.get(&ports) == Some(&id) {
            self.by_ports.remove(&ports);
        }
    }
}
