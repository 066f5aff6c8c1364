//! Pods whose guest or whose disk fails, through the CRI of a real containerd.

use std::mem::ManuallyDrop;
use std::path::Path;
use std::process::Command;

use harness::containerd::Containerd;
use harness::cri::{Cri, Pod};
use harness::disk::SmallDisk;
use harness::machine::{POD_PROCESS, is_running, process_of_pod};
use harness::program;
use k8s_cri::v1::{ContainerConfig, ContainerState, LinuxContainerResources, PodSandboxConfig};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tonic::Status;

/// Lets a container do what root may, its system calls not filtered.
fn privileged(mut config: ContainerConfig) -> ContainerConfig {
    let linux = config.linux.as_mut().expect("for Linux");
    let context = linux.security_context.as_mut().expect("a context");
    context.privileged = true;
    config
}

fn for_privileged(mut config: PodSandboxConfig) -> PodSandboxConfig {
    let linux = config.linux.as_mut().expect("for Linux");
    let context = linux.security_context.as_mut().expect("a context");
    context.privileged = true;
    config
}

#[tokio::test]
async fn a_pod_process_that_hangs_is_cleaned_up_after() {
    let containerd = Containerd::new();
    let mut cri = Cri::connect(&containerd).await;
    let pod = cri.run_pod("hangs").await;
    let root = containerd.hull_root();
    let process = process_of_pod(&root, "hangs", POD_PROCESS).expect("it runs");
    kill(Pid::from_raw(process), Signal::SIGSTOP).expect("stopped");
    let state = containerd.only_state_dir();
    // What containerd's `delete` does at its end, with more patience than it has.
    let cleaned_up = Command::new(program(POD_PROCESS))
        .arg("clean-up")
        .arg(&state)
        .status();
    assert!(cleaned_up.expect("it starts").success());
    assert!(!state.exists() && !is_running(process));
    cri.remove_pod(&pod).await;
    containerd.assert_no_pods();
}

#[tokio::test]
async fn a_guest_that_panics_ends_its_pod_only() {
    let containerd = Containerd::new();
    let mut cri = Cri::connect(&containerd).await;
    let other = cri.run_pod("other").await;
    let other_container = cri.run(&other, "c", &["sleep", "10000"]).await;
    let config = for_privileged(cri.pod_config("panics"));
    let pod = cri.run_pod_of(config).await;
    let beside = cri.run(&pod, "beside", &["sleep", "10000"]).await;
    // There is no SysRq in the guest. Its kernel is told to panic when a container runs out of memory, and
    // then one does.
    let script = "echo 2 > /proc/sys/vm/panic_on_oom && tail /dev/zero";
    let mut config = privileged(Cri::container_config("panics", &["sh", "-c", script]));
    let linux = config.linux.as_mut().expect("for Linux");
    linux.resources = Some(LinuxContainerResources {
        memory_limit_in_bytes: 32 << 20,
        ..Default::default()
    });
    let panics = cri.start(&pod, config).await;
    for id in [&panics, &beside] {
        let status = cri.ended(id).await;
        assert_eq!(
            (status.exit_code, status.reason.as_str()),
            (137, "Error"),
            "{status:?}"
        );
    }
    let refused = cri.try_exec(&beside, &["true"], 0).await;
    refused.expect_err("its guest is gone");
    // A container that is only noted down may be made, as far as containerd is asked.
    let config = Cri::container_config("more", &["true"]);
    if let Ok(more) = cri.create(&pod, config).await {
        let refused = cri.try_start(&more).await;
        refused.expect_err("its guest is gone");
    }
    assert_eq!(
        cri.exec(&other_container, &["echo", "in"]).await.ok(),
        "in\n"
    );
    cri.remove_pod(&pod).await;
    cri.remove_pod(&other).await;
    containerd.assert_no_pods();
}

/// Checks that a call failed because the disk is full, and says so.
fn assert_no_space<T: std::fmt::Debug>(answer: Result<T, Status>) {
    let refused = answer.expect_err("there is no room");
    let message = refused.message().to_lowercase();
    assert!(message.contains("no space left on device"), "{refused:?}");
}

