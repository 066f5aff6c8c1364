//! What drivers promise, with the real VMMs and Hull's own guest: the same for each VMM that is there. `HULL_TEST_VMM`
//! says that one of them has to be.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hull_vm::process::listen;
use hull_vm::{
    Acceleration, Boot, Device, Driver, MachineSize, Snapshot, Vm, VmConfig, VmError, Vmm, socket,
};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

const SIZE: MachineSize = MachineSize {
    vcpus: 1,
    memory_mib: 128,
};
/// Where the guest's agent says that it is ready, and where it takes calls.
const READY_PORT: u32 = 1024;
const CALLS_PORT: u32 = 1024;
/// Where nobody takes any.
const NOBODYS_PORT: u32 = 9;

/// Where cargo puts what it builds.
fn target_dir() -> PathBuf {
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| checkout.join("target"), PathBuf::from)
}

/// The drivers of all VMMs that can run a guest here.
fn drivers() -> Vec<Box<dyn Driver>> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let programs = target_dir().join("release");
    let dirs = std::iter::once(programs).chain(std::env::split_paths(&path));
    let path = std::env::join_paths(dirs).expect("no directory here has a colon in its name");
    // SAFETY: what else reads the environment here does so through the standard library's lock.
    unsafe { std::env::set_var("PATH", path) };
    let wanted = std::env::var("HULL_TEST_VMM").ok();
    let usable = |vmm: &Vmm| {
        let driver = vmm.usable();
        let driver = driver.inspect_err(|error| {
            assert_ne!(wanted.as_deref(), Some(vmm.name()), "{error}");
            eprintln!("not with {}: {error}", vmm.name());
        });
        driver.ok()
    };
    let drivers: Vec<_> = Vmm::ALL.iter().filter_map(usable).collect();
    let names: Vec<_> = drivers.iter().map(|driver| driver.name()).collect();
    eprintln!("with {}", names.join(", "));
    drivers
}

/// A machine whose guest boots.
#[derive(Debug)]
struct Booting {
    dir: TempDir,
    vm: Box<dyn Vm>,
    ready: UnixListener,
}

fn config(dir: &Path, arguments: &[&str]) -> VmConfig {
    let guest = std::env::var_os("HULL_GUEST");
    let guest = guest.map_or_else(|| target_dir().join("guest"), PathBuf::from);
    VmConfig {
        id: "test".to_owned(),
        run_dir: dir.to_owned(),
        boot: Boot {
            kernel: guest.join("vmlinux"),
            initramfs: guest.join("initramfs.img"),
            arguments: arguments.iter().map(|&word| word.to_owned()).collect(),
        },
        size: SIZE,
        max: MachineSize {
            vcpus: 2,
            memory_mib: 256,
        },
        acceleration: Acceleration::Auto,
        vsock: dir.join("vsock/guest.sock"),
        devices: vec![Device::Rng, Device::Balloon],
        network_namespace: None,
    }
}

/// A directory for a machine, and where its guest will say that it is ready.
fn prepare() -> (TempDir, UnixListener) {
    let dir = tempfile::Builder::new().prefix("hull-").tempdir();
    let dir = dir.expect("a directory");
    let vsock = dir.path().join("vsock");
    fs::create_dir(&vsock).expect("a directory");
    let ready = listen(&vsock.join(format!("guest.sock_{READY_PORT}")));
    let ready = std::os::unix::net::UnixListener::from(ready.expect("a socket"));
    ready.set_nonblocking(true).expect("a socket");
    let ready = UnixListener::from_std(ready).expect("a socket");
    (dir, ready)
}

async fn boot(driver: &dyn Driver, arguments: &[&str]) -> Booting {
    let (dir, ready) = prepare();
    let config = config(dir.path(), arguments);
    let vm = driver.launch(config).await.expect("it starts");
    Booting { dir, vm, ready }
}

/// A machine whose guest was up and stands still, and where its snapshot is to be.
async fn paused(driver: &dyn Driver) -> (Booting, PathBuf) {
    let machine = boot(driver, &[]).await;
    machine.ready().await;
    machine.vm.pause().await.expect("it stands still");
    let snapshot = machine.dir.path().join("taken");
    (machine, snapshot)
}

/// A machine that goes on from a snapshot in another place.
async fn restore(driver: &dyn Driver, snapshot: &Path) -> Result<Booting, VmError> {
    let (dir, ready) = prepare();
    let config = config(dir.path(), &[]);
    let vm = driver.restore(config, &Snapshot::open(snapshot)?).await?;
    Ok(Booting { dir, vm, ready })
}

/// The drivers that take snapshots.
fn drivers_with_snapshots() -> Vec<Box<dyn Driver>> {
    let mut drivers = drivers();
    drivers.retain(|driver| driver.capabilities().snapshot);
    drivers
}

