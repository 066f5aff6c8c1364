//! The CRI for a caller that waits for each answer.

use k8s_cri::v1::LinuxContainerResources;
use tokio::runtime::{Builder, Runtime};

use crate::containerd::Containerd;
use crate::cri::{Cri, Pod};

/// A connection to a runtime.
#[derive(Debug)]
pub struct BlockingCri {
    runtime: Runtime,
    cri: Cri,
}

impl BlockingCri {
    /// Connects; pods will be this handler's.
    ///
    /// # Panics
    /// When nobody listens.
    #[must_use]
    pub fn connect(containerd: &Containerd, handler: &'static str) -> Self {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        let cri = runtime.block_on(Cri::connect(containerd));
        Self {
            runtime,
            cri: cri.with_handler(handler),
        }
    }

    /// Starts a pod and a container in it that waits, both with a limit of memory.
    ///
    /// # Panics
    /// When they do not start.
    pub fn start_pod(&mut self, name: &str, memory_mib: u32) -> Pod {
        let resources = Some(LinuxContainerResources {
            memory_limit_in_bytes: i64::from(memory_mib) << 20,
            ..Default::default()
        });
        let mut pod = self.cri.pod_config(name);
        let linux = pod.linux.as_mut().expect("for Linux");
        linux.resources.clone_from(&resources);
        let mut container = Cri::container_config("c", &["sleep", "1000000"]);
        container.linux.as_mut().expect("for Linux").resources = resources;
        self.runtime.block_on(async {
            let pod = self.cri.run_pod_of(pod).await;
            self.cri.start(&pod, container).await;
            pod
        })
    }

    /// Stops and removes a pod with its container.
    ///
    /// # Panics
    /// When that fails.
    pub fn remove_pod(&mut self, pod: &Pod) {
        self.runtime.block_on(self.cri.remove_pod(pod));
    }
}
