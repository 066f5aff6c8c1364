//! The pod: what its containers share, and the containers.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hull_agent_api::agent::{
    ConfigureSandboxRequest, CreateContainerRequest, ExecProcessRequest, Network,
};
use nix::sys::reboot::{RebootMode, reboot};

use crate::cgroup::{Cgroup, OomCounter};
use crate::container::{self, Container, Parts};
use crate::error::AgentError;
use crate::events::Events;
use crate::helper::{CreateRequest, Filter, Request};
use crate::launch::Launcher;
use crate::names::Names;
use crate::notify::Notifications;
use crate::process::{Membership, Process, Streams};
use crate::size::{self, AddedMemory};
use crate::spec::{self, NamespaceKind, Resources, Spec};
use crate::stdio::Parked;
use crate::storage::{self, HostDisks, Storages};
use crate::watch::Watch;
use crate::{guest, net};

/// The longest id, in bytes.
const MAX_ID: usize = 128;

/// Everything that runs in this guest.
#[derive(Debug)]
pub(crate) struct Sandbox {
    pub(crate) parked: Arc<Parked>,
    pub(crate) events: Events,
    pub(crate) names: Names,
    pub(crate) notifications: Notifications,
    launcher: Arc<Launcher>,
    containers: Mutex<HashMap<String, Slot>>,
    shared: tokio::sync::Mutex<Shared>,
    disks: HostDisks,
    added_memory: Arc<Mutex<AddedMemory>>,
    network: Mutex<net::Configured>,
}

/// A container, or the place of one that is being made or removed.
#[derive(Debug)]
enum Slot {
    Busy,
    Ready(Arc<Container>),
}

/// What `ConfigureSandbox` sets up. Held while it is changed.
#[derive(Debug, Default)]
struct Shared {
    configured: bool,
    mount_points: Vec<PathBuf>,
    /// The first process of the PID namespace that containers may share.
    pid_namespace_of: Option<i32>,
}

impl Sandbox {
    pub(crate) fn new(launcher: Arc<Launcher>) -> Self {
        Self {
            parked: Arc::default(),
            events: Events::default(),
            names: Names::default(),
            notifications: Notifications::default(),
            launcher,
            containers: Mutex::default(),
            shared: tokio::sync::Mutex::default(),
            disks: HostDisks::default(),
            added_memory: Arc::default(),
            network: Mutex::default(),
        }
    }

    /// Changes what differs from what the host has said of the network before.
    pub(crate) fn configure_network(&self, network: &Network) -> Result<(), AgentError> {
        let configured = self.network.lock();
        // Nothing panics while it is held.
        configured
            .unwrap_or_else(PoisonError::into_inner)
            .bring_to(network)
    }

    fn containers(&self) -> MutexGuard<'_, HashMap<String, Slot>> {
        // Nothing panics while it is held.
        self.containers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Prepares the guest.
    pub(crate) async fn configure(
        &self,
        request: &ConfigureSandboxRequest,
    ) -> Result<(), AgentError> {
        let mut shared = self.shared.lock().await;
        if shared.configured {
            return Err(AgentError::SandboxState {
                state: "configured",
                action: "configure it again",
            });
        }
        if request.realtime_ns != 0 {
            guest::set_clock(request.realtime_ns)?;
        }
        if !request.entropy.is_empty() {
            guest::reseed_random(&request.entropy)?;
        }
        if !request.hostname.is_empty() {
            nix::unistd::sethostname(&request.hostname)
                .map_err(|errno| AgentError::io("set the host name")(errno.into()))?;
        }
        for (name, value) in &request.sysctls {
            guest::set_sysctl(name, value)?;
        }
        if let Some(network) = request.network.as_ref() {
            self.configure_network(network)?;
        }
        shared.mount_points = storage::mount_all(&request.storages).await?;
        shared.configured = true;
        Ok(())
    }

