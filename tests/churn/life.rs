//! The life of one pod, as a kubelet leads it.

use std::cell::Cell;
use std::time::{Duration, Instant};

use harness::cri::{Cri, Pod};
use harness::machine::{POD_PROCESS, is_running, process_of_pod, vmm};
use k8s_cri::v1::{ContainerConfig, ContainerState};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tonic::Status;

use crate::fault::{Fault, Moment, Plan};
use crate::node::{Failure, Node};

/// Longest time until a kill has had its consequences.
const PATIENCE: Duration = Duration::from_secs(60);
/// How soon they are looked for again.
const PAUSE: Duration = Duration::from_millis(10);

/// containerd was killed in the midst of a call: what there is of the pod is to be found out.
struct Interrupted;

/// Leads a pod from its start to its removal. One that containerd's end has interrupted is removed and made
/// again.
pub(crate) async fn lead(node: &Node, number: usize, plan: &Plan) {
    for attempt in 0.. {
        let name = format!("pod-{number}-{attempt}");
        println!("{name}: {plan:?}");
        let life = Life {
            node,
            name: &name,
            plan,
            was_hit: Cell::new(false),
        };
        match life.lead().await {
            Ok(()) => break,
            Err(Interrupted) => while life.remove_all().await.is_err() {},
        }
    }
    node.pod_is_gone();
}

struct Life<'a> {
    node: &'a Node,
    name: &'a str,
    plan: &'a Plan,
    was_hit: Cell<bool>,
}