impl Booting {
    /// Waits for the guest.
    async fn ready(&self) {
        let hello = async {
            let (stream, _) = self.ready.accept().await.expect("a connection");
            let mut line = String::new();
            BufReader::new(stream)
                .read_line(&mut line)
                .await
                .expect("read");
            assert!(!line.is_empty());
        };
        tokio::select! {
            () = hello => {}
            exit = self.vm.wait() => panic!("{exit:?}: {:#?}", self.vm.console_tail()),
        }
        self.vm.booted().expect("memory is given back");
    }

    /// A connection to the guest that waits for it to answer.
    async fn dial(&self) -> UnixStream {
        self.dial_port(CALLS_PORT).await
    }

    async fn dial_port(&self, port: u32) -> UnixStream {
        let path = self.dir.path().join("vsock/guest.sock");
        let mut stream = socket::connect(&path).await.expect("a connection");
        let request = format!("CONNECT {port}\n");
        stream.write_all(request.as_bytes()).await.expect("written");
        stream
    }

    /// Waits until the guest has heard of the end of all connections that have ended: one that is refused comes behind.
    async fn settle(&self) {
        let mut stream = self.dial_port(NOBODYS_PORT).await;
        let refused = stream.read_u8().await.expect_err("nobody answers");
        assert_eq!(refused.kind(), std::io::ErrorKind::UnexpectedEof);
    }
}

async fn is_answered(mut stream: UnixStream) {
    let mut answer = [0; 3];
    stream.read_exact(&mut answer).await.expect("an answer");
    assert_eq!(&answer, b"OK ");
    // The guest hangs up when it hears that nothing more comes.
    stream.shutdown().await.expect("the end is said");
    stream.read_to_end(&mut Vec::new()).await.expect("the end");
}

#[tokio::test]
async fn a_guest_boots_answers_and_is_killed() {
    for driver in drivers() {
        let machine = boot(driver.as_ref(), &[]).await;
        machine.ready().await;
        is_answered(machine.dial().await).await;
        machine.vm.kill().await;
        let exit = machine.vm.wait().await;
        assert!(!exit.by_guest, "{}: {exit:?}", driver.name());
        assert!(exit.cause.contains("killed by signal 9"), "{exit:?}");
    }
}

#[tokio::test]
async fn a_machine_that_is_given_up_takes_its_vmm_along() {
    for driver in drivers() {
        let machine = boot(driver.as_ref(), &[]).await;
        let record = machine.vm.record();
        drop(machine);
        let processes = std::iter::once(record.vmm).chain(record.helpers);
        for process in processes {
            assert!(!process.is_alive(), "{}", driver.name());
        }
    }
}

#[tokio::test]
async fn a_vmm_that_ends_at_once_is_named() {
    for vmm in Vmm::ALL {
        // SAFETY: what else reads the environment here does so through the standard library's lock.
        unsafe { std::env::set_var(vmm.program().variable, "/bin/false") };
    }
    for driver in drivers() {
        let machine = boot(driver.as_ref(), &[]).await;
        let exit = machine.vm.wait().await;
        assert!(!exit.by_guest, "{}: {exit:?}", driver.name());
        assert!(exit.cause.contains("exited with status 1"), "{exit:?}");
        assert!(machine.vm.pause().await.is_err());
    }
}

#[tokio::test]
async fn a_paused_guest_answers_when_it_goes_on() {
    for driver in drivers() {
        assert!(driver.capabilities().pause);
        let machine = boot(driver.as_ref(), &[]).await;
        machine.ready().await;
        machine.vm.pause().await.unwrap();
        let mut stream = machine.dial().await;
        // Too short a wait would only find less.
        let early = tokio::time::timeout(Duration::from_millis(500), stream.read_u8()).await;
        assert!(early.is_err(), "{}: {early:?}", driver.name());
        machine.vm.resume().await.unwrap();
        is_answered(stream).await;
        machine.vm.kill().await;
    }
}

/// Names the directory in which another process of the test starts a machine.
const DIRECTORY_VARIABLE: &str = "HULL_TEST_MACHINE_DIR";

/// Starts a machine, leaves its record, and is gone without an end of its own.
async fn start_and_vanish(dir: &Path) -> ! {
    let name = std::env::var("HULL_TEST_VMM").expect("a VMM");
    let vmm: Vmm = name.parse().expect("a VMM");
    let driver = vmm.driver().expect("it is there");
    let vm = driver.launch(config(dir, &[])).await.expect("it starts");
    let record = serde_json::to_vec(&vm.record()).expect("a record encodes");
    fs::write(dir.join("record"), record).expect("written");
    std::process::exit(0);
}

