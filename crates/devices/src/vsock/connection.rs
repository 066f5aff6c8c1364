//! One connection between a host program and a guest program: its state, its credit, and what each
//! side is still to be told. No input or output happens here.
//!
//! Bytes to the guest are never held: they stay in the host's socket until the guest has both credit
//! and a buffer. Bytes from the guest go to the host's socket at once; what does not fit there is held
//! in the backlog, which the credit given to the guest bounds.

use super::packet::{HOST_CID, Header, Op, SHUTDOWN_RECEIVE, SHUTDOWN_SEND, TYPE_STREAM};

/// How many bytes of a connection the guest may have on their way to the host's socket.
pub const BUFFER: u32 = 256 * 1024;

/// The two ends of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ports {
    /// On the host.
    pub host: u32,
    /// In the guest.
    pub guest: u32,
}

/// Where a connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// The host's program wants the connection. The guest has not been told.
    Requested,
    /// The guest has been told and has not answered.
    Asked,
    /// Both have agreed. Directions end one by one.
    Established,
    /// The guest has forgotten the connection. The backlog is still to reach the host.
    Draining,
}

/// What a packet from the guest calls for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reaction {
    /// Nothing beyond what the connection notes down for itself.
    None,
    /// The guest has accepted: the host's program is to be told.
    Accepted,
    /// The payload is to go to the host.
    Deliver,
    /// The guest has finished with both directions and waits for a reset. What it sent is good.
    Finished,
    /// The guest has ended the connection and wants no answer. What it sent is good.
    Gone,
    /// The guest broke the protocol: the connection is to be reset.
    Violation,
}

/// A connection.
#[derive(Debug)]
pub struct Connection {
    ports: Ports,
    guest_cid: u64,
    state: State,
    backlog: Vec<u8>,
    /// How much of the backlog has reached the host.
    released: usize,
    /// Which directions are open: bytes flow from the guest while it sends and the host receives.
    guest_sends: bool,
    guest_receives: bool,
    host_sends: bool,
    host_receives: bool,
    /// What the guest is to be told, besides the state's own packet.
    owes_response: bool,
    owes_credit: bool,
    owes_shutdown: bool,
    /// What the guest said about its buffer.
    guest_buffer: u32,
    guest_taken: u32,
    /// Bytes sent to the guest, received from it, and passed on to the host, modulo 2^32.
    sent: u32,
    received: u32,
    passed_on: u32,
    /// The last `passed_on` that the guest was told.
    told: u32,
}

impl Connection {
    /// A connection that a host program asks for.
    #[must_use]
    pub fn to_guest(ports: Ports, guest_cid: u64) -> Self {
        Self {
            ports,
            guest_cid,
            state: State::Requested,
            backlog: Vec::new(),
            released: 0,
            guest_sends: true,
            guest_receives: true,
            host_sends: true,
            host_receives: true,
            owes_response: false,
            owes_credit: false,
            owes_shutdown: false,
            guest_buffer: 0,
            guest_taken: 0,
            sent: 0,
            received: 0,
            passed_on: 0,
            told: 0,
        }
    }

    /// A connection that the guest asks for by `request`, and that a host program has accepted.
    #[must_use]
    pub fn from_guest(ports: Ports, guest_cid: u64, request: &Header) -> Self {
        Self {
            state: State::Established,
            owes_response: true,
            guest_buffer: request.buf_alloc,
            guest_taken: request.fwd_cnt,
            ..Self::to_guest(ports, guest_cid)
        }
    }

    /// The two ends.
    #[must_use]
    pub fn ports(&self) -> Ports {
        self.ports
    }

    /// Where it stands.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// Notes down what a packet from the guest says.
    pub fn on_packet(&mut self, op: Op, header: &Header) -> Reaction {
        self.guest_buffer = header.buf_alloc;
        self.guest_taken = header.fwd_cnt;
        match (self.state, op) {
            (State::Requested | State::Asked | State::Established, Op::Reset) => {
                self.state = State::Draining;
                Reaction::Gone
            }
            (State::Asked, Op::Response) => {
                self.state = State::Established;
                Reaction::Accepted
            }
            (State::Established, Op::Data) => self.on_data(header.len),
            (State::Established, Op::Shutdown) => self.on_shutdown(header.flags),
            (State::Established, Op::CreditUpdate) => Reaction::None,
            (State::Established, Op::CreditRequest) => {
                self.owes_credit = true;
                Reaction::None
            }
            (State::Established, Op::Request | Op::Response)
            | (State::Requested, _)
            | (State::Asked, _)
            | (State::Draining, _) => Reaction::Violation,
        }
    }

