//! What stands for a container on the host: a thread of the pod process that only waits.
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

use nix::sched::{CloneFlags, setns};

use crate::config::NetworkConfig;
use crate::error::SandboxError;

const STACK_BYTES: usize = 64 << 10;

/// The thread; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Anchor {
    id: u32,
    /// Whoever waits on the other end learns of its end.
    release: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Anchor {
    /// Starts a thread in the pod's network namespace on the host, if it has one.
    ///
    /// # Errors
    /// When there can be no more threads, or the namespace cannot be entered.
    pub(crate) fn drop_in(network: &NetworkConfig) -> Result<Self, SandboxError> {
        let namespace = match network {
            NetworkConfig::Namespace { path, .. } => Some(path.as_path()),
            NetworkConfig::None | NetworkConfig::Nat { .. } => None,
        };
        Self::start(namespace).map_err(SandboxError::host("start what stands for the container"))
    }

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

    /// The thread's id, as good as a process id.
    pub(crate) fn id(&self) -> u32 {
        self.id
    }
}

impl Drop for Anchor {
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
        let anchor = Anchor::start(None).unwrap();
        let other = Anchor::start(None).unwrap();
        assert_ne!(anchor.id(), other.id());
        let namespaces = format!("/proc/{}/ns/net", anchor.id());
        assert!(Path::new(&namespaces).exists());
        drop(anchor);
        assert!(!Path::new(&namespaces).exists());
    }

    #[test]
    fn a_namespace_that_is_gone_is_an_error() {
        let gone = Path::new("/proc/self/ns/no-such-namespace");
        assert_eq!(
            Anchor::start(Some(gone)).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
    }
}
