//! A Firecracker process that runs.

use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use async_trait::async_trait;
use tokio::net::unix::pipe::Receiver;

use crate::accel::Accelerator;
use crate::console::Console;
use crate::driver::{Exit, Vm, VmRecord};
use crate::error::VmError;
use crate::process::{Process, describe_status, with_last_words};
use crate::snapshot::outlet::{self, Outlet};
use crate::socket::Awaited;

use super::api::{Api, Extent, Loaded, State};
use super::{FILES, NAME, PROGRAM};

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
    /// There is none if an older version of ours has started the machine.
    outlet: Option<Outlet>,
    /// Its memory was empty at its start. Not known of a machine that another process has started.
    was_empty: bool,
}

impl Machine {
    pub(super) async fn follow(
        vmm: Process,
        accelerator: Accelerator,
        run_dir: PathBuf,
        console: Receiver,
        outlet: Option<Outlet>,
    ) -> Result<Self, VmError> {
        Ok(Self {
            api: Api::new(&run_dir),
            console: Console::follow(console, &run_dir).await?,
            vmm,
            accelerator,
            run_dir,
            outlet,
            was_empty: false,
        })
    }

    /// The same, which boots a guest.
    pub(super) fn that_boots(self) -> Self {
        Self {
            was_empty: true,
            ..self
        }
    }

    /// Writes a snapshot into these files, which are not there.
    async fn write(&self, state: &str, memory: &str) -> Result<(), VmError> {
        if self.was_empty && !has_swap() {
            self.api.snapshot(state, memory, Extent::Touched).await?;
            // What has gone to swap space in the meantime is missing.
            if !has_swap() {
                return Ok(());
            }
        }
        self.api.snapshot(state, memory, Extent::Whole).await
    }

    /// Makes the machine of a snapshot, in a VMM that has none yet.
    pub(super) async fn load(&self, awaited: &Awaited, loaded: &Loaded) -> Result<(), VmError> {
        tokio::select! {
            listening = Api::listening(awaited) => listening?,
            status = self.vmm.wait() => return Err(self.vmm.died(&PROGRAM, status, None)),
        }
        self.answered(self.api.load(loaded)).await
    }

    async fn answered<T>(
        &self,
        request: impl Future<Output = Result<T, VmError>>,
    ) -> Result<T, VmError> {
        self.vmm.answered(&PROGRAM, request).await
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

/// Whether the host may have put a process's pages elsewhere than into its memory.
pub(super) fn has_swap() -> bool {
    match std::fs::read_to_string("/proc/swaps") {
        Ok(swaps) => lists_swap(&swaps),
        // A kernel that knows no swap has no such file.
        Err(error) => error.kind() != std::io::ErrorKind::NotFound,
    }
}

/// A line for each space follows a heading (`mm/swapfile.c`).
fn lists_swap(swaps: &str) -> bool {
    swaps.lines().nth(1).is_some()
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
            outlet: self.outlet.as_ref().map(Outlet::record).cloned(),
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
        self.answered(self.api.set_state(State::Paused)).await
    }

    async fn resume(&self) -> Result<(), VmError> {
        self.answered(self.api.set_state(State::Resumed)).await
    }

    async fn snapshot(&self, dir: &Path) -> Result<(), VmError> {
        let written = async {
            let writing = outlet::begin(self.outlet.as_ref(), NAME, dir, self.vmm.record())?;
            let [state, memory] = FILES.map(|name| format!("{}/{name}", writing.seen_as()));
            self.write(&state, &memory).await?;
            writing.finish(&FILES).await
        };
        self.answered(written).await
    }

    async fn kill(&self) {
        self.vmm.kill().await;
    }

    fn console_tail(&self) -> Vec<String> {
        self.console.tail()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swap_space_is_seen() {
        let heading = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n";
        assert!(!lists_swap(""));
        assert!(!lists_swap(heading));
        let space = "/dev/zram0                              partition\t8388604\t0\t\t100\n";
        assert!(lists_swap(&format!("{heading}{space}")));
    }
}