    /// Takes CPUs and memory into use; both are counted in all.
    pub(crate) async fn grow(&self, cpus: u32, added_memory_mib: u32) -> Result<(), AgentError> {
        let added = Arc::clone(&self.added_memory);
        let grow = move || {
            let mut added = added.lock().unwrap_or_else(PoisonError::into_inner);
            added.grow_to(added_memory_mib)?;
            size::online_cpus(cpus)
        };
        match tokio::task::spawn_blocking(grow).await {
            Ok(result) => result,
            Err(panicked) => Err(AgentError::io("grow")(panicked.into())),
        }
    }

    /// A process of the PID namespace that containers share, which is made when the first one asks.
    async fn shared_pid_namespace(&self, shared: &mut Shared) -> Result<i32, AgentError> {
        if let Some(holder) = shared.pid_namespace_of {
            return Ok(holder);
        }
        let expectation = self.launcher.reaper.expect();
        let holder = self.launcher.run(Request::PidNamespace, Vec::new()).await?;
        drop(expectation);
        shared.pid_namespace_of = Some(holder.pid);
        Ok(holder.pid)
    }

    /// Makes a container.
    pub(crate) async fn create(
        &self,
        request: CreateContainerRequest,
    ) -> Result<Arc<Container>, AgentError> {
        check_id("container_id", &request.container_id)?;
        let mut spec = Spec::parse(&request.spec)?;
        let filter = request.seccomp_filter.as_ref();
        let filter = filter.map(Filter::from_host).transpose()?;
        let pid_namespace_of = {
            let mut shared = self.shared.lock().await;
            if !shared.configured {
                return Err(AgentError::SandboxState {
                    state: "not configured",
                    action: "make a container",
                });
            }
            for storage in request.storages.iter().filter(|storage| storage.of_pod) {
                if !shared.mount_points.contains(&storage.target.clone().into()) {
                    let mounted = storage::mount_all(std::slice::from_ref(storage)).await?;
                    shared.mount_points.extend(mounted);
                }
            }
            match (request.shared_pid_namespace, &*request.pid_namespace_of) {
                (false, "") => None,
                (true, "") => Some(self.shared_pid_namespace(&mut shared).await?),
                (false, id) => Some(self.container(id)?.running_init()?),
                (true, id) => {
                    return Err(AgentError::Invalid {
                        field: "pid_namespace_of beside shared_pid_namespace",
                        value: id.to_owned(),
                    });
                }
            }
        };
        let reserved = self.reserve(&request.container_id)?;
        let streams = Streams::claim(request.stdio.get_or_default(), &self.parked)?;
        if let Some(socket) = request.notify_socket.as_ref() {
            self.notifications
                .make(&request.container_id, socket, &self.parked)?;
        }
        let own = request
            .storages
            .into_iter()
            .filter(|storage| !storage.of_pod);
        let disks = self.disks.attach(&request.disks, &mut spec).await?;
        let mount_points = storage::mount_all(&own.collect::<Vec<_>>()).await?;
        let storages = Storages {
            mount_points,
            disks,
        };
        let made = self
            .create_in(
                &request.container_id,
                spec,
                filter,
                pid_namespace_of,
                streams,
                &storages,
            )
            .await;
        match made {
            Ok(container) => {
                let container = Arc::new(container);
                self.watch_for_oom(&container);
                reserved.fill(Arc::clone(&container));
                Ok(container)
            }
            Err(error) => {
                storages.let_go().await;
                Err(error)
            }
        }
    }

