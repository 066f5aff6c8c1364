//! What containerd is told of a pod's processes, in the order in which it has to learn it: a process
//! is created, started, ended and deleted.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex};

use containerd_shim_protos::api::CreateTaskRequest;
use containerd_shim_protos::events::task::{
    TaskCreate, TaskDelete, TaskExecAdded, TaskExecStarted, TaskExit, TaskIO, TaskOOM, TaskPaused,
    TaskResumed, TaskStart,
};
use containerd_shim_protos::topics;
use hull_sandbox::{Container, ExitStatus, Pod, Process};
use tokio::sync::Mutex as AsyncMutex;
use tokio::task::JoinHandle;

use super::timestamp;
use crate::events::Events;

/// A process: its container's id and its exec id.
type Key = (String, String);

/// A process that was told of.
#[derive(Debug)]
struct Watched {
    /// Held while the process is started: its end is told when its start is.
    starting: Arc<AsyncMutex<()>>,
    /// Tells of its end.
    end: JoinHandle<()>,
}

/// Tells of processes.
#[derive(Debug)]
pub(super) struct Told {
    events: Events,
    watched: Mutex<BTreeMap<Key, Watched>>,
}

impl Told {
    pub(super) fn new(events: Events) -> Self {
        Self {
            events,
            watched: Mutex::default(),
        }
    }

    /// Whether somebody is told.
    pub(super) fn is_heard(&self) -> bool {
        self.events.are_heard()
    }

    /// A container was made.
    pub(super) fn created(&self, container: &Container, request: &CreateTaskRequest) {
        let io = TaskIO {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
            terminal: request.terminal,
            ..Default::default()
        };
        let event = TaskCreate {
            container_id: request.id.clone(),
            bundle: request.bundle.clone(),
            rootfs: request.rootfs.clone(),
            io: Some(io).into(),
            pid: container.init().pid(),
            ..Default::default()
        };
        self.events.send(topics::TASK_CREATE_EVENT_TOPIC, &event);
        self.watch(&request.id, container.init());
    }

    fn watch(&self, id: &str, process: &Arc<Process>) {
        if !self.events.are_heard() {
            return;
        }
        let starting = Arc::new(AsyncMutex::new(()));
        let key = (id.to_owned(), process.exec_id().to_owned());
        let end = tokio::spawn(tell_of_end(
            self.events.clone(),
            key.clone(),
            Arc::clone(process),
            Arc::clone(&starting),
        ));
        let mut watched = self.watched.lock().expect("no holder of this lock panics");
        watched.insert(key, Watched { starting, end });
    }

    /// Starts a process by `start` and tells of it.
    pub(super) async fn starting<E>(
        &self,
        id: &str,
        process: &Arc<Process>,
        start: impl Future<Output = Result<(), E>>,
    ) -> Result<(), E> {
        let exec_id = process.exec_id();
        let key = (id.to_owned(), exec_id.to_owned());
        let starting = {
            let watched = self.watched.lock().expect("no holder of this lock panics");
            watched
                .get(&key)
                .map(|process| Arc::clone(&process.starting))
        };
        let _held = match &starting {
            Some(starting) => Some(starting.lock().await),
            None => None,
        };
        start.await?;
        if exec_id.is_empty() {
            let event = TaskStart {
                container_id: id.to_owned(),
                pid: process.pid(),
                ..Default::default()
            };
            self.events.send(topics::TASK_START_EVENT_TOPIC, &event);
        } else {
            let event = TaskExecStarted {
                container_id: id.to_owned(),
                exec_id: exec_id.to_owned(),
                pid: process.pid(),
                ..Default::default()
            };
            self.events
                .send(topics::TASK_EXEC_STARTED_EVENT_TOPIC, &event);
            self.watch(id, process);
        }
        Ok(())
    }

    pub(super) fn exec_added(&self, id: &str, exec_id: &str) {
        let event = TaskExecAdded {
            container_id: id.to_owned(),
            exec_id: exec_id.to_owned(),
            ..Default::default()
        };
        self.events
            .send(topics::TASK_EXEC_ADDED_EVENT_TOPIC, &event);
    }

    pub(super) fn paused(&self, id: &str) {
        let event = TaskPaused {
            container_id: id.to_owned(),
            ..Default::default()
        };
        self.events.send(topics::TASK_PAUSED_EVENT_TOPIC, &event);
    }

    pub(super) fn resumed(&self, id: &str) {
        let event = TaskResumed {
            container_id: id.to_owned(),
            ..Default::default()
        };
        self.events.send(topics::TASK_RESUMED_EVENT_TOPIC, &event);
    }

    /// A process was deleted; its end is told before.
    pub(super) async fn deleted(&self, id: &str, process: &Process, exit: &ExitStatus) {
        let key = (id.to_owned(), process.exec_id().to_owned());
        let watched = {
            let mut watched = self.watched.lock().expect("no holder of this lock panics");
            watched.remove(&key)
        };
        if let Some(watched) = watched {
            match process.exit() {
                // It panics only if its process does.
                Some(_) => drop(watched.end.await),
                None => watched.end.abort(),
            }
        }
        if process.exec_id().is_empty() {
            let event = TaskDelete {
                container_id: id.to_owned(),
                pid: process.pid(),
                exit_status: exit.code,
                exited_at: timestamp(exit.at_ns),
                ..Default::default()
            };
            self.events.send(topics::TASK_DELETE_EVENT_TOPIC, &event);
        }
    }
}

async fn tell_of_end(
    events: Events,
    (container_id, exec_id): Key,
    process: Arc<Process>,
    starting: Arc<AsyncMutex<()>>,
) {
    let exit = process.wait().await;
    let _started = starting.lock().await;
    let id = match exec_id.is_empty() {
        true => container_id.clone(),
        false => exec_id,
    };
    if exit.oom_killed && id == container_id {
        // The guest's own event may come later, when the engine has made up its mind.
        tell_of_oom(&events, &container_id);
    }
    let event = TaskExit {
        container_id,
        id,
        pid: process.pid(),
        exit_status: exit.code,
        exited_at: timestamp(exit.at_ns),
        ..Default::default()
    };
    events.send(topics::TASK_EXIT_EVENT_TOPIC, &event);
}

fn tell_of_oom(events: &Events, container_id: &str) {
    let event = TaskOOM {
        container_id: container_id.to_owned(),
        ..Default::default()
    };
    events.send(topics::TASK_OOM_EVENT_TOPIC, &event);
}

/// Tells of every container that the guest's kernel kills in for want of memory, until the guest is
/// gone.
pub async fn tell_of_ooms(pod: Arc<Pod>, events: Events) {
    let mut last = 0;
    while let Ok((ids, sequence)) = pod.next_ooms(last).await {
        last = sequence;
        let ids: HashSet<String> = ids.into_iter().collect();
        for id in ids {
            tell_of_oom(&events, &id);
        }
    }
}
