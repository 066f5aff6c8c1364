//! What stands for a container on the host: a process that a front end has left for that, or else a thread of
//! the pod process that only waits.
//!
//! An engine knows a container by a process id of the host. It names the PID namespace of another container
//! by it (`/proc/PID/ns/pid`, what `kubectl debug --target` comes to), and people enter a pod's network with
//! it. The processes of a guest have no such ids; a thread has one, costs a stack of which a page or two are
//! in use, and ends with the pod process.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::mpsc;
use std::thread::JoinHandle;

use hull_vm::process::{Process, ProcessRecord};
use nix::sched::{CloneFlags, setns};

use crate::config::NetworkConfig;
use crate::error::SandboxError;

const STACK_BYTES: usize = 64 << 10;

/// The process or the thread.
#[derive(Debug)]
pub(crate) enum Anchor {
    /// The front end's, which ends as the container's init did, and whose end is the container's.
    Monitor(Process),
    /// The front end's, which had ended when this process took the pod over.
    Ended(ProcessRecord),
    /// Ours.
    Thread(Thread),
}

impl Anchor {
    /// The front end's process, which waits for the container's end.
    ///
    /// # Errors
    /// When it has ended.
    pub(crate) fn monitor(record: ProcessRecord) -> Result<Self, SandboxError> {
        Ok(Self::Monitor(Process::attach(record, "the monitor")?))
    }

    /// The front end's process of a pod that is taken over.
    pub(crate) fn taken_over(record: ProcessRecord) -> Self {
        Self::monitor(record).unwrap_or(Self::Ended(record))
    }

    /// Starts a thread in the pod's network namespace on the host, if it has one.
    ///
    /// # Errors
    /// When there can be no more threads, or the namespace cannot be entered.
    pub(crate) fn drop_in(network: &NetworkConfig) -> Result<Self, SandboxError> {
        let namespace = match network {
            NetworkConfig::Namespace { path, .. } => Some(path.as_path()),
            NetworkConfig::None | NetworkConfig::Nat { .. } => None,
        };
        let thread = Thread::start(namespace)
            .map_err(SandboxError::host("start what stands for the container"))?;
        Ok(Self::Thread(thread))
    }

    /// The process's or thread's id.
    pub(crate) fn id(&self) -> u32 {
        match self {
            Self::Monitor(process) => u32::try_from(process.record().pid).unwrap_or_default(),
            Self::Ended(record) => u32::try_from(record.pid).unwrap_or_default(),
            Self::Thread(thread) => thread.id,
        }
    }

    /// For the state file: the front end's process.
    pub(crate) fn record(&self) -> Option<ProcessRecord> {
        match self {
            Self::Monitor(process) => Some(process.record()),
            Self::Ended(record) => Some(*record),
            Self::Thread(_) => None,
        }
    }

    /// Completes when the front end's process has ended; never without one.
    pub(crate) async fn gone(&self) {
        match self {
            Self::Monitor(process) => drop(process.wait().await),
            Self::Ended(_) => {}
            Self::Thread(_) => std::future::pending().await,
        }
    }
}

/// The thread; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Thread {
    id: u32,
    /// Whoever waits on the other end learns of its end.
    release: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Thread {
    fn start(namespace: Option<&Path>) -> io::Result<Self> {
        let namespace = namespace.map(File::open).transpose()?;
        let (release, released) = mpsc::channel();
        let (started, start) = mpsc::channel();
        let wait = move || {
            let entered = namespace.map_or(Ok(()), |namespace| {
                setns(namespace, CloneFlags::CLONE_NEWNET)
            });
            let id = entered.map(|()| nix::unistd::gettid().as_raw());
            // The other end waits for it.
            let _ = started.send(id.map_err(io::Error::from));
            // Nothing is ever sent: this is the end.
            let _ = released.recv();
        };
        let thread = std::thread::Builder::new()
            .name("container".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(wait)?;
        let id = start.recv().expect("the thread answers")?;
        Ok(Self {
            id: u32::try_from(id).expect("thread ids are positive"),
            release: Some(release),
            thread: Some(thread),
        })
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.release = None;
        if let Some(thread) = self.thread.take() {
            // It does not panic, and then there would be nothing to do about it.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_can_be_found_until_it_is_dropped() {
        let anchor = Thread::start(None).unwrap();
        let other = Thread::start(None).unwrap();
        assert_ne!(anchor.id, other.id);
        let namespaces = format!("/proc/{}/ns/net", anchor.id);
        assert!(Path::new(&namespaces).exists());
        drop(anchor);
        assert!(!Path::new(&namespaces).exists());
    }

    #[tokio::test]
    async fn a_process_that_had_ended_before_is_known_and_gone() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let record = ProcessRecord::of(child.id().cast_signed()).unwrap();
        child.wait().unwrap();
        let anchor = Anchor::taken_over(record);
        assert_eq!((anchor.id(), anchor.record()), (child.id(), Some(record)));
        anchor.gone().await;
    }

    #[test]
    fn a_namespace_that_is_gone_is_an_error() {
        let gone = Path::new("/proc/self/ns/no-such-namespace");
        assert_eq!(
            Thread::start(Some(gone)).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
    }
}