    fn on_data(&mut self, len: u32) -> Reaction {
        let held = self.received.wrapping_sub(self.passed_on);
        if !self.guest_sends || len > BUFFER.saturating_sub(held) {
            return Reaction::Violation;
        }
        self.received = self.received.wrapping_add(len);
        Reaction::Deliver
    }

    fn on_shutdown(&mut self, flags: u32) -> Reaction {
        self.guest_sends &= flags & SHUTDOWN_SEND == 0;
        self.guest_receives &= flags & SHUTDOWN_RECEIVE == 0;
        if self.guest_sends || self.guest_receives {
            return Reaction::None;
        }
        self.state = State::Draining;
        Reaction::Finished
    }

    /// Whether bytes from the guest may go to the host: nobody reads them otherwise.
    #[must_use]
    pub fn host_receives(&self) -> bool {
        self.host_receives
    }

    /// Whether the guest has ended its sending and all that it sent has reached the host.
    #[must_use]
    pub fn is_delivered(&self) -> bool {
        !self.guest_sends && self.backlog().is_empty()
    }

    /// Whether the guest has said that it receives no more.
    #[must_use]
    pub fn is_unheard(&self) -> bool {
        !self.guest_receives
    }

    /// Whether the host is through with both directions.
    #[must_use]
    pub fn host_is_done(&self) -> bool {
        !self.host_sends && !self.host_receives
    }

    /// Bytes that wait for room in the host's socket.
    #[must_use]
    pub fn backlog(&self) -> &[u8] {
        &self.backlog[self.released..]
    }

    /// Room at the end of the backlog for `len` bytes that the host's socket had no room for.
    pub fn hold(&mut self, len: usize) -> &mut [u8] {
        if self.released >= self.backlog.len() / 2 {
            self.backlog.drain(..self.released);
            self.released = 0;
        }
        let start = self.backlog.len();
        self.backlog.resize(start + len, 0);
        &mut self.backlog[start..]
    }

    /// `count` bytes from the guest have reached the host's socket without being held.
    pub fn passed_on(&mut self, count: usize) {
        self.passed_on = self.passed_on.wrapping_add(count_of(count));
    }

    /// The first `count` bytes of the backlog have reached the host's socket.
    pub fn release(&mut self, count: usize) {
        self.released += count;
        if self.released == self.backlog.len() {
            // Most connections never need a backlog again.
            self.backlog = Vec::new();
            self.released = 0;
        }
        self.passed_on(count);
    }

    /// The host's program sends no more.
    pub fn on_host_ended(&mut self) {
        self.owes_shutdown |= self.host_sends;
        self.host_sends = false;
    }

    /// The host's program receives no more. What was held for it is gone.
    pub fn on_host_deaf(&mut self) {
        self.owes_shutdown |= self.host_receives;
        self.host_receives = false;
        self.release(self.backlog().len());
    }

    /// How many bytes may be read from the host's socket for the guest.
    #[must_use]
    pub fn credit(&self) -> u32 {
        if self.state != State::Established || !self.guest_receives || !self.host_sends {
            return 0;
        }
        let in_flight = self.sent.wrapping_sub(self.guest_taken);
        self.guest_buffer.saturating_sub(in_flight)
    }

    /// The next packet without data that the guest is to get.
    #[must_use]
    pub fn owed(&self) -> Option<Op> {
        match self.state {
            State::Requested => Some(Op::Request),
            State::Asked | State::Draining => None,
            State::Established if self.owes_response => Some(Op::Response),
            State::Established if self.owes_shutdown => Some(Op::Shutdown),
            State::Established if self.owes_credit || self.credit_is_stale() => {
                Some(Op::CreditUpdate)
            }
            State::Established => None,
        }
    }

    /// Half of the buffer is free again and the guest does not know.
    fn credit_is_stale(&self) -> bool {
        self.guest_sends && self.passed_on.wrapping_sub(self.told) >= BUFFER / 2
    }

    /// The header of the packet that [`Self::owed`] named. It counts as sent.
    pub fn send_owed(&mut self, op: Op) -> Header {
        let mut flags = 0;
        match op {
            Op::Request => self.state = State::Asked,
            Op::Response => self.owes_response = false,
            Op::Shutdown => {
                self.owes_shutdown = false;
                flags |= if self.host_sends { 0 } else { SHUTDOWN_SEND };
                flags |= if self.host_receives {
                    0
                } else {
                    SHUTDOWN_RECEIVE
                };
            }
            Op::CreditUpdate => self.owes_credit = false,
            Op::Reset | Op::Data | Op::CreditRequest => {}
        }
        Header {
            flags,
            ..self.header(op)
        }
    }