impl Life<'_> {
    async fn lead(&self) -> Result<(), Interrupted> {
        let run = async |mut cri: Cri| {
            let config = cri.pod_config(self.name);
            cri.try_run_pod(config).await
        };
        if let Some(pod) = self.ask(Moment::Run, run).await? {
            let started = self.run_containers(&pod).await?;
            if self.was_hit.get() {
                self.assert_ended(&pod, &started).await?;
            }
            self.end(&pod.id).await?;
        }
        let left = self.must("ListPodSandbox", async |mut cri| {
            cri.pods_named(self.name).await
        });
        let left = left.await?;
        assert!(left.is_empty(), "{}: {left:?}", self.name);
        Ok(())
    }

    /// Runs the containers of a pod, until it is hit. Returns those that were to be started.
    async fn run_containers(&self, pod: &Pod) -> Result<Vec<String>, Interrupted> {
        let mut started = Vec::new();
        for number in 0..self.plan.containers {
            let config = config(number);
            let create = async |mut cri: Cri| cri.create(pod, config).await;
            let Some(id) = self.ask(Moment::Create, create).await? else {
                return Ok(started);
            };
            let start = async |mut cri: Cri| cri.try_start(&id).await;
            if self.ask(Moment::Start, start).await?.is_none() {
                return Ok(started);
            }
            started.push(id);
        }
        self.ask(Moment::Between, async |_| Ok(())).await?;
        let first = &started[0];
        self.exec(first).await?;
        let stop = async |mut cri: Cri| cri.try_stop(first, 0).await;
        if self.ask(Moment::StopContainer, stop).await?.is_some() {
            self.assert_killed(first).await?;
        }
        Ok(started)
    }

    /// Runs a command in a container: one that does not end by itself, if it is to be hit.
    async fn exec(&self, container: &str) -> Result<(), Interrupted> {
        let is_to_be_hit = self
            .plan
            .fault
            .is_some_and(|fault| fault.moment == Moment::Exec);
        let script = match is_to_be_hit {
            true => "sleep 10000",
            false => "echo hello",
        };
        let exec = async |mut cri: Cri| {
            let command = ["sh", "-c", script];
            cri.try_exec(container, &command, 0).await
        };
        if let Some(executed) = self.ask(Moment::Exec, exec).await? {
            let code = executed.code;
            match self.was_hit.get() {
                true => assert_eq!(code, 137, "{}", self.name),
                false => assert_eq!(executed.ok(), "hello\n", "{}", self.name),
            }
        }
        Ok(())
    }

    /// Ends a pod and removes it, which never fails.
    async fn end(&self, pod: &str) -> Result<(), Interrupted> {
        let stop = async |mut cri: Cri| cri.try_stop_pod(pod).await;
        let stop = match self.was_hit.get() {
            true => Ok(Some(self.must("StopPodSandbox", stop).await?)),
            false => self.ask(Moment::StopPod, stop).await,
        };
        assert!(stop?.is_some(), "{} cannot be stopped", self.name);
        let remove = async |mut cri: Cri| cri.try_remove_pod(pod).await;
        self.must("RemovePodSandbox", remove).await
    }

    /// Removes all pods of this name, as a kubelet does with what it finds.
    async fn remove_all(&self) -> Result<(), Interrupted> {
        let found = self.must("ListPodSandbox", async |mut cri| {
            cri.pods_named(self.name).await
        });
        for pod in found.await? {
            let stop = async |mut cri: Cri| cri.try_stop_pod(&pod).await;
            self.must("StopPodSandbox", stop).await?;
            let remove = async |mut cri: Cri| cri.try_remove_pod(&pod).await;
            self.must("RemovePodSandbox", remove).await?;
        }
        Ok(())
    }

    /// Makes a call that must not fail.
    async fn must<T>(
        &self,
        what: &str,
        call: impl AsyncFnOnce(Cri) -> Result<T, Status>,
    ) -> Result<T, Interrupted> {
        let what = format!("{what} of {}", self.name);
        match self.node.call(&what, call).await {
            Ok(answer) => Ok(answer),
            Err(Failure::Interrupted) => Err(Interrupted),
            Err(Failure::Refused(status)) => panic!("{what}: {status:?}"),
        }
    }

    /// Makes a call, and hits the pod meanwhile if this is the moment for it. Then, and when it was hit
    /// before, the call may be refused, which is no answer; has to be, if it needs the guest.
    async fn ask<T>(
        &self,
        moment: Moment,
        call: impl AsyncFnOnce(Cri) -> Result<T, Status>,
    ) -> Result<Option<T>, Interrupted> {
        let what = format!("{moment:?} of {}", self.name);
        let was_hit = self.was_hit.get();
        let answered = Cell::new(false);
        let call = async {
            let answer = self.node.call(&what, call).await;
            answered.set(true);
            answer
        };
        let answer = match self.plan.fault.filter(|fault| fault.moment == moment) {
            Some(fault) if !was_hit => tokio::join!(call, self.hit(&fault, &answered)).0,
            _ => call.await,
        };
        match answer {
            Err(Failure::Interrupted) => Err(Interrupted),
            Ok(answer) => {
                let needs_guest = matches!(moment, Moment::Start | Moment::Exec);
                assert!(!(was_hit && needs_guest), "{what}, which was hit before");
                Ok(Some(answer))
            }
            Err(Failure::Refused(status)) => {
                assert!(self.was_hit.get(), "{what}, which was not hit: {status:?}");
                println!("{what}: {:?}: {}", status.code(), status.message());
                Ok(None)
            }
        }
    }

    /// Kills what is to be killed, unless the call is over before that runs, and waits until the virtual
    /// machine has ended of it.
    async fn hit(&self, fault: &Fault, answered: &Cell<bool>) {
        let find = |program| process_of_pod(self.node.hull_root(), self.name, program);
        let victim = wait_until(async || match find(fault.victim) {
            Some(victim) => Some(Some(victim)),
            None => answered.get().then_some(None),
        });
        let Some(victim) = victim.await else { return };
        tokio::time::sleep(fault.delay).await;
        let vmm = find(vmm());
        if kill(Pid::from_raw(victim), Signal::SIGKILL).is_err() {
            // Gone: only with the pod, which containerd's end has kept from coming up.
            return;
        }
        self.was_hit.set(true);
        if let Some(vmm) = vmm {
            wait_until(async || (!is_running(vmm)).then_some(())).await;
        }
    }

    /// Checks what is said of a pod that was hit and of its containers, and that it takes nothing more.
    async fn assert_ended(&self, pod: &Pod, started: &[String]) -> Result<(), Interrupted> {
        for container in started {
            self.assert_killed(container).await?;
            let again = async |mut cri: Cri| cri.try_exec(container, &["true"], 0).await;
            self.ask(Moment::Exec, again).await?;
        }
        let ready = async |mut cri: Cri| cri.is_ready(&pod.id).await;
        let started = Instant::now();
        while self.must("PodSandboxStatus", ready).await? {
            assert!(
                started.elapsed() < PATIENCE,
                "{} is said to be ready",
                self.name
            );
            tokio::time::sleep(PAUSE).await;
        }
        let create = async |mut cri: Cri| cri.create(pod, config(9)).await;
        if let Some(id) = self.ask(Moment::Create, create).await? {
            let start = async |mut cri: Cri| cri.try_start(&id).await;
            self.ask(Moment::Start, start).await?;
        }
        Ok(())
    }

    /// Checks that a container comes to an end, and that it is said to have been killed.
    async fn assert_killed(&self, container: &str) -> Result<(), Interrupted> {
        let status = async |mut cri: Cri| cri.try_status(container).await;
        let victim = self.plan.fault.map(|fault| fault.victim);
        let started = Instant::now();
        loop {
            let status = self.must("ContainerStatus", status).await?;
            if status.state() == ContainerState::ContainerExited {
                // Whose pod process is gone is nobody's who could say more: containerd makes it 255 (its
                // `UnknownExitStatus`), unless `delete` was faster.
                let is_unknown = self.was_hit.get() && victim == Some(POD_PROCESS);
                let killed = status.exit_code == 137 || is_unknown && status.exit_code == 255;
                let is_said = killed && status.reason == "Error";
                assert!(is_said, "{}: {status:?}", self.name);
                return Ok(());
            }
            assert!(started.elapsed() < PATIENCE, "{}: {status:?}", self.name);
            tokio::time::sleep(PAUSE).await;
        }
    }
}

fn config(number: usize) -> ContainerConfig {
    Cri::container_config(&format!("c{number}"), &["sleep", "10000"])
}

/// Waits for a consequence of what was done.
async fn wait_until<T>(found: impl AsyncFn() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = found().await {
            return found;
        }
        assert!(started.elapsed() < PATIENCE, "nothing happens");
        tokio::time::sleep(PAUSE).await;
    }
}
