//! What a front end asks of a pod.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use hull_agent_api::agent;
use hull_vm::process::ProcessRecord;
use oci_spec::runtime::LinuxResources;
use ttrpc::Error as RpcError;

use super::Pod;
use crate::cgroup::HostLimits;
use crate::container::{Container, check_id};
use crate::error::SandboxError;
use crate::guest::{promptly, whenever};
use crate::limits::Limits;
use crate::process::Process;
use crate::share::Disks;
use crate::spec::{Disk, without_host_numbers};
use crate::state::Transition;
use crate::stdio::StdioConfig;

/// The connections to a guest end before its machine is seen to have: a VMM gives much memory back.
const END_IS_SEEN: Duration = Duration::from_secs(10);

pub(super) const SIGKILL: u32 = 9;

/// For `map_err` on the agent's answers.
pub(super) fn refused(action: &'static str) -> impl FnOnce(RpcError) -> SandboxError {
    move |source| SandboxError::Agent { action, source }
}

impl Pod {
    /// The container `id`.
    ///
    /// # Errors
    /// When there is none.
    pub async fn container(&self, id: &str) -> Result<Arc<Container>, SandboxError> {
        let containers = self.containers.lock().await;
        containers
            .get(id)
            .cloned()
            .ok_or_else(|| SandboxError::NotFound {
                kind: "container",
                id: id.to_owned(),
            })
    }

    /// Whether there is a container, ended or not.
    pub async fn has_containers(&self) -> bool {
        !self.containers.lock().await.is_empty()
    }

    /// Takes from the guest what no container has any more.
    pub(super) fn let_go(
        &self,
        containers: &HashMap<String, Arc<Container>>,
        disks: &[Disk],
    ) -> Result<(), SandboxError> {
        let used = |disk: &Disk| {
            let mut all = containers.values().flat_map(|container| container.disks());
            all.any(|used| Disks::guest_path(used) == Disks::guest_path(disk))
        };
        for disk in disks.iter().filter(|disk| !used(disk)) {
            self.machine.share.disks().remove(disk)?;
        }
        Ok(())
    }

    /// A container whose processes are in the guest.
    async fn guest_container(&self, id: &str) -> Result<Arc<Container>, SandboxError> {
        let container = self.container(id).await?;
        match container.init().is_placeholder() {
            true => Err(SandboxError::Unsupported(
                "processes in the container that stands for the pod",
            )),
            false => Ok(container),
        }
    }

    pub(super) fn set_first(&self, container: &Container) {
        self.first.send_if_modified(|first| {
            let unset = first.is_none();
            first.get_or_insert_with(|| Arc::clone(container.init()));
            unset
        });
    }

    /// Makes the end of a process known when it comes.
    pub(super) fn follow(self: &Arc<Self>, container: &Arc<Container>, process: &Arc<Process>) {
        let (pod, container, process) =
            (Arc::clone(self), Arc::clone(container), Arc::clone(process));
        tokio::spawn(async move {
            let exit = match process.follow(&pod.guest).await {
                Ok(exit) => exit,
                Err(error) => {
                    // The machine's end is what ends the process then; a guest that only lies about the
                    // process is not worth more.
                    tracing::debug!(container = container.id(), %error, "lost sight of a process");
                    return;
                }
            };
            if exit.oom_killed && process.exec_id().is_empty() {
                container.tell_of_oom();
            }
            process.end(exit);
            if let Err(error) = pod.save().await {
                tracing::error!(%error, "cannot write the state file");
            }
        });
    }

