//! A Cloud Hypervisor process that runs.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use tokio::net::unix::pipe::Receiver;

use crate::accel::Accelerator;
use crate::console::Console;
use crate::deadline;
use crate::driver::{Exit, Vm, VmRecord};
use crate::error::VmError;
use crate::memory::Booting;
use crate::pipe;
use crate::process::{Process, describe_status, with_last_words};
use crate::snapshot::outlet::{self, Outlet};

use super::api::Api;
use super::events::{self, Events, GuestEnd};
use super::restored;
use super::{NAME, PROGRAM};

/// Our ends of the VMM's pipes.
#[derive(Debug)]
pub(super) struct Readers {
    console: Receiver,
    events: Receiver,
}

impl Readers {
    /// While the VMM, or who starts it, holds the other ends.
    pub(super) fn open(run_dir: &Path) -> Result<Self, VmError> {
        Ok(Self {
            console: pipe::open(&pipe::console(run_dir))?,
            events: pipe::open(&events::pipe(run_dir))?,
        })
    }
}

/// What belongs to a machine besides its process.
#[derive(Debug)]
pub(super) struct Parts {
    run_dir: PathBuf,
    api: Api,
    console: Console,
    events: Events,
    booting: Booting,
    /// There is none if an older version of ours has started the machine.
    outlet: Option<Outlet>,
}

impl Parts {
    pub(super) async fn follow(
        run_dir: PathBuf,
        readers: Readers,
        vmm: &Arc<Process>,
        booting: Booting,
        outlet: Option<Outlet>,
    ) -> Result<Self, VmError> {
        Ok(Self {
            api: Api::new(&run_dir),
            console: Console::follow(readers.console, &run_dir).await?,
            events: Events::follow(readers.events, vmm),
            run_dir,
            booting,
            outlet,
        })
    }
}

/// A running Cloud Hypervisor.
#[derive(Debug)]
pub(super) struct Machine {
    vmm: Arc<Process>,
    accelerator: Accelerator,
    parts: Parts,
}

impl Machine {
    pub(super) fn new(vmm: Arc<Process>, accelerator: Accelerator, parts: Parts) -> Self {
        Self {
            vmm,
            accelerator,
            parts,
        }
    }

    /// Waits until a machine that goes on from a snapshot runs.
    pub(super) async fn resumed(&self) -> Result<(), VmError> {
        let resumed = async {
            match self.parts.events.resumed().await {
                true => Ok(Ok(())),
                false => Ok(Err(self.vmm.wait().await)),
            }
        };
        let resumed = deadline::in_time(deadline::MEMORY, "vm.restore", resumed).await?;
        resumed.map_err(|status| self.vmm.died(&PROGRAM, status, None))
    }

    async fn answered<T>(
        &self,
        request: impl Future<Output = Result<T, VmError>>,
    ) -> Result<T, VmError> {
        self.vmm.answered(&PROGRAM, request).await
    }
}

#[async_trait]
impl Vm for Machine {
    fn record(&self) -> VmRecord {
        VmRecord {
            driver: NAME.to_owned(),
            run_dir: self.parts.run_dir.clone(),
            accelerator: self.accelerator,
            vmm: self.vmm.record(),
            helpers: Vec::new(),
            outlet: self.parts.outlet.as_ref().map(Outlet::record).cloned(),
        }
    }

    fn accelerator(&self) -> Accelerator {
        self.accelerator
    }

    async fn wait(&self) -> Exit {
        let status = self.vmm.wait().await;
        let guest_end = self.parts.events.guest_end().await;
        self.parts.console.ended().await;
        // The VMM says of itself, too, that it shuts down: when it could not boot the guest.
        let failed = status.is_some_and(|status| !status.success());
        let (cause, by_guest) = match guest_end {
            Some(GuestEnd::Restart) => {
                ("the guest's kernel panicked or restarted".to_owned(), true)
            }
            Some(GuestEnd::PowerOff) if !failed => ("the guest ended".to_owned(), true),
            Some(GuestEnd::PowerOff) | None => {
                let how = format!("{} {}", PROGRAM.title, describe_status(status));
                (with_last_words(how, &self.vmm.log_tail()), false)
            }
        };
        Exit { cause, by_guest }
    }

    fn booted(&self) -> Result<(), VmError> {
        self.parts.booting.done()
    }

    async fn pause(&self) -> Result<(), VmError> {
        self.answered(self.parts.api.pause()).await
    }

    async fn resume(&self) -> Result<(), VmError> {
        self.answered(self.parts.api.resume()).await
    }

    async fn snapshot(&self, dir: &Path) -> Result<(), VmError> {
        let outlet = self.parts.outlet.as_ref();
        let written = async {
            let writing = outlet::begin(outlet, NAME, dir, self.vmm.record())?;
            self.parts.api.snapshot(writing.seen_as()).await?;
            writing.finish(&restored::FILES).await
        };
        self.answered(written).await
    }

    async fn kill(&self) {
        self.vmm.kill().await;
    }

    fn console_tail(&self) -> Vec<String> {
        self.parts.console.tail()
    }
}
