//! One folder per VMM: `command_line` says how it is started, `machine` is the running VM.

pub mod qemu;