    /// Lets a process run: init for the empty id.
    ///
    /// # Errors
    /// When it runs already, or the guest cannot run its program.
    pub async fn start_process(
        self: &Arc<Self>,
        id: &str,
        exec_id: &str,
    ) -> Result<(), SandboxError> {
        self.check_alive()?;
        let container = self.container(id).await?;
        let process = container.process(exec_id)?;
        process.check(Transition::Start)?;
        match &process.process {
            None if process.is_placeholder() => {}
            None => {
                self.serve_names().await;
                let request = container_request(id);
                let started = self
                    .guest
                    .agent()
                    .start_container(promptly(), &request)
                    .await;
                started.map_err(refused("start the container"))?;
            }
            Some(json) => {
                process
                    .open_stdio(&self.guest, &self.config.namespace)
                    .await?;
                let request = agent::ExecProcessRequest {
                    container_id: id.to_owned(),
                    exec_id: exec_id.to_owned(),
                    process: json.clone().into_bytes(),
                    stdio: Some(process.agent_stdio()).into(),
                    ..Default::default()
                };
                let started = self.guest.agent().exec_process(promptly(), &request).await;
                started.map_err(refused("start the process"))?;
                self.follow(&container, &process);
            }
        }
        // A program of a few milliseconds may have ended before this answer.
        if process.exit().is_none() {
            // Only the end can come between: then the state is right as it is.
            let _ = process.transition(Transition::Start);
        }
        if !exec_id.is_empty() {
            self.end_with_monitor(&container, &process);
        }
        self.save().await?;
        if exec_id.is_empty() {
            let hooks = container.hooks();
            let state = hooks.state(id, container.bundle(), "running", Some(process.pid()));
            hooks.after_start(&state).await;
        }
        Ok(())
    }

    /// Adds a process to a container; it waits to be started. `process` is the `process` object of
    /// an OCI specification, as JSON; `monitor` is what stands for it on the host, and is nobody's else.
    ///
    /// # Errors
    /// When the id is taken, or the container or the monitor has ended.
    pub async fn exec(
        &self,
        id: &str,
        exec_id: &str,
        process: String,
        stdio: StdioConfig,
        monitor: Option<ProcessRecord>,
    ) -> Result<(), SandboxError> {
        check_id(exec_id)?;
        self.check_alive()?;
        let container = self.guest_container(id).await?;
        if container.init().exit().is_some() {
            return Err(SandboxError::NotRunning(id.to_owned()));
        }
        let anchor = match monitor {
            Some(monitor) => self.anchor(Some(monitor))?,
            None => Arc::clone(container.init().anchor()),
        };
        container.add_exec(Process::new(id, exec_id, stdio, Some(process), anchor)?)?;
        let saved = self.save().await;
        if saved.is_err() {
            container.remove_exec(exec_id);
        }
        saved
    }

    /// Sends a signal to a process, or to all of the container.
    ///
    /// # Errors
    /// When the process has ended, or the guest fails.
    pub async fn kill(
        &self,
        id: &str,
        exec_id: &str,
        signal: u32,
        all: bool,
    ) -> Result<(), SandboxError> {
        let process = self.container(id).await?.process(exec_id)?;
        let ended = || SandboxError::NotFound {
            kind: "process",
            id: format!("{id} {exec_id}").trim_end().to_owned(),
        };
        if process.exit().is_some() {
            return Err(ended());
        }
        let signalled = process.signal(&self.guest, signal, all).await;
        match self.explain(signalled).await {
            Err(SandboxError::Ended(_)) => Err(ended()),
            signalled => signalled,
        }
    }

    /// Forgets a process that has ended, or a container and all that it left.
    ///
    /// # Errors
    /// When it runs, or something cannot be cleaned up.
    pub async fn delete(&self, id: &str, exec_id: &str) -> Result<Arc<Process>, SandboxError> {
        let container = self.container(id).await?;
        let process = container.process(exec_id)?;
        process.check(Transition::Delete)?;
        let removed = self.delete_in_guest(&process, id).await;
        match self.explain(removed).await {
            // With the guest goes all that is in it.
            Ok(()) | Err(SandboxError::Ended(_)) => {}
            Err(error) => return Err(error),
        }
        if exec_id.is_empty() {
            container.files().remove()?;
            let mut containers = self.containers.lock().await;
            containers.remove(id);
            self.let_go(&containers, container.disks())?;
        } else {
            container.remove_exec(exec_id);
        }
        // It is gone, and has to be able to go when no record can be written: when the disk is full.
        if let Err(error) = self.save().await {
            tracing::error!(%error, "cannot write the state file");
        }
        if exec_id.is_empty() {
            let hooks = container.hooks();
            let state = hooks.state(id, container.bundle(), "stopped", None);
            hooks.after_deletion(&state).await;
        }
        Ok(process)
    }

