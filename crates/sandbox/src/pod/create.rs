//! How a container comes into a pod.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use hull_agent_api::agent;

use super::Pod;
use super::calls::{others, refused};
use crate::container::{Container, CreateContainer, Files, PreparedContainer, check_id};
use crate::error::SandboxError;
use crate::guest::promptly;
use crate::guest_root::GuestRoot;
use crate::hooks::HostHooks;
use crate::limits::Limits;
use crate::process::Process;
use crate::share::Disks;
use crate::spec::{Disk, GuestSpec};

/// The PID namespace that a container is in.
#[derive(Debug, PartialEq, Eq)]
enum PidNamespace {
    /// Its own, or the guest's where the specification asks for none.
    Own,
    /// The one that all containers share which ask for it.
    Shared,
    /// Another container's, of this id.
    Of(String),
}

impl PidNamespace {
    /// Engines name a namespace by a process that is in it: one that stands for a container of this pod, or
    /// for the pod itself.
    fn choose(containers: &HashMap<String, Arc<Container>>, spec: &GuestSpec) -> Self {
        let Some(path) = &spec.joined_pid_namespace else {
            return Self::Own;
        };
        let named = containers.values().find(|container| {
            let init = container.init();
            !init.is_placeholder() && *path == Path::new(&format!("/proc/{}/ns/pid", init.pid()))
        });
        named.map_or(Self::Shared, |container| {
            Self::Of(container.id().to_owned())
        })
    }
}

impl Pod {
    /// Makes a container whose init waits to be started.
    ///
    /// # Errors
    /// When its id is taken, its files cannot be mounted, or the guest refuses. Nothing is left then.
    pub async fn create(
        self: &Arc<Self>,
        prepared: PreparedContainer,
    ) -> Result<Arc<Container>, SandboxError> {
        self.check_alive()?;
        let request = &prepared.request;
        // Held until the end: of two creates with one id the second fails.
        let mut containers = self.containers.lock().await;
        check_free(&containers, &request.id)?;
        let init = Process::new(
            &request.id,
            "",
            request.stdio.clone(),
            None,
            self.anchor(request.monitor)?,
        )?;
        let files = Files::mount(self.machine.share.dir(), &prepared)?;
        let root_disk = prepared.guest_root.as_ref().and_then(GuestRoot::disk);
        let disks: Vec<_> = prepared
            .guest_spec
            .disks
            .iter()
            .chain(root_disk)
            .cloned()
            .collect();
        let pid_namespace = PidNamespace::choose(&containers, &prepared.guest_spec);
        let limits = prepared.guest_spec.limits();
        let spec_hooks = &prepared.guest_spec.hooks;
        let made = async {
            for disk in &disks {
                self.machine.share.disks().add(disk)?;
            }
            self.grow_for(others(&containers, "").chain([limits]))
                .await?;
            let state =
                spec_hooks.state(&request.id, &request.bundle, "creating", Some(init.pid()));
            spec_hooks.at_creation(&state).await?;
            self.create_in_guest(&init, &prepared, pid_namespace).await
        };
        if let Err(error) = made.await {
            files.remove()?;
            self.let_go(&containers, &disks)?;
            return Err(error);
        }
        let container = Arc::new(Container::new(
            request,
            init,
            files,
            disks,
            limits,
            spec_hooks.clone(),
            prepared.guest_spec.notify_socket.clone(),
        ));
        containers.insert(request.id.clone(), Arc::clone(&container));
        drop(containers);
        self.set_first(&container);
        self.follow(&container, container.init());
        self.end_with_monitor(&container, container.init());
        self.save_or_delete(container).await
    }

    /// Makes a container that only holds the pod together for its engine: no program runs in it, and
    /// none can be added.
    ///
    /// # Errors
    /// When its id is taken.
    pub async fn create_placeholder(
        self: &Arc<Self>,
        request: CreateContainer,
    ) -> Result<Arc<Container>, SandboxError> {
        check_id(&request.id)?;
        let mut containers = self.containers.lock().await;
        // With the lock: the pod's end passes all containers by once.
        self.check_alive()?;
        check_free(&containers, &request.id)?;
        let anchor = self.anchor(request.monitor)?;
        let init = Process::placeholder(&request.id, request.stdio.clone(), anchor);
        let files = Files::of(self.machine.share.dir(), &request.id);
        let container = Arc::new(Container::new(
            &request,
            init,
            files,
            Vec::new(),
            Limits::default(),
            HostHooks::default(),
            None,
        ));
        containers.insert(request.id, Arc::clone(&container));
        drop(containers);
        self.end_with_monitor(&container, container.init());
        self.save_or_delete(container).await
    }

    async fn create_in_guest(
        &self,
        init: &Process,
        prepared: &PreparedContainer,
        pid_namespace: PidNamespace,
    ) -> Result<(), SandboxError> {
        init.open_stdio(&self.guest, &self.config.namespace).await?;
        let guest_spec = &prepared.guest_spec;
        let notify_socket = match &guest_spec.notify_socket {
            Some(socket) => Some(agent::NotifySocket {
                path: socket.guest.display().to_string(),
                token: self.open_notify_socket(socket, init.pid()).await?,
                ..Default::default()
            }),
            None => None,
        };
        let filter = guest_spec
            .seccomp
            .as_ref()
            .map(|program| agent::SeccompFilter {
                program: program.instructions.clone(),
                flags: program.flags,
                ..Default::default()
            });
        let request = agent::CreateContainerRequest {
            container_id: prepared.request.id.clone(),
            spec: serde_json::to_vec(&guest_spec.spec).expect("a specification encodes"),
            storages: guest_spec.storages.clone(),
            disks: guest_spec.disks.iter().map(guest_disk).collect(),
            seccomp_filter: filter.into(),
            notify_socket: notify_socket.into(),
            stdio: Some(init.agent_stdio()).into(),
            shared_pid_namespace: pid_namespace == PidNamespace::Shared,
            pid_namespace_of: match pid_namespace {
                PidNamespace::Of(id) => id,
                PidNamespace::Own | PidNamespace::Shared => String::new(),
            },
            ..Default::default()
        };
        let created = self
            .guest
            .agent()
            .create_container(promptly(), &request)
            .await;
        created.map(drop).map_err(refused("create the container"))
    }

    /// Notes down a container that was made; one that cannot be is deleted again.
    async fn save_or_delete(
        self: &Arc<Self>,
        container: Arc<Container>,
    ) -> Result<Arc<Container>, SandboxError> {
        let Err(error) = self.save().await else {
            return Ok(container);
        };
        if let Err(clean_up) = self.delete(container.id(), "").await {
            tracing::error!(error = %clean_up, "cannot clean up after a failed create");
        }
        Err(error)
    }
}

fn check_free(containers: &HashMap<String, Arc<Container>>, id: &str) -> Result<(), SandboxError> {
    match containers.contains_key(id) {
        true => Err(SandboxError::AlreadyExists {
            kind: "container",
            id: id.to_owned(),
        }),
        false => Ok(()),
    }
}

fn guest_disk(disk: &Disk) -> agent::Disk {
    agent::Disk {
        path: disk.path.display().to_string(),
        file: Disks::guest_path(disk).display().to_string(),
        read_only: disk.read_only,
        ..Default::default()
    }
}
