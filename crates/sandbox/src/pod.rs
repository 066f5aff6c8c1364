//! The pod: one virtual machine and everything that belongs to it.

mod boot;
mod calls;
mod create;
mod follow;
mod forward;
mod monitor;
mod names;
mod notify;
mod record;
mod size;
mod template;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hull_vm::{Exit, MachineSize, Vm};
use tokio::sync::{Mutex, watch};

use crate::config::PodConfig;
use crate::container::Container;
use crate::error::SandboxError;
use crate::guest::{Guest, promptly};
use crate::network::PodNetwork;
use crate::process::{ExitStatus, Process};
use crate::share::Share;

pub use record::{abandon, destroy, live_pod_process, live_vmm};

/// A pod whose guest runs.
#[derive(Debug)]
pub struct Pod {
    config: PodConfig,
    state_dir: PathBuf,
    machine: Machine,
    guest: Guest,
    containers: Mutex<HashMap<String, Arc<Container>>>,
    /// Init of the container that was made first.
    first: watch::Sender<Option<Arc<Process>>>,
    end: watch::Sender<Option<End>>,
    /// Whether nobody needs it any more.
    done_with: watch::Sender<bool>,
    /// What the machine has by now.
    size: Mutex<MachineSize>,
    served_names: names::ServedNames,
}

/// The pod's processes on the host.
#[derive(Debug)]
struct Machine {
    vm: Box<dyn Vm>,
    share: Share,
    network: PodNetwork,
}

/// How a pod ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// Why, for people.
    pub cause: String,
    /// Last lines of the guest's console; empty when the end was asked for.
    pub console: Vec<String>,
}

impl Machine {
    /// Completes when one of the processes has ended: none can do without the others.
    async fn wait(&self) -> Exit {
        tokio::select! {
            exit = self.vm.wait() => exit,
            cause = self.share.server().fault() => Exit { cause, by_guest: false },
            cause = self.network.wait() => Exit { cause, by_guest: false },
        }
    }

    async fn kill(&self) {
        self.vm.kill().await;
        self.share.server().kill().await;
        self.network.stop().await;
    }
}

impl Pod {
    /// The directory with the pod's sockets and state file.
    #[must_use]
    pub fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    /// What the pod was given.
    #[must_use]
    pub fn config(&self) -> &PodConfig {
        &self.config
    }

    /// Completes when the pod has ended.
    pub async fn ended(&self) -> End {
        let mut end = self.end.subscribe();
        let end = end.wait_for(Option::is_some).await;
        let end = end.ok().and_then(|end| end.clone());
        end.expect("the sender is ours and sends an end")
    }

    /// Completes when all its containers have ended that processes stand for on the host: nothing can be started in
    /// them any more. Never in a pod whose engine deletes what has ended.
    pub async fn done_with(&self) {
        let mut done_with = self.done_with.subscribe();
        // The sender is ours, so it lives.
        let _ = done_with.wait_for(|done_with| *done_with).await;
    }

    /// How the pod ended, if it has.
    #[must_use]
    pub fn end_so_far(&self) -> Option<End> {
        self.end.borrow().clone()
    }

    /// Completes when the container that was made first has ended.
    pub async fn first_container_end(&self) -> ExitStatus {
        let mut first = self.first.subscribe();
        // The sender is ours, so it lives.
        let init = first
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|init| init.clone());
        init.expect("waited for it").wait().await
    }

    /// How the container that was made first ended, if it has.
    #[must_use]
    pub fn first_exit(&self) -> Option<ExitStatus> {
        self.first.borrow().as_ref().and_then(|init| init.exit())
    }

    /// Watches the machine, and ends all that is in it when it ends. Runs once, until then.
    async fn supervise(self: Arc<Self>) {
        let exit = self.machine.wait().await;
        let console = self.machine.vm.console_tail();
        self.machine.kill().await;
        self.finish(End {
            cause: exit.cause,
            console,
        })
        .await;
    }

    async fn finish(&self, end: End) {
        self.end.send_if_modified(|current| {
            let first = current.is_none();
            *current = current.take().or(Some(end));
            first
        });
        for container in self.containers.lock().await.values() {
            for process in container.execs().iter().chain([container.init()]) {
                process.end(ExitStatus::killed());
            }
        }
    }

    fn check_alive(&self) -> Result<(), SandboxError> {
        match &*self.end.borrow() {
            None => Ok(()),
            Some(end) => Err(SandboxError::Ended(end.cause.clone())),
        }
    }

    /// Ends the guest in good order (its files are written), then everything else. What was in it is still
    /// known.
    pub async fn end(&self) {
        if self.check_alive().is_ok() {
            let asked = self
                .guest
                .agent()
                .shutdown(promptly(), &Default::default())
                .await;
            if let Err(error) = asked {
                tracing::warn!(%error, "the guest did not shut down in good order");
            }
            let cause = "the pod was stopped".to_owned();
            self.finish(End {
                cause,
                console: Vec::new(),
            })
            .await;
        }
        self.machine.kill().await;
    }

    /// Ends the pod, and takes away what its containers had mounted.
    ///
    /// # Errors
    /// When something cannot be cleaned up.
    pub async fn stop(&self) -> Result<(), SandboxError> {
        self.end().await;
        let mut containers = self.containers.lock().await;
        for (_, container) in containers.drain() {
            container.files().remove()?;
        }
        Ok(())
    }
}