    async fn delete_in_guest(&self, process: &Process, id: &str) -> Result<(), SandboxError> {
        self.check_alive()?;
        if process.exec_id().is_empty() {
            if process.exit().is_none() {
                // Created and never started: its init waits and is killed.
                process.signal(&self.guest, SIGKILL, true).await?;
                process.wait().await;
            }
            self.remove_in_guest(process, id).await
        } else if process.exit().is_some() {
            let request = process.request();
            let removed = self
                .guest
                .agent()
                .remove_process(promptly(), &request)
                .await;
            removed.map(drop).map_err(refused("remove the process"))
        } else {
            Ok(())
        }
    }

    /// The outcome of a call of the guest. When it got lost with the guest, that is the error, as soon as it
    /// is known how the guest ended.
    pub async fn explain<T>(&self, outcome: Result<T, SandboxError>) -> Result<T, SandboxError> {
        let error = match outcome {
            Err(error) if error.is_silence() => error,
            outcome => return outcome,
        };
        match tokio::time::timeout(END_IS_SEEN, self.ended()).await {
            Ok(end) => Err(SandboxError::Ended(end.cause)),
            Err(_) => Err(error),
        }
    }

    async fn remove_in_guest(&self, init: &Process, id: &str) -> Result<(), SandboxError> {
        if init.is_placeholder() {
            return Ok(());
        }
        let removed = self
            .guest
            .agent()
            .remove_container(promptly(), &container_request(id))
            .await;
        removed.map(drop).map_err(refused("remove the container"))
    }

    /// Freezes all processes of a container.
    ///
    /// # Errors
    /// When it does not run, or the guest fails.
    pub async fn pause(&self, id: &str) -> Result<(), SandboxError> {
        let container = self.guest_container(id).await?;
        container.init().check(Transition::Pause)?;
        let paused = self
            .guest
            .agent()
            .pause_container(promptly(), &container_request(id))
            .await;
        paused.map_err(refused("pause the container"))?;
        container.init().transition(Transition::Pause)?;
        self.save().await
    }

    /// Thaws all processes of a container.
    ///
    /// # Errors
    /// When it is not paused, or the guest fails.
    pub async fn resume(&self, id: &str) -> Result<(), SandboxError> {
        let container = self.guest_container(id).await?;
        container.init().check(Transition::Resume)?;
        let resumed = self
            .guest
            .agent()
            .resume_container(promptly(), &container_request(id))
            .await;
        resumed.map_err(refused("resume the container"))?;
        container.init().transition(Transition::Resume)?;
        self.save().await
    }

    /// Changes a container's limits. `resources` is a `linux.resources` object as JSON.
    ///
    /// # Errors
    /// When the guest refuses.
    pub async fn update(&self, id: &str, resources: Vec<u8>) -> Result<(), SandboxError> {
        let container = self.guest_container(id).await?;
        let update: LinuxResources = serde_json::from_slice(&resources)
            .map_err(|_| SandboxError::Invalid("the resources are none of the specification's"))?;
        let limits = container.limits().updated(Limits::of(Some(&update)));
        {
            let containers = self.containers.lock().await;
            self.grow_for(others(&containers, id).chain([limits]))
                .await?;
        }
        let request = agent::UpdateContainerRequest {
            container_id: id.to_owned(),
            resources: for_guest(update.clone()),
            ..Default::default()
        };
        let updated = self
            .guest
            .agent()
            .update_container(promptly(), &request)
            .await;
        updated.map_err(refused("update the container"))?;
        container.set_limits(limits);
        self.save().await?;
        // After the guest's: what is there less of now is not in use any more. A machine that grew has got its
        // room before.
        let on_host = HostLimits::of(Some(&update));
        self.limit_on_host(on_host, limits.memory).await
    }

