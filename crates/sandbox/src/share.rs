//! The directory that host and guest share, and the file server that serves it.
//!
//! Everything that a container sees of the host is mounted below one directory. The pod process has
//! a mount namespace of its own, so nothing appears among the host's mounts, and all of it is gone
//! with the pod. The file server's namespace is a slave of it: later mounts arrive there.

mod disks;

use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use hull_agent_api::{files, ports};
use hull_vm::FileTransport;
use hull_vm::process::{self, Process, ProcessRecord};
use nix::mount::{MsFlags, mount};
use tokio::process::Command;

use crate::error::SandboxError;
use crate::guest::host_port;

pub(crate) use disks::Disks;

/// File name of the file server's program.
const PROGRAM: &str = "hull-fs";
/// The virtio-fs tag.
pub const TAG: &str = "hull";
/// Where the agent mounts the share.
pub const GUEST_DIR: &str = "/run/hull/shared";

/// Where the agent mounts what the guest's containers share among themselves.
pub const GUEST_VOLUMES: &str = "/run/hull/volumes";

/// The shared directory and its server.
#[derive(Debug)]
pub struct Share {
    dir: PathBuf,
    server: Process,
}

impl Share {
    /// Makes the directory a mount point of its own and starts the server for the guest behind the hybrid vsock socket
    /// `vsock`.
    ///
    /// # Errors
    /// When the mount or the server's start fails.
    pub fn start(
        state_dir: &Path,
        vm_dir: &Path,
        transport: FileTransport,
        vsock: &Path,
    ) -> Result<Self, SandboxError> {
        let dir = state_dir.join("shared");
        create_dir(&dir)?;
        let cannot = || SandboxError::host(format!("mount {}", dir.display()));
        let bind = |flags| mount(Some(&dir), &dir, None::<&str>, flags, None::<&str>);
        bind(MsFlags::MS_BIND).map_err(|error| cannot()(error.into()))?;
        // Shared with nobody but the file server.
        bind(MsFlags::MS_PRIVATE).map_err(|error| cannot()(error.into()))?;
        bind(MsFlags::MS_SHARED).map_err(|error| cannot()(error.into()))?;
        Disks::of(&dir).make()?;

        let program = process::require_program(
            PROGRAM,
            "it belongs beside hull's other programs: install Hull again",
        )?;
        let socket = match transport {
            FileTransport::VirtioFs => Self::socket(vm_dir),
            FileTransport::Vsock => host_port(vsock, ports::FILES),
        };
        let listener = process::listen(&socket)?;
        let mut command = Command::new(program);
        command
            .arg("--socket-fd")
            .arg(listener.as_raw_fd().to_string())
            .arg("--shared-dir")
            .arg(&dir)
            .args(["--disks", disks::NAME]);
        if transport == FileTransport::Vsock {
            command.args(["--streams", &files::STREAMS.to_string()]);
        }
        if one_id_only() {
            command.arg("--squash-ids");
        }
        let log = vm_dir.join("hull-fs.log");
        Ok(Self {
            server: Process::spawn(command, vec![listener], &log)?,
            dir,
        })
    }

    /// Takes over a share whose server runs.
    ///
    /// # Errors
    /// When the server has ended.
    pub fn attach(state_dir: &Path, record: ProcessRecord) -> Result<Self, SandboxError> {
        Ok(Self {
            dir: state_dir.join("shared"),
            server: Process::attach(record, PROGRAM)?,
        })
    }

    /// The vhost-user socket in the virtual machine's directory.
    #[must_use]
    pub fn socket(vm_dir: &Path) -> PathBuf {
        vm_dir.join("fs.sock")
    }

    /// The directory on the host.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The disks of the host that containers have.
    pub(crate) fn disks(&self) -> Disks {
        Disks::of(&self.dir)
    }

    /// The file server's process.
    #[must_use]
    pub fn server(&self) -> &Process {
        &self.server
    }
}

/// Whether this is a user namespace with a single user, who then owns whatever the guest makes.
fn one_id_only() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let ids = map
        .lines()
        .filter_map(|line| line.split_whitespace().nth(2)?.parse::<u64>().ok());
    ids.sum::<u64>() == 1
}

/// Makes a directory that only its owner may enter.
pub(crate) fn create_dir(path: &Path) -> Result<(), SandboxError> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(SandboxError::host(format!("create {}", path.display())))
}
