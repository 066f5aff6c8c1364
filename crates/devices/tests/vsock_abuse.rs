//! What a guest or a host program must not get away with.

#![allow(clippy::unwrap_used, reason = "a failure is a panic")]

mod support;

use std::io::Write;

use hull_devices::vsock::packet::{Header, Op};
use hull_devices::vsock::queues::serve_transmit;
use support::bench::{Bench, read};
use support::{Guest, NEXT, WRITE, header};
use virtio_queue::desc::split::Descriptor;
use vm_memory::{Bytes, GuestAddress};

#[test]
fn a_wrong_greeting_closes_the_connection() {
    let mut bench = Bench::new();
    for greeting in [
        "GET / HTTP/1.1\r\n",
        "CONNECT x\n",
        "CONNECT 00000000000000000001\n",
    ] {
        let mut client = bench.client();
        client.write_all(greeting.as_bytes()).unwrap();
        bench.turn();
        assert_eq!(read(&mut client), (Vec::new(), true), "{greeting}");
    }
    assert!(bench.try_next().is_none());
}

#[test]
fn a_guest_that_sends_more_than_it_may_is_cut_off() {
    let mut bench = Bench::new();
    let (_client, mine) = bench.connect();
    let chunk = vec![0; 65_536];
    // The socket takes some, the backlog 256 KiB.
    let reset = (0..64).find_map(|_| {
        bench.send(&mine.with_op(Op::Data), &chunk);
        let mut packets = std::iter::from_fn(|| bench.guest.next());
        packets.find(|(header, _)| header.operation() == Some(Op::Reset))
    });
    assert!(reset.is_some());
}

#[test]
fn packets_that_make_no_sense_do_no_harm() {
    let mut bench = Bench::new();
    let (mut client, mine) = bench.connect();
    let unknown = header(77, 88);
    // Not for us, or not from the guest: nobody to answer.
    bench.send(&Header { dst_cid: 1, ..mine }.with_op(Op::Data), b"x");
    bench.send(&Header { src_cid: 9, ..mine }.with_op(Op::Data), b"x");
    assert!(bench.try_next().is_none());
    // A packet of no connection is refused, a reset of none is not.
    bench.send(&unknown.with_op(Op::Reset), &[]);
    assert!(bench.try_next().is_none());
    for op in [
        Op::Data,
        Op::Response,
        Op::Shutdown,
        Op::CreditUpdate,
        Op::CreditRequest,
    ] {
        bench.send(&unknown.with_op(op), &[]);
        bench.expect(Op::Reset);
    }
    // Neither the operation nor the type exists.
    bench.send(&Header { op: 0, ..unknown }, &[]);
    bench.expect(Op::Reset);
    bench.send(&Header { kind: 2, ..unknown }.with_op(Op::Request), &[]);
    assert_eq!(bench.expect(Op::Reset).kind, 2);
    // A length that is a lie.
    bench.guest.send(
        &Header {
            len: u32::MAX,
            ..mine
        }
        .with_op(Op::Data),
        b"x",
    );
    assert!(bench.try_next().is_none());

    bench.send(&mine.with_op(Op::Data), b"fine");
    assert_eq!(read(&mut client), (b"fine".to_vec(), false));
}

