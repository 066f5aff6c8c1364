//! `hull-fs`: shares a directory with a guest by virtio-fs or over streams.

use std::os::fd::RawFd;
use std::path::PathBuf;

use anyhow::Context;
use clap::{Parser, ValueEnum};
use hull_devices::program::{self, SandboxOption};
use hull_devices::{fs, process};

/// Shares a directory with a virtual machine by virtio-fs, or by FUSE over streams
///
/// Serves one VMM, the first that connects to the inherited socket, and ends with status 0 when it
/// disconnects. Mounts made below the directory later appear in the guest if the caller's mount of the
/// directory is shared; unmount them lazily (MNT_DETACH), as the guest may hold files in them.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Inherited file descriptor of a listening Unix socket for the VMM's vhost-user connection, or for the streams
    #[arg(long, value_name = "FD")]
    socket_fd: RawFd,
    /// Directory to share
    #[arg(long, value_name = "DIR")]
    shared_dir: PathBuf,
    /// Tag in the device's configuration, for VMMs that read it from there (QEMU has its own, and 7.1
    /// to 8.0 crash if this is set)
    #[arg(long)]
    tag: Option<String>,
    /// How long the guest may keep what it read
    #[arg(long, value_enum, default_value_t = Cache::Auto)]
    cache: Cache,
    /// Do not show mounts below the directory as mounts in the guest
    #[arg(long)]
    no_announce_submounts: bool,
    /// Let the guest change nothing
    #[arg(long)]
    readonly: bool,
    /// Do not pass extended attributes on
    #[arg(long)]
    no_xattr: bool,
    /// Pass POSIX access control lists on
    #[arg(long, conflicts_with = "no_xattr")]
    posix_acl: bool,
    /// Take all users and groups of the guest for root, for a user namespace that has only one id
    #[arg(long, conflicts_with = "posix_acl")]
    squash_ids: bool,
    /// Threads that serve requests; 0 serves one after the other
    #[arg(long, value_name = "N", default_value_t = 0)]
    thread_pool_size: usize,
    /// Serve this many connections, on which the guest sends what it has on /dev/fuse, and no virtio-fs device
    #[arg(long, value_name = "N", conflicts_with_all = ["tag", "thread_pool_size"])]
    streams: Option<usize>,
    /// Directory in the shared one, mounted read-only there, whose nodes of disks the guest has as files
    #[arg(long, value_name = "NAME")]
    disks: Option<String>,
    #[command(flatten)]
    sandbox: SandboxOption,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Cache {
    /// Names and attributes for a second
    Auto,
    /// Not at all
    Never,
    /// For good; nobody else may change the directory
    Always,
}

fn main() {
    program::main("hull-fs", run);
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    // SAFETY: the process has only just started and opened nothing yet.
    unsafe { process::close_all_but(&[arguments.socket_fd]) }?;
    // SAFETY: the descriptor comes from the caller and nothing in this process has touched it.
    let listener = unsafe { process::inherit_listener(arguments.socket_fd) }
        .context("cannot use --socket-fd")?;
    let options = fs::Options {
        shared_dir: arguments.shared_dir,
        tag: arguments.tag,
        cache: match arguments.cache {
            Cache::Auto => fs::Cache::Auto,
            Cache::Never => fs::Cache::Never,
            Cache::Always => fs::Cache::Always,
        },
        read_only: arguments.readonly,
        announce_submounts: !arguments.no_announce_submounts,
        xattr: !arguments.no_xattr,
        posix_acl: arguments.posix_acl,
        squash_ids: arguments.squash_ids,
        transport: match arguments.streams {
            Some(streams) => fs::Transport::Streams(streams),
            None => fs::Transport::VhostUser {
                threads: arguments.thread_pool_size,
            },
        },
        disks: arguments.disks,
        sandboxed: arguments.sandbox.is_on(),
    };
    fs::serve(options, listener)?;
    Ok(())
}