    async fn create_in(
        &self,
        id: &str,
        mut spec: Spec,
        filter: Option<Filter>,
        pid_namespace_of: Option<i32>,
        streams: Streams,
        storages: &Storages,
    ) -> Result<Container, AgentError> {
        spec.process.terminal = streams.is_terminal();
        let cgroup = Cgroup::create(id)?;
        let made = async {
            let (start, init_start) = container::start_socket()?;
            let request = Request::Create(Box::new(CreateRequest {
                id: id.to_owned(),
                spec: spec.clone(),
                cgroup: cgroup.path().to_owned(),
                pid_namespace_of,
                filter: filter.clone(),
                terminal: streams.new_terminal(&spec.process),
            }));
            let owns_pid_namespace =
                spec.linux.creates(NamespaceKind::Pid) && pid_namespace_of.is_none();
            let membership = Membership {
                cgroup: cgroup.clone(),
                // The kernel does so for the first process of a PID namespace.
                ends_container: !owns_pid_namespace,
            };
            let fds = vec![init_start];
            // Both take their time, and init runs nothing of the container's before it is started.
            let (restricted, init) = tokio::join!(
                restrict(cgroup.clone(), spec.linux.resources.clone()),
                Process::launch(request, fds, streams, membership, &self.launcher),
            );
            let init = init?;
            if let Err(error) = restricted {
                init.close();
                return Err(error);
            }
            Ok::<_, AgentError>((init, start))
        };
        match made.await {
            Ok((init, start)) => Ok(Container::new(Parts {
                id: id.to_owned(),
                cgroup,
                init,
                storages: storages.clone(),
                spec,
                start,
                filter,
                launcher: Arc::clone(&self.launcher),
            })),
            Err(error) => {
                if let Err(left) = discard(&cgroup).await {
                    log::error!("{}", crate::helper::chain(&left));
                }
                Err(error)
            }
        }
    }

    /// Reports what the OOM killer does to a container, until its cgroup is gone.
    fn watch_for_oom(&self, container: &Container) {
        let cgroup = container.cgroup.clone();
        let id = container.id.clone();
        let watch = match Watch::new(&cgroup.memory_events_file()) {
            Ok(watch) => watch,
            Err(error) => {
                log::warn!("{}", crate::helper::chain(&error));
                return;
            }
        };
        let events = self.events.clone();
        tokio::spawn(async move {
            let mut counter = OomCounter::default();
            // Reading fails once the cgroup is removed.
            while watch.changed().await.is_ok() {
                if counter.advanced(&cgroup) {
                    log::warn!("container {id}: a process was killed for lack of memory");
                    events.out_of_memory(&id);
                }
            }
        });
    }

    pub(crate) fn container(&self, id: &str) -> Result<Arc<Container>, AgentError> {
        match self.containers().get(id) {
            Some(Slot::Ready(container)) => Ok(Arc::clone(container)),
            Some(Slot::Busy) | None => Err(AgentError::NotFound {
                kind: "container",
                id: id.to_owned(),
            }),
        }
    }

    /// Starts a further process in a container.
    pub(crate) async fn exec(
        &self,
        request: ExecProcessRequest,
    ) -> Result<Arc<Process>, AgentError> {
        let container = self.container(&request.container_id)?;
        check_id("exec_id", &request.exec_id)?;
        let mut process: spec::Process = spec::from_json("process", &request.process)?;
        spec::check_cwd(&process)?;
        let streams = Streams::claim(request.stdio.get_or_default(), &self.parked)?;
        process.terminal = streams.is_terminal();
        container.exec(&request.exec_id, process, streams).await
    }

    /// Removes a container that has ended, and all that it left.
    pub(crate) async fn remove(&self, id: &str) -> Result<(), AgentError> {
        let container = self.container(id)?;
        if !container.state().can_remove() {
            return Err(AgentError::WrongState {
                id: id.to_owned(),
                state: container.state().name(),
                action: "remove it",
            });
        }
        // Nobody else may work on it from here on.
        self.containers().insert(id.to_owned(), Slot::Busy);
        let result = self.take_down(&container).await;
        let mut containers = self.containers();
        match result {
            Ok(()) => {
                containers.remove(id);
                Ok(())
            }
            Err(error) => {
                containers.insert(id.to_owned(), Slot::Ready(container));
                Err(error)
            }
        }
    }

    async fn take_down(&self, container: &Container) -> Result<(), AgentError> {
        container.kill_and_wait().await?;
        container.close();
        container.cgroup.remove()?;
        container.take_storages().let_go().await;
        self.notifications.remove(&container.id);
        container.run_poststop_hooks().await;
        Ok(())
    }

