//! A machine with Hull's guest, started by its driver, and nothing else of Hull: no pod, no file server, no network.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use hull_vm::process::listen;
use hull_vm::{Acceleration, Boot, Device, Driver, MachineSize, Snapshot, Vm, VmConfig, socket};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;

/// The agent's ports: where it says on the host that it is ready, and where it takes calls in the guest.
const READY_PORT: u32 = 1024;
const CALLS_PORT: u32 = 1024;

/// How long it takes.
#[derive(Debug)]
pub(crate) struct Times {
    /// From the VMM's start to the agent's word that it is ready.
    pub(crate) ready: Duration,
    pub(crate) snapshot: Option<SnapshotTimes>,
}

/// The same for a VMM that takes snapshots.
#[derive(Debug)]
pub(crate) struct SnapshotTimes {
    /// To stop the guest and write its snapshot.
    pub(crate) taken: Duration,
    /// From the VMM's start to an answer of a guest that goes on from it.
    pub(crate) answered: Duration,
}

/// Boots a guest of one CPU once, and goes on from its snapshot where the VMM can.
pub(crate) async fn measure(driver: &dyn Driver, memory_mib: u32) -> Result<Times> {
    let machine = Machine::new(memory_mib)?;
    let start = Instant::now();
    let vm = driver.launch(machine.config()).await?;
    machine.ready(vm.as_ref()).await?;
    let ready = start.elapsed();
    let mut taken = None;
    if driver.capabilities().snapshot {
        let dir = machine.dir.path().join("taken");
        let start = Instant::now();
        vm.pause().await?;
        vm.snapshot(&dir).await?;
        taken = Some((dir, start.elapsed()));
    }
    end(vm.as_ref()).await;
    let snapshot = match taken {
        Some((dir, taken)) => Some(SnapshotTimes {
            taken,
            answered: answered(driver, memory_mib, &dir).await?,
        }),
        None => None,
    };
    Ok(Times { ready, snapshot })
}

async fn end(vm: &dyn Vm) {
    vm.kill().await;
    vm.wait().await;
}

async fn answered(driver: &dyn Driver, memory_mib: u32, snapshot: &Path) -> Result<Duration> {
    let machine = Machine::new(memory_mib)?;
    let start = Instant::now();
    let snapshot = Snapshot::open(snapshot)?;
    let vm = driver.restore(machine.config(), &snapshot).await?;
    let mut stream = socket::connect(&machine.vsock()).await?;
    let request = format!("CONNECT {CALLS_PORT}\n");
    stream.write_all(request.as_bytes()).await?;
    let _ = stream.read_u8().await.context("the guest is silent")?;
    let took = start.elapsed();
    end(vm.as_ref()).await;
    Ok(took)
}

#[derive(Debug)]
struct Machine {
    dir: TempDir,
    ready: UnixListener,
    memory_mib: u32,
}

impl Machine {
    fn new(memory_mib: u32) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("hull-bench-").tempdir()?;
        let vsock = dir.path().join("vsock");
        fs::create_dir(&vsock)?;
        let ready = listen(&vsock.join(format!("guest.sock_{READY_PORT}")))?;
        let ready = std::os::unix::net::UnixListener::from(ready);
        ready.set_nonblocking(true)?;
        Ok(Self {
            dir,
            ready: UnixListener::from_std(ready)?,
            memory_mib,
        })
    }

    fn vsock(&self) -> PathBuf {
        self.dir.path().join("vsock/guest.sock")
    }

    fn config(&self) -> VmConfig {
        let guest = harness::guest();
        let size = MachineSize {
            vcpus: 1,
            memory_mib: self.memory_mib,
        };
        VmConfig {
            id: "bench".to_owned(),
            run_dir: self.dir.path().to_owned(),
            boot: Boot {
                kernel: guest.join("vmlinux"),
                initramfs: guest.join("initramfs.img"),
                arguments: Vec::new(),
            },
            size,
            max: size,
            acceleration: Acceleration::Auto,
            vsock: self.vsock(),
            devices: vec![Device::Rng, Device::Balloon],
            network_namespace: None,
        }
    }

    async fn ready(&self, vm: &dyn Vm) -> Result<()> {
        let (mut stream, _) = tokio::select! {
            accepted = self.ready.accept() => accepted?,
            exit = vm.wait() => bail!("{}: {}", exit.cause, vm.console_tail().join("\n")),
        };
        let _ = stream.read_u8().await.context("the guest hung up")?;
        vm.booted()?;
        Ok(())
    }
}
