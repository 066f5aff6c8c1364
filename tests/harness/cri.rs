//! What a kubelet asks of a container runtime: the Container Runtime Interface, over gRPC.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use k8s_cri::v1::image_service_client::ImageServiceClient;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use k8s_cri::v1::{
    ContainerConfig, ContainerMetadata, ContainerState, ContainerStatus, ContainerStatusRequest,
    CreateContainerRequest, ExecSyncRequest, ImageSpec, LinuxContainerConfig,
    LinuxContainerSecurityContext, LinuxPodSandboxConfig, LinuxSandboxSecurityContext,
    ListPodSandboxRequest, NamespaceMode, NamespaceOption, PodSandbox, PodSandboxConfig,
    PodSandboxMetadata, PodSandboxState, PodSandboxStatusRequest, RemoveContainerRequest,
    RemovePodSandboxRequest, RunPodSandboxRequest, StartContainerRequest, StopContainerRequest,
    StopPodSandboxRequest,
};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

use crate::containerd::{BUSYBOX, Containerd, HULL};

/// Longest time that a container has to get into a state.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection to a runtime.
#[derive(Debug, Clone)]
pub struct Cri {
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
    logs: PathBuf,
    cgroup: String,
    handler: &'static str,
}

/// A pod that runs.
#[derive(Debug)]
pub struct Pod {
    /// Its id.
    pub id: String,
    /// What it was made of.
    pub config: PodSandboxConfig,
    /// Its addresses, the first one first.
    pub addresses: Vec<String>,
}

/// What a command printed, and its exit code.
#[derive(Debug, PartialEq, Eq)]
pub struct Executed {
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// Exit code.
    pub code: i32,
}

impl Executed {
    /// The output of a command that succeeded.
    ///
    /// # Panics
    /// When it did not.
    #[must_use]
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "{self:?}");
        self.stdout
    }
}

/// Every container has a PID namespace of its own and shares the others, as Kubernetes does it.
fn own_processes() -> NamespaceOption {
    NamespaceOption {
        pid: NamespaceMode::Container.into(),
        ..Default::default()
    }
}

