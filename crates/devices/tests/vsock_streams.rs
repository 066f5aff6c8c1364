//! Streams through the muxer and both queues.

#![allow(clippy::unwrap_used, reason = "a failure is a panic")]

mod support;

use std::io::{ErrorKind, Write};
use std::net::Shutdown;

use hull_devices::vsock::connection::BUFFER;
use hull_devices::vsock::packet::{Header, Op, SHUTDOWN_RECEIVE, SHUTDOWN_SEND};
use support::bench::{Bench, pattern, read};
use support::{CID, header};

#[test]
fn a_host_program_reaches_the_guest_and_bytes_go_both_ways() {
    let mut bench = Bench::new();
    let (mut client, mine) = bench.connect();

    client.write_all(b"to the guest").unwrap();
    let (packet, payload) = bench.next();
    assert_eq!(packet.operation(), Some(Op::Data));
    assert_eq!(
        (packet.src_cid, packet.dst_cid, packet.dst_port),
        (2, CID, 1024)
    );
    assert_eq!(payload, b"to the guest");

    bench.send(&mine.with_op(Op::Data), b"to the host");
    assert_eq!(read(&mut client), (b"to the host".to_vec(), false));
}

#[test]
fn a_greeting_may_come_byte_by_byte_and_data_right_behind_it() {
    let mut bench = Bench::new();
    let mut client = bench.client();
    for byte in b"CONNECT 7" {
        client.write_all(&[*byte]).unwrap();
        assert!(bench.try_next().is_none());
    }
    client.write_all(b"\nearly").unwrap();
    let request = bench.expect(Op::Request);
    assert_eq!(request.dst_port, 7);
    assert!(
        bench.try_next().is_none(),
        "data before the guest has accepted"
    );
    bench.send(&header(7, request.src_port).with_op(Op::Response), &[]);
    assert_eq!(bench.next().1, b"early");
}

#[test]
fn a_refusal_by_the_guest_closes_the_connection() {
    let mut bench = Bench::new();
    let mut client = bench.client();
    client.write_all(b"CONNECT 9\n").unwrap();
    let request = bench.expect(Op::Request);
    bench.send(&header(9, request.src_port).with_op(Op::Reset), &[]);
    assert_eq!(read(&mut client), (Vec::new(), true));
}

#[test]
fn a_program_that_gives_up_before_the_guest_answers_takes_its_request_back() {
    let mut bench = Bench::new();
    let mut client = bench.client();
    client.write_all(b"CONNECT 9\n").unwrap();
    let request = bench.expect(Op::Request);
    drop(client);
    let reset = bench.expect(Op::Reset);
    assert_eq!((reset.src_port, reset.dst_port), (request.src_port, 9));
}

#[test]
fn the_guest_reaches_the_program_that_listens_on_its_port() {
    let mut bench = Bench::new();
    let listener = bench.listen(1024);
    let mine = header(5000, 1024);
    bench.send(&mine.with_op(Op::Request), &[]);
    bench.expect(Op::Response);
    let (mut server, _) = listener.accept().unwrap();
    server.set_nonblocking(true).unwrap();
    bench.send(&mine.with_op(Op::Data), b"hello");
    assert_eq!(read(&mut server), (b"hello".to_vec(), false));
}

#[test]
fn a_port_that_nobody_listens_on_is_refused() {
    let mut bench = Bench::new();
    bench.send(&header(5000, 99).with_op(Op::Request), &[]);
    let reset = bench.expect(Op::Reset);
    assert_eq!((reset.src_port, reset.dst_port), (99, 5000));
}

#[test]
fn the_guest_gets_no_more_than_it_has_room_for() {
    let mut bench = Bench::new();
    let (mut client, mine) = bench.connect();
    let sent = pattern(10_000);
    let mine = Header {
        buf_alloc: 3_000,
        ..mine
    };
    bench.send(&mine.with_op(Op::CreditUpdate), &[]);
    client.write_all(&sent).unwrap();

    let mut received = Vec::new();
    while received.len() < sent.len() {
        let before = received.len();
        while let Some((_, payload)) = bench.try_next() {
            received.extend_from_slice(&payload);
        }
        let more = received.len() - before;
        assert_eq!(more, 3_000.min(sent.len() - before));
        let fwd_cnt = u32::try_from(received.len()).unwrap();
        bench.send(&Header { fwd_cnt, ..mine }.with_op(Op::CreditUpdate), &[]);
    }
    assert_eq!(received, sent);
}