    /// A container's figures; the whole guest's of the one that stands for the pod.
    ///
    /// # Errors
    /// When the guest fails.
    pub async fn stats(&self, id: &str) -> Result<agent::ContainerStatsResponse, SandboxError> {
        if self.container(id).await?.init().is_placeholder() {
            let all = agent::Empty::default();
            let stats = self.guest.agent().guest_stats(promptly(), &all).await;
            return stats.map_err(refused("read the guest's figures"));
        }
        let stats = self
            .guest
            .agent()
            .container_stats(promptly(), &container_request(id))
            .await;
        stats.map_err(refused("read the container's figures"))
    }

    /// Guest process ids of a container's processes. Of one that has ended, or stands for the pod, its
    /// [`Process::pid`]: containerd takes a pod process whose containers have no process for one that was
    /// never used, and ends it, when it is started again.
    ///
    /// # Errors
    /// When the guest fails.
    pub async fn pids(&self, id: &str) -> Result<Vec<u32>, SandboxError> {
        let init = Arc::clone(self.container(id).await?.init());
        if init.exit().is_some() || init.is_placeholder() {
            return Ok(vec![init.pid()]);
        }
        let list = self
            .guest
            .agent()
            .list_processes(promptly(), &container_request(id))
            .await;
        list.map(|list| list.pids)
            .map_err(refused("list the container's processes"))
    }

    /// Waits for the guest's kernel to kill for want of memory after event `after` (0: the first of
    /// all), and answers with the containers that it hit and the number of the last event.
    ///
    /// # Errors
    /// When the guest fails.
    pub async fn next_ooms(&self, after: u64) -> Result<(Vec<String>, u64), SandboxError> {
        let request = agent::NextEventsRequest {
            after_sequence: after,
            ..Default::default()
        };
        let answer = self.guest.agent().next_events(whenever(), &request).await;
        let events = answer.map_err(refused("tell its events"))?.events;
        let last = events.iter().map(|event| event.sequence).max();
        let ids = events.into_iter().filter_map(|event| match event.kind {
            Some(agent::event::Kind::Oom(oom)) => Some(oom.container_id),
            Some(_) | None => None,
        });
        Ok((ids.collect(), last.unwrap_or(after)))
    }

    /// Gives a process's terminal another size, in characters.
    ///
    /// # Errors
    /// When it has no terminal, or the guest fails.
    pub async fn resize(
        &self,
        id: &str,
        exec_id: &str,
        columns: u32,
        rows: u32,
    ) -> Result<(), SandboxError> {
        let process = self.container(id).await?.process(exec_id)?;
        process.resize(&self.guest, columns, rows).await
    }
}

/// The limits of all containers that run but `id`.
pub(super) fn others(
    containers: &HashMap<String, Arc<Container>>,
    id: &str,
) -> impl Iterator<Item = Limits> {
    let others = containers
        .values()
        .filter(move |container| container.id() != id);
    let running = others.filter(|container| container.init().exit().is_none());
    running.map(|container| container.limits())
}

/// An update as the guest gets it.
fn for_guest(mut update: LinuxResources) -> Vec<u8> {
    if let Some(cpu) = update.cpu_mut() {
        without_host_numbers(cpu);
    }
    serde_json::to_vec(&update).expect("resources encode")
}

fn container_request(id: &str) -> agent::ContainerRequest {
    agent::ContainerRequest {
        container_id: id.to_owned(),
        ..Default::default()
    }
}
