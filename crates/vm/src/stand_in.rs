//! For tests: a stand-in for a VMM, which a driver starts and which does what the test says.
//!
//! - here: the program, a shell that takes orders
//! - `api`: the server of its API, in the test's own process
//! - `recorded`: what the real VMMs have said
//! - `bench`: a driver with a stand-in for its VMM

pub(crate) mod api;
pub(crate) mod bench;
pub(crate) mod recorded;

use std::fs::{File, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::sys::stat::Mode;
use tempfile::TempDir;
use tokio::sync::{Mutex, OnceCell, oneshot};

use crate::config::{Device, VmConfig};
use crate::process::ProcessRecord;
use crate::sample::{self, SIZE};

/// The program, below its directory.
const PROGRAM: &str = "bin/vmm";

/// What a stand-in says before it [dies](StandIn::die).
pub(crate) const LAST_WORDS: &str = "something is very wrong";
/// How it ends then.
pub(crate) const LAST_STATUS: &str = "exited with status 3";

/// An order to say which of some of the host's files it may read, and to end.
pub(crate) const READS: &str = "for file in /etc/passwd /proc/self/status /usr/bin/env /dev/urandom; do \
                                ( : < $file ) 2>&- && echo $file >&2; done; exit 1";

/// The script: it says that it runs by opening a pipe, and then takes orders from another, each a line, as long as the test
/// holds that. Both are where a VMM may read: with its libraries. In an order, `$events` is where Cloud Hypervisor says
/// what happens.
const SCRIPT: &str = r#"#!/bin/sh
while [ $# -gt 0 ]; do
    case $1 in --event-monitor) events=/proc/self/fd/${2#fd=} ;; esac
    shift
done
: < DIR/lib/hello
while read -r order; do eval "$order"; done < DIR/lib/orders
"#;

/// A stand-in, and the directory of its machine.
#[derive(Debug)]
pub(crate) struct StandIn {
    dir: TempDir,
    orders: File,
    hello: Mutex<Option<oneshot::Receiver<()>>>,
    process: OnceCell<ProcessRecord>,
}

impl StandIn {
    /// One that a driver may start by the name of [`program`](Self::program).
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        set_mode(path, 0o755);
        for name in ["bin", "lib"] {
            std::fs::create_dir(path.join(name)).unwrap();
        }
        let program = path.join(PROGRAM);
        std::fs::write(&program, SCRIPT.replace("DIR", path.to_str().unwrap())).unwrap();
        set_mode(&program, 0o755);
        for boot_file in ["vmlinux", "initramfs.img"] {
            std::fs::write(path.join(boot_file), "").unwrap();
        }
        let pipe = |name| {
            let path = path.join(name);
            nix::unistd::mkfifo(&path, Mode::S_IRWXU).unwrap();
            set_mode(&path, 0o644);
            path
        };
        let orders = pipe("lib/orders");
        let hello = pipe("lib/hello");
        let (opened, runs) = oneshot::channel();
        std::thread::spawn(move || {
            // Until it is opened at the other end. The test may have ended by then.
            let _ = File::options()
                .write(true)
                .open(hello)
                .map(|_| opened.send(()));
        });
        Self {
            // Both ends, so that nobody waits for the other one to open it.
            orders: File::options().read(true).write(true).open(orders).unwrap(),
            hello: Mutex::new(Some(runs)),
            process: OnceCell::new(),
            dir,
        }
    }

    pub(crate) fn program(&self) -> PathBuf {
        self.dir.path().join(PROGRAM)
    }

    /// A place for something in its directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A machine in its directory.
    pub(crate) fn config(&self, devices: Vec<Device>) -> VmConfig {
        let mut config = sample::config_in(self.dir.path(), SIZE, devices);
        config.boot.kernel = self.path("vmlinux");
        config.boot.initramfs = self.path("initramfs.img");
        config
    }

    /// Waits until a driver has started it.
    pub(crate) async fn runs(&self) -> ProcessRecord {
        let hello = async || {
            let runs = self.hello.lock().await.take();
            runs.expect("asked once").await.unwrap();
            self.processes()[0]
        };
        *self.process.get_or_init(hello).await
    }

    /// No process has it as its program, whether or not it came to say that it runs.
    pub(crate) fn assert_gone(&self) {
        let left = self.processes();
        assert!(left.is_empty(), "{left:?}");
    }

    /// Those that have it as their program.
    fn processes(&self) -> Vec<ProcessRecord> {
        let program = self.program();
        let program = program.to_str().unwrap();
        let entries = std::fs::read_dir("/proc").unwrap().map(Result::unwrap);
        let own = entries.filter(|entry| {
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(program)
        });
        let pids = own.map(|entry| entry.file_name().to_str().unwrap().parse().unwrap());
        // One may end meanwhile.
        pids.filter_map(|pid| ProcessRecord::of(pid).ok()).collect()
    }

    /// Tells it what to do next, also before it runs.
    pub(crate) fn order(&self, order: &str) {
        writeln!(&self.orders, "{order}").unwrap();
    }

    /// Has it end with its last words.
    pub(crate) fn die(&self) {
        self.death()();
    }

    /// The same for later.
    pub(crate) fn death(&self) -> impl FnOnce() + Send + 'static {
        let mut orders = self.orders.try_clone().unwrap();
        move || writeln!(orders, "echo '{LAST_WORDS}' >&2; exit 3").unwrap()
    }
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}
