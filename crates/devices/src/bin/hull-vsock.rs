//! `hull-vsock`: connects Unix sockets with a guest's vsock.

use std::os::fd::RawFd;
use std::path::PathBuf;

use anyhow::Context;
use clap::Parser;
use hull_devices::program::{self, SandboxOption};
use hull_devices::{process, vsock};

/// Connects Unix sockets with a virtual machine's vsock
///
/// A program that connects to the Unix socket and sends "CONNECT <port>" and a newline reaches that
/// port in the guest; it reads "OK <number>" and a newline when the guest has accepted. The guest
/// reaches the program that listens on "<UDS>_<port>" by connecting to that port of CID 2.
///
/// Serves one VMM, the first that connects to the inherited socket, and ends with status 0 when the
/// VMM has disconnected and everything that the guest sent has been read.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Inherited file descriptor of a listening Unix socket for the VMM's vhost-user connection
    #[arg(long, value_name = "FD")]
    vhost_socket_fd: RawFd,
    /// Inherited file descriptor of a listening Unix socket for connections to the guest
    #[arg(long, value_name = "FD")]
    listen_fd: RawFd,
    /// Path of that socket; connections from the guest go to <UDS>_<port>
    #[arg(long, value_name = "PATH")]
    uds: PathBuf,
    /// The guest's address on its vsock
    #[arg(long, value_name = "CID", default_value_t = 3)]
    guest_cid: u64,
    #[command(flatten)]
    sandbox: SandboxOption,
}

fn main() {
    program::main("hull-vsock", run);
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    anyhow::ensure!(
        arguments.vhost_socket_fd != arguments.listen_fd,
        "--vhost-socket-fd and --listen-fd are the same"
    );
    // SAFETY: the process has only just started and opened nothing yet.
    unsafe { process::close_all_but(&[arguments.vhost_socket_fd, arguments.listen_fd]) }?;
    // SAFETY: the descriptors come from the caller and nothing in this process has touched them.
    let vhost_listener = unsafe { process::inherit_listener(arguments.vhost_socket_fd) }
        .context("cannot use --vhost-socket-fd")?;
    // SAFETY: as above, and it is not the same one.
    let host_listener = unsafe { process::inherit_listener(arguments.listen_fd) }
        .context("cannot use --listen-fd")?;
    let options = vsock::Options {
        guest_cid: arguments.guest_cid,
        uds: arguments.uds,
        sandboxed: arguments.sandbox.is_on(),
    };
    vsock::serve(&options, vhost_listener, host_listener)?;
    Ok(())
}
