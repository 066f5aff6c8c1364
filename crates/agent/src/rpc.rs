//! The host's calls.

use std::sync::Arc;

use async_trait::async_trait;
use hull_agent_api::agent as api;
use hull_agent_api::agent_ttrpc::Agent;
use ttrpc::r#async::TtrpcContext;

use crate::cgroup;
use crate::container::terminal_size;
use crate::error::AgentError;
use crate::sandbox::Sandbox;
use crate::{forward, guest, spec};

/// Serves [`Agent`].
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) sandbox: Arc<Sandbox>,
    /// Told when the guest is to end.
    pub(crate) shutdown: tokio::sync::mpsc::Sender<()>,
}

type Reply<T> = ttrpc::Result<T>;

fn empty() -> Reply<api::Empty> {
    Ok(api::Empty::new())
}

fn created(pid: i32) -> api::ProcessCreated {
    let mut created = api::ProcessCreated::new();
    // Pids are positive.
    created.pid = pid.cast_unsigned();
    created
}

/// Nanoseconds since the epoch; 0 before it.
fn nanoseconds(time: std::time::SystemTime) -> i64 {
    let since = time
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

#[async_trait]
impl Agent for Service {
    async fn configure_sandbox(
        &self,
        _context: &TtrpcContext,
        request: api::ConfigureSandboxRequest,
    ) -> Reply<api::ConfigureSandboxResponse> {
        self.sandbox.configure(&request).await?;
        let mut response = api::ConfigureSandboxResponse::new();
        response.guest = Some(guest::info()).into();
        Ok(response)
    }

    async fn configure_network(
        &self,
        _context: &TtrpcContext,
        request: api::Network,
    ) -> Reply<api::Empty> {
        self.sandbox.configure_network(&request)?;
        empty()
    }

    async fn create_container(
        &self,
        _context: &TtrpcContext,
        request: api::CreateContainerRequest,
    ) -> Reply<api::ProcessCreated> {
        let container = self.sandbox.create(request).await?;
        Ok(created(container.init.pid))
    }

    async fn start_container(
        &self,
        _context: &TtrpcContext,
        request: api::ContainerRequest,
    ) -> Reply<api::Empty> {
        self.sandbox
            .container(&request.container_id)?
            .start()
            .await?;
        empty()
    }

    async fn remove_container(
        &self,
        _context: &TtrpcContext,
        request: api::ContainerRequest,
    ) -> Reply<api::Empty> {
        self.sandbox.remove(&request.container_id).await?;
        empty()
    }

    async fn pause_container(
        &self,
        _context: &TtrpcContext,
        request: api::ContainerRequest,
    ) -> Reply<api::Empty> {
        self.sandbox
            .container(&request.container_id)?
            .pause()
            .await?;
        empty()
    }

    async fn resume_container(
        &self,
        _context: &TtrpcContext,
        request: api::ContainerRequest,
    ) -> Reply<api::Empty> {
        self.sandbox
            .container(&request.container_id)?
            .resume()
            .await?;
        empty()
    }

    async fn update_container(
        &self,
        _context: &TtrpcContext,
        request: api::UpdateContainerRequest,
    ) -> Reply<api::Empty> {
        let container = self.sandbox.container(&request.container_id)?;
        let resources = spec::from_json("resources", &request.resources)?;
        container.update(resources).await?;
        empty()
    }

    async fn container_stats(
        &self,
        _context: &TtrpcContext,
        request: api::ContainerRequest,
    ) -> Reply<api::ContainerStatsResponse> {
        let container = self.sandbox.container(&request.container_id)?;
        let mut response = api::ContainerStatsResponse::new();
        response.metrics = cgroup::metrics(&container.cgroup).map_err(AgentError::from)?;
        response.interfaces = guest::interfaces();
        Ok(response)
    }

    async fn guest_stats(
        &self,
        _context: &TtrpcContext,
        _request: api::Empty,
    ) -> Reply<api::ContainerStatsResponse> {
        let mut response = api::ContainerStatsResponse::new();
        response.metrics = cgroup::guest_metrics().map_err(AgentError::from)?;
        response.interfaces = guest::interfaces();
        Ok(response)
    }

    async fn list_processes(
        &self,
        _context: &TtrpcContext,
        request: api::ContainerRequest,
    ) -> Reply<api::ListProcessesResponse> {
        let container = self.sandbox.container(&request.container_id)?;
        let mut response = api::ListProcessesResponse::new();
        response.pids = container.cgroup.pids().map_err(AgentError::from)?;
        Ok(response)
    }

    async fn exec_process(
        &self,
        _context: &TtrpcContext,
        request: api::ExecProcessRequest,
    ) -> Reply<api::ProcessCreated> {
        Ok(created(self.sandbox.exec(request).await?.pid))
    }

    async fn signal_process(
        &self,
        _context: &TtrpcContext,
        request: api::SignalProcessRequest,
    ) -> Reply<api::Empty> {
        let container = self.sandbox.container(&request.container_id)?;
        let signal = i32::try_from(request.signal)
            .ok()
            .filter(|signal| (0..=libc::SIGRTMAX()).contains(signal))
            .ok_or_else(|| AgentError::Invalid {
                field: "signal",
                value: request.signal.to_string(),
            })?;
        if request.all {
            container.signal_all(signal)?;
        } else if !container.process(&request.exec_id)?.signal(signal)? {
            return Err(AgentError::NotFound {
                kind: "running process",
                id: request.exec_id,
            }
            .into());
        }
        empty()
    }

    async fn wait_process(
        &self,
        _context: &TtrpcContext,
        request: api::ProcessRequest,
    ) -> Reply<api::WaitProcessResponse> {
        let process = self
            .sandbox
            .container(&request.container_id)?
            .process(&request.exec_id)?;
        let exited = process.wait().await?;
        let mut response = api::WaitProcessResponse::new();
        response.exit_status = exited.status;
        response.exited_at_ns = nanoseconds(exited.at);
        response.stdout_bytes = exited.stdout_bytes;
        response.stderr_bytes = exited.stderr_bytes;
        response.oom_killed = exited.oom_killed;
        Ok(response)
    }

    async fn remove_process(
        &self,
        _context: &TtrpcContext,
        request: api::ProcessRequest,
    ) -> Reply<api::Empty> {
        self.sandbox
            .container(&request.container_id)?
            .remove_process(&request.exec_id)?;
        empty()
    }

    async fn attach_stdio(
        &self,
        _context: &TtrpcContext,
        request: api::AttachStdioRequest,
    ) -> Reply<api::Empty> {
        let process = self
            .sandbox
            .container(&request.container_id)?
            .process(&request.exec_id)?;
        process.attach(request.stdio.get_or_default(), &self.sandbox.parked)?;
        empty()
    }

    async fn attach_notify_socket(
        &self,
        _context: &TtrpcContext,
        request: api::AttachNotifySocketRequest,
    ) -> Reply<api::Empty> {
        let sandbox = &self.sandbox;
        sandbox
            .notifications
            .attach(&request.container_id, &request.token, &sandbox.parked)?;
        empty()
    }

    async fn resize_terminal(
        &self,
        _context: &TtrpcContext,
        request: api::ResizeTerminalRequest,
    ) -> Reply<api::Empty> {
        let size = terminal_size(request.columns, request.rows)?;
        self.sandbox
            .container(&request.container_id)?
            .process(&request.exec_id)?
            .resize(size)?;
        empty()
    }

    async fn forward_port(
        &self,
        _context: &TtrpcContext,
        request: api::ForwardPortRequest,
    ) -> Reply<api::Empty> {
        forward::forward(&request, &self.sandbox.parked).await?;
        empty()
    }

    async fn serve_names(
        &self,
        _context: &TtrpcContext,
        request: api::ServeNamesRequest,
    ) -> Reply<api::Empty> {
        let sandbox = &self.sandbox;
        sandbox.names.serve(&request, &sandbox.parked).await?;
        empty()
    }

    async fn next_events(
        &self,
        _context: &TtrpcContext,
        request: api::NextEventsRequest,
    ) -> Reply<api::NextEventsResponse> {
        let mut response = api::NextEventsResponse::new();
        response.events = self.sandbox.events.after(request.after_sequence).await;
        Ok(response)
    }

    async fn guest_info(
        &self,
        _context: &TtrpcContext,
        _request: api::Empty,
    ) -> Reply<api::GuestInfoResponse> {
        Ok(guest::info())
    }

    async fn grow(&self, _context: &TtrpcContext, request: api::GrowRequest) -> Reply<api::Empty> {
        self.sandbox
            .grow(request.vcpus, request.added_memory_mib)
            .await?;
        empty()
    }

    async fn set_clock(
        &self,
        _context: &TtrpcContext,
        request: api::SetClockRequest,
    ) -> Reply<api::Empty> {
        guest::set_clock(request.realtime_ns)?;
        empty()
    }

    async fn reseed_random(
        &self,
        _context: &TtrpcContext,
        request: api::ReseedRandomRequest,
    ) -> Reply<api::Empty> {
        guest::reseed_random(&request.entropy)?;
        empty()
    }

    async fn shutdown(&self, _context: &TtrpcContext, _request: api::Empty) -> Reply<api::Empty> {
        self.sandbox.shut_down().await;
        // A second request finds the channel full, and the guest ending.
        let _told = self.shutdown.try_send(());
        empty()
    }
}