#[test]
fn chains_that_make_no_sense_do_no_harm() {
    let mut bench = Bench::new();
    let (mut client, mine) = bench.connect();
    let slot = Guest::slot(0).0;
    let chains = [
        Descriptor::new(slot, 43, 0, 0),
        Descriptor::new(slot, 0, 0, 0),
        Descriptor::new(slot, 44, WRITE, 0),
        Descriptor::new(u64::MAX - 10, 44, 0, 0),
        Descriptor::new(slot, u32::MAX, 0, 0),
        // A chain that leads back to itself, and one that leads nowhere.
        Descriptor::new(slot, 10, NEXT, 31),
        Descriptor::new(slot, 10, NEXT, 999),
        // A table of descriptors outside the memory.
        Descriptor::new(u64::MAX - 100, 64, 4, 0),
    ];
    for chain in chains {
        bench
            .guest
            .transmit
            .describe(&bench.guest.memory, 31, chain);
        bench.guest.transmit.offer(&bench.guest.memory, 31);
        bench.turn();
        assert_eq!(
            bench.guest.transmit.take(&bench.guest.memory),
            Some((31, 0)),
            "{chain:?}"
        );
        assert!(bench.try_next().is_none());
    }
    // A head outside the table.
    bench.guest.transmit.offer(&bench.guest.memory, 32);
    let memory = &bench.guest.memory;
    serve_transmit(&mut bench.muxer, &mut bench.transmit, memory).unwrap_err();

    bench.guest.free_chain();
    bench.send(&mine.with_op(Op::Data), b"fine");
    assert_eq!(read(&mut client), (b"fine".to_vec(), false));
}

#[test]
fn a_packet_may_be_spread_over_descriptors_in_any_way() {
    let mut bench = Bench::new();
    let (mut client, mine) = bench.connect();
    let mut bytes = Header { len: 6, ..mine }
        .with_op(Op::Data)
        .to_bytes()
        .to_vec();
    bytes.extend_from_slice(b"pieces");
    let memory = bench.guest.memory.clone();
    let slot = Guest::slot(20).0;
    let mut address = slot;
    // 30 + 16 + 4: the header is cut, and so is what follows.
    for (index, (from, to)) in [(0, 30), (30, 46), (46, 50)].into_iter().enumerate() {
        memory
            .write_slice(&bytes[from..to], GuestAddress(address))
            .unwrap();
        let index = u16::try_from(index).unwrap();
        let flags = if index < 2 { NEXT } else { 0 };
        let len = u32::try_from(to - from).unwrap();
        let descriptor = Descriptor::new(address, len, flags, 21 + index);
        bench
            .guest
            .transmit
            .describe(&memory, 20 + index, descriptor);
        address += 100;
    }
    bench.guest.transmit.offer(&memory, 20);
    bench.turn();
    assert_eq!(read(&mut client), (b"pieces".to_vec(), false));
}

#[test]
fn useless_buffers_are_returned_and_the_stream_goes_on_with_good_ones() {
    let mut bench = Bench::with_buffers(0);
    let memory = bench.guest.memory.clone();
    let offer = |bench: &mut Bench, index, descriptor| {
        bench.guest.receive.describe(&memory, index, descriptor);
        bench.guest.receive.offer(&memory, index);
    };
    // For the request, and then none that holds a byte of data.
    offer(&mut bench, 0, Descriptor::new(0x10_0000, 44, WRITE, 0));
    let mut client = bench.client();
    client.write_all(b"CONNECT 5\nrest").unwrap();
    bench.turn();
    let (request, _) = bench.guest.next().unwrap();
    bench.send(&header(5, request.src_port).with_op(Op::Response), &[]);
    // The first buffer has come back already: too small for data.
    offer(&mut bench, 1, Descriptor::new(0x10_0000, 20, WRITE, 0));
    offer(&mut bench, 2, Descriptor::new(0x10_0000, 4096, 0, 0));
    bench.turn();
    for index in 0..3 {
        assert_eq!(bench.guest.receive.take(&memory), Some((index, 0)));
    }
    bench.guest.post(3..4);
    assert_eq!(bench.next().1, b"rest");
}

#[test]
fn a_connection_too_many_is_closed_or_refused() {
    let mut bench = Bench::with_limit(2);
    let _listener = bench.listen(1024);
    let (_first, _) = bench.connect();
    let (second, mine) = bench.connect();
    let mut third = bench.client();
    bench.turn();
    assert_eq!(read(&mut third), (Vec::new(), true));
    bench.send(&header(5000, 1024).with_op(Op::Request), &[]);
    bench.expect(Op::Reset);
    // A place that becomes free is used again.
    drop(second);
    while bench.try_next().is_some() {}
    bench.send(&mine.with_op(Op::Reset), &[]);
    bench.connect();
}
