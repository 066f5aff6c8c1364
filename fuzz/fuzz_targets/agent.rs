//! What the guest's agent says: its ready line, its answers, its errors and its questions for names. None of it may make the
//! host panic, and what is read means the same when it is written and read again.
#![no_main]

use hull_agent_api::{Hello, agent, failure, names, stdio};
use libfuzzer_sys::fuzz_target;
use protobuf::Message;

fn message<M: Message + PartialEq>(bytes: &[u8]) {
    if let Ok(message) = M::parse_from_bytes(bytes) {
        let written = message
            .write_to_bytes()
            .expect("what was read can be written");
        let again = M::parse_from_bytes(&written).expect("what was written can be read");
        // Not a number is not equal to itself, and no message has one.
        assert!(message == again);
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((kind, data)) = data.split_first() else {
        return;
    };
    match kind % 12 {
        0 => {
            if let Ok(hello) = Hello::parse(data) {
                let line = hello.to_line();
                assert_eq!(Hello::parse(line.as_bytes()).expect("its own line"), hello);
            }
        }
        1 => {
            if let Ok(token) = stdio::parse(data) {
                let line = stdio::handshake(token).expect("a token that was accepted");
                assert_eq!(line.trim_end_matches('\n').as_bytes(), data);
            }
        }
        2 => message::<agent::ConfigureSandboxResponse>(data),
        3 => message::<agent::ProcessCreated>(data),
        4 => message::<agent::WaitProcessResponse>(data),
        5 => message::<agent::ContainerStatsResponse>(data),
        6 => message::<agent::ListProcessesResponse>(data),
        7 => message::<agent::NextEventsResponse>(data),
        8 => message::<agent::GuestInfoResponse>(data),
        9 => message::<ttrpc::proto::Response>(data),
        10 => {
            if let Some((bytes, rest)) = data.split_first_chunk()
                && let Ok(header) = names::Header::parse(*bytes)
                && let Some(message) = rest.get(..usize::from(header.length))
            {
                let frame = names::Header::frame(header.number, header.transport, message);
                assert!(data.starts_with(&frame.expect("a length that was accepted")));
            }
        }
        _ => {
            if let Ok(status) = ttrpc::proto::Status::parse_from_bytes(data) {
                let error = ttrpc::Error::RpcStatus(status);
                let _ = error.to_string();
                let _ = failure::reason(&error).and_then(failure::exit_code);
            }
        }
    }
});
