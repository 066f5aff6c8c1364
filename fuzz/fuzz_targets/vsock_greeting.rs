//! The line of a host program: what is read of it does not depend on how it arrives.
#![no_main]

use hull_devices::vsock::greeting::{Greeting, MAX_LINE, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let outcome = parse(data);
    if let Greeting::Connect { port, len } = outcome {
        assert_eq!(data[len - 1], b'\n');
        assert_eq!(parse(&data[..len]), outcome);
        let line = format!("CONNECT {port}\n");
        let len = line.len();
        assert_eq!(parse(line.as_bytes()), Greeting::Connect { port, len });
    }
    // A beginning either waits for more or is refused; it never means something else.
    for end in 0..data.len().min(MAX_LINE + 1) {
        match (parse(&data[..end]), outcome) {
            (Greeting::Incomplete, _) => {}
            (Greeting::Invalid, whole) => assert_eq!(whole, Greeting::Invalid),
            (Greeting::Connect { len, .. }, whole) => {
                assert_eq!(end.max(len), end);
                assert_eq!(parse(&data[..end]), whole);
            }
        }
    }
});