    /// The header of a packet with `len` bytes for the guest. They count as sent.
    pub fn send_data(&mut self, len: u32) -> Header {
        self.sent = self.sent.wrapping_add(len);
        Header {
            len,
            ..self.header(Op::Data)
        }
    }

    fn header(&mut self, op: Op) -> Header {
        self.told = self.passed_on;
        Header {
            buf_alloc: BUFFER,
            fwd_cnt: self.passed_on,
            ..header_to(self.ports, self.guest_cid, TYPE_STREAM).with_op(op)
        }
    }
}

/// The parts of a header that every packet to the guest needs.
#[must_use]
pub fn header_to(ports: Ports, guest_cid: u64, kind: u16) -> Header {
    Header {
        src_cid: HOST_CID,
        dst_cid: guest_cid,
        src_port: ports.host,
        dst_port: ports.guest,
        kind,
        ..Header::default()
    }
}

/// A count as the protocol keeps it: modulo 2^32.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the protocol's counters wrap around"
)]
fn count_of(bytes: usize) -> u32 {
    bytes as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPS: [Op; 7] = [
        Op::Request,
        Op::Response,
        Op::Reset,
        Op::Shutdown,
        Op::Data,
        Op::CreditUpdate,
        Op::CreditRequest,
    ];
    const PORTS: Ports = Ports { host: 1, guest: 2 };

    fn in_state(state: State) -> Connection {
        let mut connection = Connection::to_guest(PORTS, 3);
        connection.state = state;
        connection
    }

    #[test]
    fn every_packet_in_every_state() {
        use Reaction::{Accepted, Deliver, Gone, None, Violation};
        let table = [
            (
                State::Requested,
                [
                    Violation, Violation, Gone, Violation, Violation, Violation, Violation,
                ],
            ),
            (
                State::Asked,
                [
                    Violation, Accepted, Gone, Violation, Violation, Violation, Violation,
                ],
            ),
            (
                State::Established,
                [Violation, Violation, Gone, None, Deliver, None, None],
            ),
            (State::Draining, [Violation; 7]),
        ];
        for (state, reactions) in table {
            for (op, reaction) in OPS.into_iter().zip(reactions) {
                let mut connection = in_state(state);
                let header = Header::default();
                assert_eq!(
                    connection.on_packet(op, &header),
                    reaction,
                    "{op:?} in {state:?}"
                );
            }
        }
    }

    #[test]
    fn credit_survives_the_counters_wrapping_around() {
        let mut connection = in_state(State::Established);
        let tell = |fwd_cnt| Header {
            buf_alloc: 100,
            fwd_cnt,
            ..Header::default()
        };
        connection.sent = u32::MAX - 9;
        connection.on_packet(Op::CreditUpdate, &tell(u32::MAX - 9));
        assert_eq!(connection.credit(), 100);
        connection.send_data(60);
        assert_eq!(connection.credit(), 40);
        connection.on_packet(Op::CreditUpdate, &tell(20));
        assert_eq!(connection.credit(), 70);
    }

    #[test]
    fn a_guest_that_lies_about_its_buffer_gets_nothing() {
        let mut connection = in_state(State::Established);
        connection.send_data(50);
        for (buf_alloc, fwd_cnt) in [(0, 0), (49, 0), (100, 51), (u32::MAX - 1, 51)] {
            let header = Header {
                buf_alloc,
                fwd_cnt,
                ..Header::default()
            };
            connection.on_packet(Op::CreditUpdate, &header);
            assert_eq!(connection.credit(), 0, "{buf_alloc} {fwd_cnt}");
        }
    }

    #[test]
    fn data_after_the_end_of_sending_is_a_violation() {
        let mut connection = in_state(State::Established);
        let end = Header {
            flags: SHUTDOWN_SEND,
            ..Header::default()
        };
        assert_eq!(connection.on_packet(Op::Shutdown, &end), Reaction::None);
        assert_eq!(
            connection.on_packet(Op::Data, &Header::default()),
            Reaction::Violation
        );
    }

    #[test]
    fn the_second_half_of_a_farewell_finishes() {
        for flags in [
            [SHUTDOWN_SEND, SHUTDOWN_RECEIVE],
            [SHUTDOWN_RECEIVE, SHUTDOWN_SEND],
        ] {
            let mut connection = in_state(State::Established);
            let reactions = flags.map(|flags| {
                connection.on_packet(
                    Op::Shutdown,
                    &Header {
                        flags,
                        ..Header::default()
                    },
                )
            });
            assert_eq!(reactions, [Reaction::None, Reaction::Finished]);
            assert_eq!(connection.state(), State::Draining);
        }
    }
}
