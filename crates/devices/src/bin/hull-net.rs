//! `hull-net`: passes frames between a guest and passt, and drops what the guest must not send.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{OwnedFd, RawFd};

use anyhow::Context;
use clap::{Args, Parser};
use hull_devices::net::filter::Link;
use hull_devices::net::side::Side;
use hull_devices::program::{self, SandboxOption};
use hull_devices::{net, process};

/// Passes Ethernet frames between a virtual machine and passt, except for those that would reach the
/// host's own loopback or its neighbours
///
/// Stream sockets carry each frame after its length (four bytes, big endian). Ends with status 0 when
/// one side has closed its socket, or its interface.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(flatten)]
    guest: GuestOptions,
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

/// Where the guest is.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct GuestOptions {
    /// Inherited file descriptor of the stream socket to the VMM
    #[arg(long, value_name = "FD")]
    guest_fd: Option<RawFd>,
    /// Inherited file descriptor of a packet socket, bound to the interface whose other end the VMM has
    #[arg(long, value_name = "FD")]
    guest_packets_fd: Option<RawFd>,
}

impl GuestOptions {
    /// The option that was given, and its value.
    fn fd(&self) -> anyhow::Result<(&'static str, RawFd)> {
        let stream = self.guest_fd.map(|fd| ("--guest-fd", fd));
        let packets = self.guest_packets_fd.map(|fd| ("--guest-packets-fd", fd));
        stream.or(packets).context("there is no guest")
    }

    fn side(&self, socket: OwnedFd) -> Side {
        match self.guest_fd {
            Some(_) => Side::Stream(socket.into()),
            None => Side::Packets(socket),
        }
    }
}

fn main() {
    program::main("hull-net", run);
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    let (option, guest_fd) = arguments.guest.fd()?;
    anyhow::ensure!(
        guest_fd != arguments.host_fd,
        "{option} and --host-fd are the same"
    );
    // SAFETY: the process has only just started and opened nothing yet.
    unsafe { process::close_all_but(&[guest_fd, arguments.host_fd]) }?;
    // SAFETY: the descriptors come from the caller and nothing in this process has touched them.
    let guest = unsafe { process::inherit(guest_fd) };
    let guest = guest.with_context(|| format!("cannot use {option}"))?;
    // SAFETY: as above, and it is not the same one.
    let host = unsafe { process::inherit(arguments.host_fd) }.context("cannot use --host-fd")?;
    let link = Link {
        v4: arguments.guest4.zip(arguments.gateway4),
        v6: arguments.guest6.zip(arguments.gateway6),
    };
    let guest = arguments.guest.side(guest);
    net::serve(link, guest, host, arguments.sandbox.is_on())?;
    Ok(())
}
