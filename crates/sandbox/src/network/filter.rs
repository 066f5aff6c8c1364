//! The process between the VMM and passt: `hull-net`, which drops what the guest must not send.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use hull_vm::process::{self, Process};
use tokio::process::Command;

use super::link::HostEnd;
use super::{GATEWAY_V4, GATEWAY_V6, GUEST_V4, GUEST_V6, NetworkError};

pub(super) const PROGRAM: &str = "hull-net";

/// Starts the filter between the `guest`'s link and `passt`.
///
/// # Errors
/// When it is missing or does not start.
pub(super) fn start(
    guest: HostEnd,
    passt: OwnedFd,
    ipv6: bool,
    run_dir: &Path,
) -> Result<Process, NetworkError> {
    let program = process::require_program(
        PROGRAM,
        "it belongs beside hull's other programs: install Hull again",
    )?;
    let (option, guest): (_, OwnedFd) = match guest {
        HostEnd::Stream(socket) => ("--guest-fd", socket.into()),
        HostEnd::Packets(socket) => ("--guest-packets-fd", socket),
    };
    let mut command = Command::new(program);
    command
        .arg(option)
        .arg(guest.as_raw_fd().to_string())
        .arg("--host-fd")
        .arg(passt.as_raw_fd().to_string())
        .args(["--guest4", &GUEST_V4.to_string()])
        .args(["--gateway4", &GATEWAY_V4.to_string()]);
    if ipv6 {
        command
            .args(["--guest6", &GUEST_V6.to_string()])
            .args(["--gateway6", &GATEWAY_V6.to_string()]);
    }
    let log = run_dir.join("hull-net.log");
    Ok(Process::spawn(command, vec![guest, passt], &log)?)
}