impl Cri {
    /// Connects.
    ///
    /// # Panics
    /// When nobody listens.
    pub async fn connect(containerd: &Containerd) -> Self {
        let socket = containerd.socket();
        let connect = tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let channel = Endpoint::from_static("http://localhost")
            .connect_with_connector(connect)
            .await
            .expect("the runtime listens");
        let images = ImageServiceClient::new(channel.clone());
        let mut runtime = RuntimeServiceClient::new(channel);
        // It listens before it has found the pods of the one before it.
        let started = Instant::now();
        while let Err(status) = runtime
            .list_pod_sandbox(ListPodSandboxRequest::default())
            .await
        {
            assert!(started.elapsed() < PATIENCE, "{status}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Self {
            runtime,
            images,
            logs: containerd.dir().join("logs"),
            cgroup: containerd.cgroup(),
            handler: HULL,
        }
    }

    /// The same connection, for pods of another runtime handler.
    #[must_use]
    pub fn with_handler(self, handler: &'static str) -> Self {
        Self { handler, ..self }
    }

    /// All calls about images.
    pub fn images(&mut self) -> &mut ImageServiceClient<Channel> {
        &mut self.images
    }

    /// All calls about pods and containers.
    pub fn runtime(&mut self) -> &mut RuntimeServiceClient<Channel> {
        &mut self.runtime
    }

    /// Runs a pod.
    ///
    /// # Panics
    /// When it does not run.
    pub async fn run_pod(&mut self, name: &str) -> Pod {
        let config = self.pod_config(name);
        self.run_pod_of(config).await
    }

    /// A pod like most.
    #[must_use]
    pub fn pod_config(&self, name: &str) -> PodSandboxConfig {
        PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: name.to_owned(),
                uid: format!("uid-{name}"),
                namespace: "tests".to_owned(),
                attempt: 0,
            }),
            hostname: name.to_owned(),
            log_directory: self.logs.join(name).display().to_string(),
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: self.cgroup.clone(),
                security_context: Some(LinuxSandboxSecurityContext {
                    namespace_options: Some(own_processes()),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    /// Runs a pod.
    ///
    /// # Panics
    /// When it does not run.
    pub async fn run_pod_of(&mut self, config: PodSandboxConfig) -> Pod {
        self.try_run_pod(config).await.expect("the pod runs")
    }

    /// Runs a pod.
    ///
    /// # Errors
    /// When the runtime refuses.
    ///
    /// # Panics
    /// When the runtime does not know it then.
    pub async fn try_run_pod(&mut self, config: PodSandboxConfig) -> Result<Pod, tonic::Status> {
        std::fs::create_dir_all(&config.log_directory).expect("a directory");
        let request = RunPodSandboxRequest {
            config: Some(config.clone()),
            runtime_handler: self.handler.to_owned(),
        };
        let answer = self.runtime.run_pod_sandbox(request).await?;
        let id = answer.into_inner().pod_sandbox_id;
        let request = PodSandboxStatusRequest {
            pod_sandbox_id: id.clone(),
            verbose: false,
        };
        let answer = self.runtime.pod_sandbox_status(request).await;
        let status = answer.expect("the pod is known").into_inner().status;
        let network = status.and_then(|status| status.network).unwrap_or_default();
        let more = network.additional_ips.into_iter().map(|ip| ip.ip);
        Ok(Pod {
            id,
            config,
            addresses: [network.ip].into_iter().chain(more).collect(),
        })
    }

    /// A container like most.
    #[must_use]
    pub fn container_config(name: &str, command: &[&str]) -> ContainerConfig {
        ContainerConfig {
            metadata: Some(ContainerMetadata {
                name: name.to_owned(),
                attempt: 0,
            }),
            image: Some(ImageSpec {
                image: BUSYBOX.to_owned(),
                ..Default::default()
            }),
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            log_path: format!("{name}.log"),
            linux: Some(LinuxContainerConfig {
                security_context: Some(LinuxContainerSecurityContext {
                    namespace_options: Some(own_processes()),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    /// Makes and starts a container.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start(&mut self, pod: &Pod, config: ContainerConfig) -> String {
        let id = self.create(pod, config).await.expect("it is made");
        self.try_start(&id).await.expect("it starts");
        id
    }

    /// Starts a container that was made.
    ///
    /// # Errors
    /// When the runtime refuses.
    pub async fn try_start(&mut self, container: &str) -> Result<(), tonic::Status> {
        let request = StartContainerRequest {
            container_id: container.to_owned(),
        };
        self.runtime.start_container(request).await.map(drop)
    }

    /// Makes and starts a container with nothing special.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn run(&mut self, pod: &Pod, name: &str, command: &[&str]) -> String {
        self.start(pod, Self::container_config(name, command)).await
    }

    /// Makes a container.
    ///
    /// # Errors
    /// When the runtime refuses.
    pub async fn create(
        &mut self,
        pod: &Pod,
        config: ContainerConfig,
    ) -> Result<String, tonic::Status> {
        let request = CreateContainerRequest {
            pod_sandbox_id: pod.id.clone(),
            config: Some(config),
            sandbox_config: Some(pod.config.clone()),
        };
        let answer = self.runtime.create_container(request).await?;
        Ok(answer.into_inner().container_id)
    }

    /// Runs a command in a container, as a probe does.
    ///
    /// # Panics
    /// When it cannot be run.
    pub async fn exec(&mut self, container: &str, command: &[&str]) -> Executed {
        let executed = self.try_exec(container, command, 60).await;
        executed.expect("it runs")
    }

    /// The same for a command that has `seconds` for it; 0 is as long as it takes.
    ///
    /// # Errors
    /// When it cannot be run.
    pub async fn try_exec(
        &mut self,
        container: &str,
        command: &[&str],
        seconds: i64,
    ) -> Result<Executed, tonic::Status> {
        let request = ExecSyncRequest {
            container_id: container.to_owned(),
            cmd: command.iter().map(|word| (*word).to_owned()).collect(),
            timeout: seconds,
        };
        let answer = self.runtime.exec_sync(request).await?.into_inner();
        Ok(Executed {
            stdout: String::from_utf8_lossy(&answer.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&answer.stderr).into_owned(),
            code: answer.exit_code,
        })
    }

    /// What the machine of a container has, as its kernel counts it.
    ///
    /// # Panics
    /// When it cannot be read.
    pub async fn memory_kib(&mut self, container: &str) -> u64 {
        let total = "awk '/MemTotal/ {print $2}' /proc/meminfo";
        let total = self.exec(container, &["sh", "-c", total]).await.ok();
        total.trim().parse().expect("a number")
    }

    /// A container's status.
    ///
    /// # Panics
    /// When it is not known.
    pub async fn status(&mut self, container: &str) -> ContainerStatus {
        let status = self.try_status(container).await;
        status.expect("the container is known")
    }

    /// A container's status.
    ///
    /// # Errors
    /// When it is not known.
    ///
    /// # Panics
    /// When the answer is empty.
    pub async fn try_status(&mut self, container: &str) -> Result<ContainerStatus, tonic::Status> {
        let request = ContainerStatusRequest {
            container_id: container.to_owned(),
            verbose: false,
        };
        let answer = self.runtime.container_status(request).await?.into_inner();
        Ok(answer.status.expect("a status"))
    }

    /// Whether a pod is ready for containers.
    ///
    /// # Errors
    /// When it is not known.
    pub async fn is_ready(&mut self, pod: &str) -> Result<bool, tonic::Status> {
        let request = PodSandboxStatusRequest {
            pod_sandbox_id: pod.to_owned(),
            verbose: false,
        };
        let answer = self.runtime.pod_sandbox_status(request).await?.into_inner();
        let status = answer.status.unwrap_or_default();
        Ok(status.state() == PodSandboxState::SandboxReady)
    }

    /// Waits for a container's end.
    ///
    /// # Panics
    /// When it has not ended after a minute.
    pub async fn ended(&mut self, container: &str) -> ContainerStatus {
        let started = Instant::now();
        loop {
            let status = self.status(container).await;
            if status.state() == ContainerState::ContainerExited {
                return status;
            }
            assert!(started.elapsed() < PATIENCE, "{status:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// What a container wrote: each line's stream and text.
    ///
    /// # Panics
    /// When its log is not in the format of the interface.
    #[must_use]
    pub fn log(pod: &Pod, name: &str) -> Vec<(String, String)> {
        let path = Path::new(&pod.config.log_directory).join(format!("{name}.log"));
        let text = std::fs::read_to_string(path).expect("a log");
        let line = |line: &str| {
            let mut parts = line.splitn(4, ' ').skip(1);
            let stream = parts.next().expect("a stream").to_owned();
            (stream, parts.nth(1).unwrap_or_default().to_owned())
        };
        text.lines().map(line).collect()
    }

    /// Stops a container, which has `seconds` for it.
    ///
    /// # Panics
    /// When it is not stopped.
    pub async fn stop(&mut self, container: &str, seconds: i64) {
        self.try_stop(container, seconds).await.expect("stopped");
    }

    /// Stops a container, which has `seconds` for it.
    ///
    /// # Errors
    /// When the runtime fails.
    pub async fn try_stop(&mut self, container: &str, seconds: i64) -> Result<(), tonic::Status> {
        let request = StopContainerRequest {
            container_id: container.to_owned(),
            timeout: seconds,
        };
        self.runtime.stop_container(request).await.map(drop)
    }

    /// Removes a container.
    ///
    /// # Panics
    /// When it is not removed.
    pub async fn remove(&mut self, container: &str) {
        let request = RemoveContainerRequest {
            container_id: container.to_owned(),
        };
        let removed = self.runtime.remove_container(request).await;
        removed.expect("removed");
    }

    /// Stops and removes a pod with all its containers.
    ///
    /// # Panics
    /// When that fails.
    pub async fn remove_pod(&mut self, pod: &Pod) {
        self.try_stop_pod(&pod.id).await.expect("stopped");
        self.try_remove_pod(&pod.id).await.expect("removed");
    }

    /// Ends a pod and all its containers.
    ///
    /// # Errors
    /// When the runtime fails.
    pub async fn try_stop_pod(&mut self, pod: &str) -> Result<(), tonic::Status> {
        let request = StopPodSandboxRequest {
            pod_sandbox_id: pod.to_owned(),
        };
        self.runtime.stop_pod_sandbox(request).await.map(drop)
    }

    /// Forgets a pod that was stopped, and its containers.
    ///
    /// # Errors
    /// When the runtime fails.
    pub async fn try_remove_pod(&mut self, pod: &str) -> Result<(), tonic::Status> {
        let request = RemovePodSandboxRequest {
            pod_sandbox_id: pod.to_owned(),
        };
        self.runtime.remove_pod_sandbox(request).await.map(drop)
    }

    /// Ids of the pods of this name.
    ///
    /// # Errors
    /// When the runtime fails.
    pub async fn pods_named(&mut self, name: &str) -> Result<Vec<String>, tonic::Status> {
        let request = ListPodSandboxRequest::default();
        let pods = self.runtime.list_pod_sandbox(request).await?.into_inner();
        let has_name = |pod: &PodSandbox| pod.metadata.as_ref().is_some_and(|of| of.name == name);
        let found = pods.items.into_iter().filter(has_name);
        Ok(found.map(|pod| pod.id).collect())
    }
}
