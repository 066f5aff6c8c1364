//! `hull-net`: passes frames between a guest and passt, and drops what the guest must not send.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::RawFd;

use anyhow::Context;
use clap::Parser;
use hull_devices::net::filter::Link;
use hull_devices::program::{self, SandboxOption};
use hull_devices::{net, process};

/// Passes Ethernet frames between a virtual machine and passt, except for those that would reach the
/// host's own loopback or its neighbours
///
/// Both sockets carry each frame after its length (four bytes, big endian). Ends with status 0 when
/// one side has closed its socket.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Inherited file descriptor of the stream socket to the VMM
    #[arg(long, value_name = "FD")]
    guest_fd: RawFd,
    /// Inherited file descriptor of the stream socket to passt
    #[arg(long, value_name = "FD")]
    host_fd: RawFd,
    /// The guest's IPv4 address
    #[arg(long, value_name = "ADDRESS", requires = "gateway4")]
    guest4: Option<Ipv4Addr>,
    /// The guest's IPv4 gateway
    #[arg(long, value_name = "ADDRESS", requires = "guest4")]
    gateway4: Option<Ipv4Addr>,
    /// The guest's IPv6 address
    #[arg(long, value_name = "ADDRESS", requires = "gateway6")]
    guest6: Option<Ipv6Addr>,
    /// The guest's IPv6 gateway, a link-local address
    #[arg(long, value_name = "ADDRESS", requires = "guest6")]
    gateway6: Option<Ipv6Addr>,
    #[command(flatten)]
    sandbox: SandboxOption,
}

fn main() {
    program::main("hull-net", run);
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    anyhow::ensure!(
        arguments.guest_fd != arguments.host_fd,
        "--guest-fd and --host-fd are the same"
    );
    // SAFETY: the process has only just started and opened nothing yet.
    unsafe { process::close_all_but(&[arguments.guest_fd, arguments.host_fd]) }?;
    // SAFETY: the descriptors come from the caller and nothing in this process has touched them.
    let guest = unsafe { process::inherit(arguments.guest_fd) }.context("cannot use --guest-fd")?;
    // SAFETY: as above, and it is not the same one.
    let host = unsafe { process::inherit(arguments.host_fd) }.context("cannot use --host-fd")?;
    let link = Link {
        v4: arguments.guest4.zip(arguments.gateway4),
        v6: arguments.guest6.zip(arguments.gateway6),
    };
    net::serve(link, guest, host, arguments.sandbox.is_on())?;
    Ok(())
}
