//! `delete`: after a pod process that is gone, or a container that it does not know.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use containerd_shim_protos::api;
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::shim_async::TaskClient;
use hull_sandbox::{ExitStatus, bundle_spec, destroy, live_pod_process};
use hull_vm::process::Process;
use tokio::process::Command;
use tokio::time::error::Elapsed;
use ttrpc::context::with_duration;

use super::role::Role;
use super::{EngineError, Invocation, answer, host};
use crate::client::{ClientError, PodProcess};
use crate::service::timestamp;

/// How long a pod process has to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// containerd kills this program when it takes longer than five seconds.
const CONTAINERDS_PATIENCE: Duration = Duration::from_secs(4);
/// What this program is told, by itself, to clean up.
pub const CLEAN_UP: &str = "clean-up";

/// Takes away what is left of the container, and of its pod if the container is the pod's first.
/// Says on the standard output that it was killed.
///
/// # Errors
/// When something is left.
pub async fn delete(invocation: &Invocation) -> Result<(), EngineError> {
    let state_dir = invocation.state_dir(&invocation.id);
    if state_dir.exists() {
        clean_up_aside(&state_dir).await?;
    } else if let Some(pod) = pod_of(invocation) {
        let state_dir = invocation.state_dir(&pod);
        if let Ok(Ok(pod)) = dial(&state_dir).await {
            delete_member(pod.task(), &invocation.id).await;
        }
    }
    let exit = ExitStatus::killed();
    let response = api::DeleteResponse {
        exit_status: exit.code,
        exited_at: timestamp(exit.at_ns),
        ..Default::default()
    };
    answer(&response.write_to_bytes().expect("plain data encodes"))
}

/// Cleans up in a process that lives on when containerd loses its patience with this one.
async fn clean_up_aside(state_dir: &Path) -> Result<(), EngineError> {
    let own = std::env::current_exe().map_err(host("find this program"))?;
    let mut aside = Command::new(own)
        .arg(CLEAN_UP)
        .arg(state_dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .process_group(0)
        .spawn()
        .map_err(host("start the clean-up"))?;
    match tokio::time::timeout(CONTAINERDS_PATIENCE, aside.wait()).await {
        Ok(status) => match status.map_err(host("wait for the clean-up"))?.success() {
            true => Ok(()),
            false => Err(EngineError::CleanUp(state_dir.to_owned())),
        },
        // It goes on.
        Err(_) => Ok(()),
    }
}

/// Ends the pod in `state_dir`, in good order if its pod process answers, and removes what is left.
///
/// # Errors
/// When something is left.
pub async fn clean_up(state_dir: &Path) -> Result<(), EngineError> {
    match dial(state_dir).await {
        Ok(Ok(pod)) => {
            let request = api::ShutdownRequest {
                now: true,
                ..Default::default()
            };
            // A pod process that does not answer is killed below.
            let _ = pod.task().shutdown(with_duration(PATIENCE), &request).await;
            let _ = tokio::time::timeout(PATIENCE, pod.gone()).await;
        }
        // One that is about to end has taken its socket away first. Killed now, it would leave the rest.
        Ok(Err(_)) => {
            let ending = live_pod_process(state_dir)
                .and_then(|record| Process::attach(record, "the pod process").ok());
            if let Some(process) = ending {
                let _ = tokio::time::timeout(PATIENCE, process.wait()).await;
            }
        }
        // It hangs.
        Err(_) => {}
    }
    Ok(destroy(state_dir).await?)
}

/// The pod process, if one answers: one that hangs has its socket open as well, and takes too long.
async fn dial(state_dir: &Path) -> Result<Result<PodProcess, ClientError>, Elapsed> {
    tokio::time::timeout(PATIENCE, PodProcess::dial(state_dir)).await
}

/// The pod that the container's specification names. Without a specification it never was in one.
fn pod_of(invocation: &Invocation) -> Option<String> {
    let bundle = match &invocation.bundle {
        Some(bundle) => bundle.clone(),
        None => std::env::current_dir().ok()?,
    };
    match Role::of(&bundle_spec(&bundle).ok()?) {
        Role::Member(pod) => Some(pod),
        Role::Single | Role::Sandbox => None,
    }
}

/// Removes a container from a pod that lives on. That it is not there is what is wanted.
async fn delete_member(task: &TaskClient, id: &str) {
    let kill = api::KillRequest {
        id: id.to_owned(),
        signal: 9,
        all: true,
        ..Default::default()
    };
    let _ = task.kill(with_duration(PATIENCE), &kill).await;
    let wait = api::WaitRequest {
        id: id.to_owned(),
        ..Default::default()
    };
    let _ = task.wait(with_duration(PATIENCE), &wait).await;
    let delete = api::DeleteRequest {
        id: id.to_owned(),
        ..Default::default()
    };
    let _ = task.delete(with_duration(PATIENCE), &delete).await;
}