    /// Ends all containers and leaves the file systems clean.
    pub(crate) async fn shut_down(&self) {
        let containers: Vec<_> = self
            .containers()
            .values()
            .filter_map(|slot| match slot {
                Slot::Ready(container) => Some(Arc::clone(container)),
                Slot::Busy => None,
            })
            .collect();
        for container in containers {
            if let Err(error) = container.kill_and_wait().await {
                log::error!("{}", crate::helper::chain(&error));
            }
            container.close();
            container.take_storages().let_go().await;
        }
        let mount_points = std::mem::take(&mut self.shared.lock().await.mount_points);
        nix::unistd::sync();
        storage::unmount_all(&mount_points);
    }

    fn reserve(&self, id: &str) -> Result<Reserved<'_>, AgentError> {
        let mut containers = self.containers();
        if containers.contains_key(id) {
            return Err(AgentError::Exists {
                kind: "container",
                id: id.to_owned(),
            });
        }
        containers.insert(id.to_owned(), Slot::Busy);
        Ok(Reserved {
            sandbox: self,
            id: id.to_owned(),
            filled: false,
        })
    }
}

/// Sets a container's limits.
async fn restrict(cgroup: Cgroup, resources: Resources) -> Result<(), AgentError> {
    match tokio::task::spawn_blocking(move || cgroup.restrict(&resources)).await {
        Ok(result) => Ok(result?),
        Err(panicked) => Err(AgentError::io("set a container's limits")(panicked.into())),
    }
}

/// Where the kernel shows what the firmware has told it, if there is firmware that knows of power.
const ACPI_TABLES: &str = "/sys/firmware/acpi/tables";

/// Ends a guest whose sandbox is shut down.
pub(crate) fn restart_machine() {
    // Where nothing can be switched off, a restart ends the virtual machine: it is set up not to come up again.
    let mode = match Path::new(ACPI_TABLES).exists() {
        true => RebootMode::RB_POWER_OFF,
        false => RebootMode::RB_AUTOBOOT,
    };
    let Err(errno) = reboot(mode);
    log::error!("cannot end the guest: {errno}");
}

/// Removes the cgroup of a container that came to nothing.
async fn discard(cgroup: &Cgroup) -> Result<(), AgentError> {
    cgroup.kill()?;
    container::empty(cgroup).await?;
    Ok(cgroup.remove()?)
}

/// Holds a container's id while it is being made; frees it when that fails.
struct Reserved<'a> {
    sandbox: &'a Sandbox,
    id: String,
    filled: bool,
}

impl Reserved<'_> {
    fn fill(mut self, container: Arc<Container>) {
        self.filled = true;
        self.sandbox
            .containers()
            .insert(self.id.clone(), Slot::Ready(container));
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        if !self.filled {
            self.sandbox.notifications.remove(&self.id);
            self.sandbox.containers().remove(&self.id);
        }
    }
}

/// Ids become file names.
fn check_id(field: &'static str, id: &str) -> Result<(), AgentError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_.+-".contains(c);
    if id.is_empty() || id.len() > MAX_ID || id == "." || id == ".." || !id.chars().all(plain) {
        return Err(AgentError::Invalid {
            field,
            value: id.chars().take(MAX_ID).collect(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_plain_names() {
        for id in ["a", "web-1_x.y+z", &"a".repeat(MAX_ID)] {
            assert!(check_id("id", id).is_ok(), "{id}");
        }
        for id in [
            "",
            ".",
            "..",
            "a/b",
            "a b",
            "ä",
            "a\n",
            &"a".repeat(MAX_ID + 1),
        ] {
            assert!(check_id("id", id).is_err(), "{id}");
        }
    }

    #[test]
    fn an_id_is_reserved_once_and_freed() {
        let (server, _helpers) = std::os::unix::net::UnixStream::pair().unwrap();
        let launcher = Launcher::new(server, Arc::default());
        let sandbox = Sandbox::new(Arc::new(launcher));
        let reserved = sandbox.reserve("a").unwrap();
        assert!(matches!(
            sandbox.reserve("a"),
            Err(AgentError::Exists { .. })
        ));
        assert!(sandbox.container("a").is_err());
        drop(reserved);
        assert!(sandbox.reserve("a").is_ok());
    }
}
