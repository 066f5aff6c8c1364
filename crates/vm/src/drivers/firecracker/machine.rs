//! A Firecracker process that runs.

use std::path::PathBuf;
use std::process::ExitStatus;

use async_trait::async_trait;
use tokio::net::unix::pipe::Receiver;

use crate::accel::Accelerator;
use crate::console::Console;
use crate::driver::{Exit, Vm, VmRecord};
use crate::error::VmError;
use crate::process::{Process, describe_status, with_last_words};

use super::api::{Api, State};
use super::{NAME, PROGRAM};

/// It exits so when its seccomp filter has stopped it (`src/vmm/src/lib.rs` of its sources).
const BAD_SYSCALL: i32 = 148;

/// A running Firecracker.
#[derive(Debug)]
pub(super) struct Machine {
    vmm: Process,
    accelerator: Accelerator,
    run_dir: PathBuf,
    api: Api,
    console: Console,
}

impl Machine {
    pub(super) async fn follow(
        vmm: Process,
        accelerator: Accelerator,
        run_dir: PathBuf,
        console: Receiver,
    ) -> Result<Self, VmError> {
        Ok(Self {
            api: Api::new(&run_dir),
            console: Console::follow(console, &run_dir).await?,
            vmm,
            accelerator,
            run_dir,
        })
    }

    fn describe(&self, status: Option<ExitStatus>) -> Exit {
        // A guest ends it by a restart, which its kernel does by itself when it panics.
        if status.is_some_and(|status| status.success()) {
            return Exit {
                cause: "the guest ended".to_owned(),
                by_guest: true,
            };
        }
        let how = match status.and_then(|status| status.code()) {
            Some(BAD_SYSCALL) => "made a system call that its filter forbids".to_owned(),
            _ => describe_status(status),
        };
        let cause = format!("{} {how}", PROGRAM.title);
        Exit {
            cause: with_last_words(cause, &self.vmm.log_tail()),
            by_guest: false,
        }
    }
}

#[async_trait]
impl Vm for Machine {
    fn record(&self) -> VmRecord {
        VmRecord {
            driver: NAME.to_owned(),
            run_dir: self.run_dir.clone(),
            accelerator: self.accelerator,
            vmm: self.vmm.record(),
            helpers: Vec::new(),
        }
    }

    fn accelerator(&self) -> Accelerator {
        self.accelerator
    }

    async fn wait(&self) -> Exit {
        let status = self.vmm.wait().await;
        self.console.ended().await;
        self.describe(status)
    }

    /// Its memory is its own: what the kernel's start needed cannot be given back from here.
    fn booted(&self) -> Result<(), VmError> {
        Ok(())
    }

    async fn pause(&self) -> Result<(), VmError> {
        self.api.set_state(State::Paused).await
    }

    async fn resume(&self) -> Result<(), VmError> {
        self.api.set_state(State::Resumed).await
    }

    async fn kill(&self) {
        self.vmm.kill().await;
    }

    fn console_tail(&self) -> Vec<String> {
        self.console.tail()
    }
}
