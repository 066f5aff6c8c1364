//! A QEMU process that runs.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use qapi::qmp::{self, ShutdownCause};
use tokio::net::UnixStream;

use crate::accel::Accelerator;
use crate::console::Console;
use crate::driver::{Exit, Vm, VmRecord};
use crate::error::VmError;
use crate::memory::Booting;
use crate::process::{Process, describe_status, with_last_words};

use super::command_line::Sockets;
use super::qmp::Qmp;
use super::{NAME, PROGRAM, VSOCK_PROGRAM};

/// What belongs to a machine besides its processes.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) run_dir: PathBuf,
    pub(super) accelerator: Accelerator,
    pub(super) connections: Connections,
    pub(super) booting: Booting,
}

/// Our ends of QEMU's sockets.
#[derive(Debug)]
pub(super) struct Connections {
    qmp: Qmp,
    console: Console,
}

impl Connections {
    pub(super) async fn open(sockets: &Sockets, run_dir: &Path) -> Result<Self, VmError> {
        let console = connect(&sockets.console).await?;
        Ok(Self {
            qmp: Qmp::follow(connect(&sockets.qmp).await?),
            console: Console::follow(console, run_dir).await?,
        })
    }
}

async fn connect(path: &Path) -> Result<UnixStream, VmError> {
    UnixStream::connect(path)
        .await
        .map_err(VmError::host(format!("connect to {}", path.display())))
}

/// A running QEMU and its vsock back end.
#[derive(Debug)]
pub(super) struct Machine {
    vmm: Process,
    vsock: Process,
    parts: Parts,
}

impl Machine {
    pub(super) fn new(vmm: Process, vsock: Process, parts: Parts) -> Self {
        Self { vmm, vsock, parts }
    }

    pub(super) async fn attach(record: &VmRecord) -> Result<Self, VmError> {
        let run_dir = &record.run_dir;
        let vmm = Process::attach_in(run_dir, record.vmm, PROGRAM.name)?;
        let vsock = record
            .helpers
            .first()
            .copied()
            .ok_or(VmError::Unsupported {
                driver: NAME,
                what: "take over a machine without a vsock back end",
            })?;
        Ok(Self {
            vmm,
            vsock: Process::attach_in(run_dir, vsock, VSOCK_PROGRAM)?,
            parts: Parts {
                run_dir: run_dir.clone(),
                accelerator: record.accelerator,
                connections: Connections::open(&Sockets::in_dir(run_dir), run_dir).await?,
                booting: Booting::default(),
            },
        })
    }

    /// QEMU's messages, without the one about its console that it always prints.
    fn said(&self) -> String {
        let log = self.vmm.log_tail();
        let lines = log
            .lines()
            .filter(|line| !line.contains("QEMU waiting for connection on"));
        lines.collect::<Vec<_>>().join("; ")
    }

    fn describe(&self, status: Option<std::process::ExitStatus>) -> Exit {
        const TITLE: &str = PROGRAM.title;
        let (cause, by_guest) = match self.parts.connections.qmp.shutdown_cause() {
            Some(ShutdownCause::guest_panic) => ("the guest's kernel panicked".to_owned(), true),
            Some(ShutdownCause::guest_reset | ShutdownCause::guest_shutdown) => {
                ("the guest ended".to_owned(), true)
            }
            Some(reason) => (format!("{TITLE} shut down ({reason:?})"), false),
            None => (format!("{TITLE} {}", describe_status(status)), false),
        };
        // What QEMU itself says matters when the end was not the guest's.
        let said = if by_guest { String::new() } else { self.said() };
        let cause = with_last_words(cause, &said);
        Exit { cause, by_guest }
    }
}

#[async_trait]
impl Vm for Machine {
    fn record(&self) -> VmRecord {
        VmRecord {
            driver: NAME.to_owned(),
            run_dir: self.parts.run_dir.clone(),
            accelerator: self.parts.accelerator,
            vmm: self.vmm.record(),
            helpers: vec![self.vsock.record()],
            outlet: None,
        }
    }

    fn accelerator(&self) -> Accelerator {
        self.parts.accelerator
    }

    async fn wait(&self) -> Exit {
        let exit = tokio::select! {
            status = self.vmm.wait() => self.describe(status),
            cause = self.vsock.fault() => {
                self.vmm.kill().await;
                Exit { cause, by_guest: false }
            }
        };
        self.parts.connections.console.ended().await;
        exit
    }

    fn booted(&self) -> Result<(), VmError> {
        self.parts.booting.done()
    }

    async fn pause(&self) -> Result<(), VmError> {
        let qmp = &self.parts.connections.qmp;
        let stopped = qmp.execute("stop", qmp::stop {});
        self.vmm.answered(&PROGRAM, stopped).await.map(drop)
    }

    async fn resume(&self) -> Result<(), VmError> {
        let qmp = &self.parts.connections.qmp;
        let continued = qmp.execute("cont", qmp::cont {});
        self.vmm.answered(&PROGRAM, continued).await.map(drop)
    }

    async fn snapshot(&self, _dir: &Path) -> Result<(), VmError> {
        Err(super::no_snapshots())
    }

    async fn kill(&self) {
        self.vmm.kill().await;
        self.vsock.kill().await;
    }

    fn console_tail(&self) -> Vec<String> {
        self.parts.connections.console.tail()
    }
}