/// What runs while the disk is full.
struct Running {
    stays: Pod,
    stays_container: String,
    goes: Pod,
    one: String,
    two: String,
    /// Made and not started, in the pod that goes.
    waits: String,
}

impl Running {
    async fn start(cri: &mut Cri) -> Self {
        let sleep = ["sleep", "10000"];
        let stays = cri.run_pod("stays").await;
        let stays_container = cri.run(&stays, "c", &sleep).await;
        let goes = cri.run_pod("goes").await;
        let one = cri.run(&goes, "one", &sleep).await;
        let two = cri.run(&goes, "two", &sleep).await;
        let waits = Cri::container_config("waits", &sleep);
        let waits = cri.create(&goes, waits).await.expect("it is made");
        Self {
            stays,
            stays_container,
            goes,
            one,
            two,
            waits,
        }
    }

    /// On a full disk nothing begins, what runs goes on, and ends when it is told to.
    async fn bear_a_full_disk(&self, containerd: &Containerd, cri: &mut Cri) {
        let config = cri.pod_config("too-much");
        assert_no_space(cri.try_run_pod(config).await);
        assert_no_space(cri.try_start(&self.waits).await);
        assert_no_space(cri.try_exec(&self.one, &["true"], 0).await);
        for id in [&self.stays_container, &self.one, &self.two] {
            let status = cri.status(id).await;
            assert_eq!(status.state(), ContainerState::ContainerRunning);
        }
        cri.stop(&self.one, 0).await;
        assert_eq!(cri.status(&self.one).await.exit_code, 137);
        cri.remove(&self.one).await;
        cri.remove_pod(&self.goes).await;
        let _ = containerd.only_state_dir();
    }

    /// Once there is room again, all is as before.
    async fn end(self, containerd: &Containerd, cri: &mut Cri) {
        let executed = cri.exec(&self.stays_container, &["echo", "in"]).await;
        assert_eq!(executed.ok(), "in\n");
        let fits = cri.run_pod("fits").await;
        let id = cri.run(&fits, "c", &["sleep", "10000"]).await;
        assert_eq!(cri.exec(&id, &["echo", "in"]).await.ok(), "in\n");
        cri.remove_pod(&fits).await;
        cri.remove_pod(&self.stays).await;
        containerd.assert_no_pods();
    }
}

#[tokio::test]
async fn a_full_disk_is_said_and_keeps_no_pod_from_ending() {
    let mut containerd = Containerd::new();
    // The disk is seen by what is started after it.
    containerd.kill();
    let run_dir = containerd.run_dir();
    // Unmounted with all else of containerd's, which has to find what a failed test has left there.
    let disk = ManuallyDrop::new(SmallDisk::mount(&run_dir, "8m"));
    containerd.start();
    let mut cri = Cri::connect(&containerd).await;
    let running = Running::start(&mut cri).await;
    disk.fill(0);
    running.bear_a_full_disk(&containerd, &mut cri).await;
    disk.free();
    running.end(&containerd, &mut cri).await;
}

/// Copies all that is in a directory into another one.
fn copy(from: &Path, to: &Path) {
    let mut copy = Command::new("cp");
    let copied = copy.arg("-a").arg(from.join(".")).arg(to).status();
    assert!(copied.expect("cp runs").success());
}

#[tokio::test]
async fn a_full_disk_of_containerds_own_keeps_no_pod_from_ending() {
    let mut containerd = Containerd::new();
    containerd.kill();
    // With its database, images and roots of containers, besides what is in `/run`.
    let dir = containerd.dir().to_owned();
    let aside = TempDir::new().expect("a directory");
    copy(&dir, aside.path());
    let disk = ManuallyDrop::new(SmallDisk::mount(&dir, "64m"));
    copy(aside.path(), &dir);
    containerd.start();
    let mut cri = Cri::connect(&containerd).await;
    let running = Running::start(&mut cri).await;
    disk.fill(0);
    let config = Cri::container_config("too-much", &["true"]);
    assert_no_space(cri.create(&running.goes, config).await);
    running.bear_a_full_disk(&containerd, &mut cri).await;
    disk.free();
    running.end(&containerd, &mut cri).await;
}