#[test]
fn a_slow_host_program_loses_nothing_and_the_guest_learns_of_new_room() {
    let mut bench = Bench::new();
    let (mut client, mine) = bench.connect();
    let sent = pattern(4 * BUFFER as usize);
    let (mut offset, mut taken, mut received) = (0, 0, Vec::new());
    while received.len() < sent.len() {
        // The guest fills what it was allowed, and only then does the program read.
        while offset < sent.len() && offset - taken < BUFFER as usize {
            let room = BUFFER as usize - (offset - taken);
            let end = sent.len().min(offset + room.min(60_000));
            bench.send(&mine.with_op(Op::Data), &sent[offset..end]);
            offset = end;
            while let Some((update, _)) = bench.guest.next() {
                assert_eq!(update.operation(), Some(Op::CreditUpdate));
                taken = update.fwd_cnt as usize;
            }
        }
        received.extend(read(&mut client).0);
        bench.turn();
        while let Some((update, _)) = bench.guest.next() {
            taken = update.fwd_cnt as usize;
        }
    }
    assert_eq!(received, sent);
}

#[test]
fn a_guest_that_asks_for_credit_is_told() {
    let mut bench = Bench::new();
    let (_client, mine) = bench.connect();
    bench.send(&mine.with_op(Op::Data), b"12345");
    bench.send(&mine.with_op(Op::CreditRequest), &[]);
    let update = bench.expect(Op::CreditUpdate);
    assert_eq!((update.fwd_cnt, update.buf_alloc), (5, BUFFER));
}

#[test]
fn the_guest_ends_its_sending_and_still_receives() {
    let mut bench = Bench::new();
    let (mut client, mine) = bench.connect();
    bench.send(&mine.with_op(Op::Data), b"last");
    let shutdown = Header {
        flags: SHUTDOWN_SEND,
        ..mine
    };
    bench.send(&shutdown.with_op(Op::Shutdown), &[]);
    assert_eq!(read(&mut client), (b"last".to_vec(), true));
    client.write_all(b"answer").unwrap();
    assert_eq!(bench.next().1, b"answer");
}

#[test]
fn the_guest_ends_its_receiving_and_still_sends() {
    let mut bench = Bench::new();
    let (mut client, mine) = bench.connect();
    let shutdown = Header {
        flags: SHUTDOWN_RECEIVE,
        ..mine
    };
    bench.send(&shutdown.with_op(Op::Shutdown), &[]);
    assert_eq!(
        client.write(b"x").unwrap_err().kind(),
        ErrorKind::BrokenPipe
    );
    bench.send(&mine.with_op(Op::Data), b"still here");
    assert_eq!(read(&mut client), (b"still here".to_vec(), false));
}

#[test]
fn the_host_ends_its_sending_and_still_receives() {
    let mut bench = Bench::new();
    let (mut client, mine) = bench.connect();
    client.write_all(b"all").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(bench.next().1, b"all");
    assert_eq!(bench.expect(Op::Shutdown).flags, SHUTDOWN_SEND);
    bench.send(&mine.with_op(Op::Data), b"answer");
    assert_eq!(read(&mut client), (b"answer".to_vec(), false));
}

#[test]
fn a_host_program_that_goes_ends_both_directions_after_its_last_byte() {
    let mut bench = Bench::new();
    let (mut client, mine) = bench.connect();
    let sent = pattern(20_000);
    client.write_all(&sent).unwrap();
    drop(client);
    let (mut received, mut flags) = (Vec::new(), 0);
    while let Some((packet, payload)) = bench.try_next() {
        if packet.operation() == Some(Op::Shutdown) {
            flags |= packet.flags;
        }
        received.extend_from_slice(&payload);
    }
    assert_eq!(received, sent);
    assert_eq!(flags, SHUTDOWN_SEND | SHUTDOWN_RECEIVE);
    // The farewell of the guest ends it: the ports mean nothing any more.
    bench.send(&mine.with_op(Op::Reset), &[]);
    assert!(bench.try_next().is_none());
    bench.send(&mine.with_op(Op::Data), b"x");
    bench.expect(Op::Reset);
}

