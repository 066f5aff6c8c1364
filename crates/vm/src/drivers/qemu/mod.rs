//! QEMU, with the `microvm` machine: virtio over MMIO, no PCI, no firmware, direct PVH boot.
//!
//! vsock is served by `hull-vsock`, our vhost-user back end, so no host kernel module is needed and
//! the host side speaks the same hybrid protocol as with every other VMM.

mod clock;
mod command_line;
mod machine;
mod memory;
mod qmp;

use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use async_trait::async_trait;
use tokio::process::Command;

use crate::accel::Accelerator;
use crate::config::VmConfig;
use crate::confine::confine;
use crate::driver::{Capabilities, Driver, Vm, VmRecord};
use crate::error::VmError;
use crate::process::{self, Process};

use command_line::{CommandLine, Handed, Sockets};
use machine::{Booting, Machine};
use memory::Memory;

/// File name of QEMU's program.
pub const PROGRAM: &str = "qemu-system-x86_64";
/// Names another QEMU, by path.
pub const PROGRAM_VARIABLE: &str = "HULL_QEMU";
/// File name of the vsock back end.
pub const VSOCK_PROGRAM: &str = "hull-vsock";

/// The machine has eight places for virtio devices, of which vsock takes one.
const MOST_DEVICES: usize = 7;

/// The QEMU driver.
#[derive(Debug)]
pub struct Qemu {
    program: PathBuf,
    vsock_program: PathBuf,
}

impl Qemu {
    /// Finds QEMU and our vsock back end.
    ///
    /// # Errors
    /// When one of them is not installed.
    pub fn find() -> Result<Self, VmError> {
        let chosen = std::env::var_os(PROGRAM_VARIABLE).map(PathBuf::from);
        let program = match chosen {
            Some(path) if path.is_file() => Some(path),
            Some(path) => {
                return Err(VmError::ProgramMissing {
                    program: path.display().to_string(),
                    advice: "correct the variable HULL_QEMU",
                });
            }
            None => process::find_program(PROGRAM),
        };
        Ok(Self {
            program: program.ok_or_else(|| VmError::ProgramMissing {
                program: PROGRAM.to_owned(),
                advice: "install the package qemu-system-x86",
            })?,
            vsock_program: process::find_program(VSOCK_PROGRAM).ok_or_else(|| {
                VmError::ProgramMissing {
                    program: VSOCK_PROGRAM.to_owned(),
                    advice: "it belongs beside hull's other programs: install Hull again",
                }
            })?,
        })
    }

    fn spawn_vsock(&self, config: &VmConfig, sockets: &Sockets) -> Result<Process, VmError> {
        let vhost = process::listen(&sockets.vsock_vhost)?;
        let hybrid = process::listen(&config.vsock)?;
        let mut command = Command::new(&self.vsock_program);
        command
            .arg("--vhost-socket-fd")
            .arg(vhost.as_raw_fd().to_string())
            .arg("--listen-fd")
            .arg(hybrid.as_raw_fd().to_string())
            .arg("--uds")
            .arg(&config.vsock);
        Process::spawn(
            command,
            vec![vhost, hybrid],
            &log_of(&config.run_dir, VSOCK_PROGRAM),
        )
    }
}

/// Where a helper's standard error goes.
fn log_of(run_dir: &Path, program: &str) -> PathBuf {
    run_dir.join(format!("{program}.log"))
}

#[async_trait]
impl Driver for Qemu {
    fn name(&self) -> &'static str {
        "qemu"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            virtio_fs: true,
            net_stream: true,
            pause: true,
            devices: MOST_DEVICES,
        }
    }

    async fn launch(&self, config: VmConfig) -> Result<Box<dyn Vm>, VmError> {
        config.validate()?;
        let accelerator = config.acceleration.resolve()?;
        let sockets = Sockets::in_dir(&config.run_dir);
        let vsock = self.spawn_vsock(&config, &sockets)?;
        match self.launch_with(config, accelerator, &sockets).await {
            Ok((vmm, parts)) => Ok(Box::new(Machine::new(vmm, vsock, parts))),
            Err(error) => {
                vsock.kill().await;
                Err(error)
            }
        }
    }

    async fn attach(&self, record: &VmRecord) -> Result<Box<dyn Vm>, VmError> {
        Ok(Box::new(Machine::attach(record).await?))
    }
}

impl Qemu {
    async fn launch_with(
        &self,
        config: VmConfig,
        accelerator: Accelerator,
        sockets: &Sockets,
    ) -> Result<(Process, machine::Parts), VmError> {
        // We connect before QEMU runs: the connections wait in the listeners' queues, and nothing
        // that QEMU or the guest says first is missed.
        let qmp_listener = process::listen(&sockets.qmp)?;
        let console_listener = process::listen(&sockets.console)?;
        let connections = machine::Connections::open(sockets, &config.run_dir).await?;

        let run_dir = config.run_dir.clone();
        let memory = Memory::new(config.size, config.max);
        let booting = Booting::new(config.size, memory)?;
        let file = booting.for_vmm()?;
        let handed = Handed::open(&config, file, sockets, qmp_listener, console_listener)?;
        let line = CommandLine::new(config, memory, accelerator, handed)?;
        tracing::debug!(arguments = ?line.arguments, "starting QEMU");
        let mut command = Command::new(&self.program);
        command.args(&line.arguments);
        confine(&mut command, accelerator);
        let vmm = Process::spawn(command, line.inherited, &log_of(&run_dir, PROGRAM))?;
        let parts = machine::Parts {
            run_dir,
            accelerator,
            connections,
            booting: Mutex::new(Some(booting)),
        };
        Ok((vmm, parts))
    }
}