#[tokio::test]
async fn a_machine_is_taken_over() {
    if let Some(dir) = std::env::var_os(DIRECTORY_VARIABLE) {
        start_and_vanish(Path::new(&dir)).await;
    }
    for driver in drivers() {
        let (dir, ready) = prepare();
        let mut starter = tokio::process::Command::new(std::env::current_exe().unwrap());
        let starter = starter
            .args(["--exact", "a_machine_is_taken_over"])
            .env(DIRECTORY_VARIABLE, dir.path())
            .env("HULL_TEST_VMM", driver.name());
        assert!(starter.status().await.unwrap().success());
        let record = fs::read(dir.path().join("record")).unwrap();
        let record = serde_json::from_slice(&record).unwrap();
        let vm = driver.attach(&record).await.unwrap();
        let machine = Booting { dir, vm, ready };
        machine.ready().await;
        assert_eq!(machine.vm.record(), record);
        machine.vm.pause().await.unwrap();
        machine.vm.resume().await.unwrap();
        is_answered(machine.dial().await).await;
        machine.vm.kill().await;
        assert!(!machine.vm.wait().await.by_guest);
        assert!(driver.attach(&record).await.is_err());
    }
}

#[tokio::test]
async fn a_guest_that_panics_has_ended_with_its_last_words() {
    for driver in drivers() {
        // There is no such program, and no other file system.
        let machine = boot(driver.as_ref(), &["rdinit=/none"]).await;
        let exit = machine.vm.wait().await;
        assert!(exit.by_guest, "{}: {exit:?}", driver.name());
        let console = machine.vm.console_tail().join("\n");
        assert!(console.contains("Kernel panic"), "{console}");
        let log = fs::read_to_string(machine.dir.path().join("console.log")).unwrap();
        assert!(log.contains("Kernel panic"), "{log}");
    }
}

#[tokio::test]
async fn many_go_on_from_one_snapshot() {
    for driver in drivers_with_snapshots() {
        let driver = driver.as_ref();
        let (machine, snapshot) = paused(driver).await;
        machine.vm.snapshot(&snapshot).await.unwrap();
        // The machine itself goes on, too.
        machine.vm.resume().await.unwrap();
        is_answered(machine.dial().await).await;
        machine.vm.kill().await;

        let restored = tokio::join!(restore(driver, &snapshot), restore(driver, &snapshot));
        let (first, second) = (restored.0.unwrap(), restored.1.unwrap());
        is_answered(first.dial().await).await;
        is_answered(second.dial().await).await;
        first.vm.kill().await;
        is_answered(second.dial().await).await;
        // It stands still as any other, and a snapshot can be taken of it.
        second.settle().await;
        second.vm.pause().await.unwrap();
        let again = second.dir.path().join("taken");
        second.vm.snapshot(&again).await.unwrap();
        second.vm.kill().await;
        let third = restore(driver, &again).await.unwrap();
        is_answered(third.dial().await).await;
        third.vm.kill().await;
    }
}

#[tokio::test]
async fn a_snapshot_that_cannot_be_taken_leaves_nothing() {
    for driver in drivers_with_snapshots() {
        let machine = boot(driver.as_ref(), &[]).await;
        machine.ready().await;
        let snapshot = machine.dir.path().join("taken");
        // It runs.
        let error = machine.vm.snapshot(&snapshot).await.unwrap_err();
        assert!(matches!(error, VmError::Refused { .. }), "{error:?}");
        assert!(!snapshot.exists());
        is_answered(machine.dial().await).await;
        machine.vm.kill().await;
        machine.vm.snapshot(&snapshot).await.unwrap_err();
        assert!(!snapshot.exists());
    }
}

#[tokio::test]
async fn a_damaged_snapshot_is_refused() {
    for driver in drivers_with_snapshots() {
        let driver = driver.as_ref();
        let (machine, snapshot) = paused(driver).await;
        machine.vm.snapshot(&snapshot).await.unwrap();
        machine.vm.kill().await;
        for state in fs::read_dir(&snapshot).unwrap() {
            let state = state.unwrap().path();
            if state.file_stem().unwrap() == "state" {
                fs::write(state, "nothing").unwrap();
            }
        }
        let error = restore(driver, &snapshot).await.unwrap_err();
        let (VmError::Refused { .. } | VmError::Died { .. }) = error else {
            panic!("{error:?}");
        };
        eprintln!("{}: {error}", driver.name());
    }
}

#[tokio::test]
async fn who_takes_no_snapshots_says_so() {
    for driver in drivers() {
        if driver.capabilities().snapshot {
            continue;
        }
        let (machine, snapshot) = paused(driver.as_ref()).await;
        let error = machine.vm.snapshot(&snapshot).await.unwrap_err();
        assert!(matches!(error, VmError::Unsupported { .. }), "{error:?}");
        assert!(!snapshot.exists());
        machine.vm.kill().await;
    }
}