#[test]
fn what_the_guest_sent_before_it_closed_is_delivered() {
    for (op, flags) in [
        (Op::Shutdown, SHUTDOWN_SEND | SHUTDOWN_RECEIVE),
        (Op::Reset, 0),
    ] {
        let mut bench = Bench::new();
        let (mut client, mine) = bench.connect();
        let sent = pattern(BUFFER as usize);
        for chunk in sent.chunks(60_000) {
            bench.send(&mine.with_op(Op::Data), chunk);
        }
        bench.send(&Header { flags, ..mine }.with_op(op), &[]);
        let answers = std::iter::from_fn(|| bench.guest.next());
        let resets = answers
            .filter(|(header, _)| header.operation() == Some(Op::Reset))
            .count();
        assert_eq!(resets, usize::from(op == Op::Shutdown), "{op:?}");

        let mut received = Vec::new();
        let ended = loop {
            let (bytes, ended) = read(&mut client);
            received.extend_from_slice(&bytes);
            if ended || bytes.is_empty() {
                break ended;
            }
            bench.turn();
        };
        assert!(ended, "{op:?}");
        assert_eq!(received, sent, "{op:?}");
    }
}

#[test]
fn more_than_a_thousand_connections_stay_apart() {
    let mut bench = Bench::new();
    let listener = bench.listen(1024);
    let mut servers = Vec::new();
    for port in 0..1100 {
        bench.send(&header(port, 1024).with_op(Op::Request), &[]);
        bench.expect(Op::Response);
        let (server, _) = listener.accept().unwrap();
        server.set_nonblocking(true).unwrap();
        servers.push(server);
    }
    for port in 0..1100 {
        bench.send(&header(port, 1024).with_op(Op::Data), &port.to_be_bytes());
    }
    for (server, port) in servers.iter_mut().zip(0_u32..) {
        assert_eq!(read(server), (port.to_be_bytes().to_vec(), false));
    }
}

#[test]
fn a_guest_that_starts_anew_loses_its_connections_and_can_make_new_ones() {
    let mut bench = Bench::new();
    let (mut client, mine) = bench.connect();
    bench.send(&mine.with_op(Op::Data), b"sent before");
    bench.muxer.on_guest_reset();
    assert_eq!(read(&mut client), (b"sent before".to_vec(), true));
    assert!(bench.try_next().is_none());
    bench.connect();
}

#[test]
fn after_the_vmm_has_gone_only_the_backlog_is_left() {
    let mut bench = Bench::new();
    let (mut idle, _) = bench.connect();
    let (mut busy, mine) = bench.connect();
    let sent = pattern(BUFFER as usize);
    for chunk in sent.chunks(60_000) {
        bench.send(&mine.with_op(Op::Data), chunk);
    }
    bench.muxer.drain();
    assert_eq!(read(&mut idle), (Vec::new(), true));
    let mut received = Vec::new();
    while !bench.muxer.is_drained() {
        received.extend(read(&mut busy).0);
        bench.muxer.poll();
    }
    received.extend(read(&mut busy).0);
    assert_eq!(received, sent);
}

#[test]
fn bytes_keep_their_order_whatever_the_interleaving() {
    let mut bench = Bench::new();
    let (mut client, mine) = bench.connect();
    let sent = pattern(1 << 20);
    let (mut up, mut down) = (Vec::new(), Vec::new());
    let (mut written, mut offset, mut taken) = (0, 0, 0_usize);
    let mut dice = 12_345_u32;
    while up.len() < sent.len() || down.len() < sent.len() {
        dice = dice.wrapping_mul(1_103_515_245).wrapping_add(12_345);
        let size = 1 + (dice >> 8) as usize % 50_000;
        let fwd_cnt = u32::try_from(down.len()).unwrap();
        let mine = Header {
            fwd_cnt,
            buf_alloc: 40_000,
            ..mine
        };
        match dice >> 30 {
            0 => {
                let end = sent.len().min(written + size);
                written += client.write(&sent[written..end]).unwrap_or(0);
            }
            1 => up.extend(read(&mut client).0),
            2 => {
                let end = sent.len().min(offset + size);
                if end > offset && end - taken <= BUFFER as usize {
                    bench.send(&mine.with_op(Op::Data), &sent[offset..end]);
                    offset = end;
                }
            }
            _ => bench.send(&mine.with_op(Op::CreditUpdate), &[]),
        }
        while let Some((packet, payload)) = bench.try_next() {
            taken = packet.fwd_cnt as usize;
            down.extend_from_slice(&payload);
        }
    }
    assert!(up == sent && down == sent);
}
