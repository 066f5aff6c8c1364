//! `start`: a pod process for a new pod, or the address of the one that a container joins.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use hull_config::{Config, LogLevel};
use hull_sandbox::{bundle_spec, destroy, live_vmm};

use super::delete::clean_up;
use super::role::Role;
use super::{EngineError, Invocation, answer, host, options, pod};
use crate::client::{self, Engine, PodProcess, Start};
use crate::order::{Order, PendingPod};
use crate::pod_request::settings;

/// Starts the pod process for the container in the working directory, unless its pod has one, and
/// says on the standard output where it listens.
///
/// # Errors
/// When the specification cannot be honoured, or the process not be started.
pub async fn start(invocation: &Invocation) -> Result<(), EngineError> {
    let bundle = std::env::current_dir().map_err(host("find the working directory"))?;
    let config_file = options::config_path(io::stdin().lock()).map_err(host("read the options"))?;
    // A sandbox of containerd's sandboxer `shim` has no specification: it is described later.
    let (order, settings) = if bundle.join("config.json").exists() {
        let spec = bundle_spec(&bundle)?;
        match Role::of(&spec) {
            Role::Member(pod) => {
                let state_dir = invocation.state_dir(&pod);
                if PodProcess::dial(&state_dir).await.is_err() {
                    let id = invocation.id.clone();
                    return Err(EngineError::NoPod { id, pod });
                }
                return tell(&state_dir, &bundle, TASK_VERSION);
            }
            role => {
                let annotations = spec.annotations().iter().flatten();
                let settings = settings(config_file.as_deref(), annotations)?;
                let config = pod::request(&invocation.id, &invocation.namespace, &role, &spec)?
                    .config(&settings)?;
                (Order::Given(Box::new(config)), settings)
            }
        }
    } else {
        let settings = Config::load(config_file.as_deref())?;
        let pending = PendingPod {
            id: invocation.id.clone(),
            namespace: invocation.namespace.clone(),
            bundle: bundle.clone(),
            config_file,
        };
        (Order::Pending(pending), settings)
    };
    let state_dir = invocation.state_dir(&invocation.id);
    create_state_dir(&state_dir, &invocation.id).await?;
    let pod = start_pod(invocation, &state_dir, &order, &settings, &bundle).await;
    if let Err(error) = pod {
        // Nobody else knows of it yet.
        clean_up(&state_dir).await?;
        return Err(error);
    }
    Ok(())
}

/// Starts the pod process of a new pod, and says where it listens.
async fn start_pod(
    invocation: &Invocation,
    state_dir: &Path,
    order: &Order,
    settings: &Config,
    bundle: &Path,
) -> Result<(), EngineError> {
    order.write(state_dir)?;
    let version = match order {
        Order::Given(_) => TASK_VERSION,
        Order::Pending(_) => SANDBOX_VERSION,
    };
    let engine = Engine {
        namespace: invocation.namespace.clone(),
        events: std::env::var_os("TTRPC_ADDRESS")
            .filter(|address| !address.is_empty())
            .map(Into::into),
        log: bundle.join("log"),
        log_level: match invocation.debug {
            true => LogLevel::Debug,
            false => settings.log.level,
        },
    };
    let start = Start {
        engine: Some(engine),
        ..Start::default()
    };
    PodProcess::start(state_dir, start).await?;
    tell(state_dir, bundle, version)
}

/// The version of the Task API that every containerd knows.
const TASK_VERSION: u32 = 2;
/// The version from which on containerd takes a shim for one that serves the Sandbox API.
const SANDBOX_VERSION: u32 = 3;

/// Says where the pod process of `state_dir` listens: to containerd, and to one that comes after it.
fn tell(state_dir: &Path, bundle: &Path, least_version: u32) -> Result<(), EngineError> {
    let address = format!("unix://{}", client::socket(state_dir).display());
    std::fs::write(bundle.join("address"), &address).map_err(host("write the file `address`"))?;
    let highest = std::env::var("MAX_SHIM_VERSION").ok();
    answer(start_answer(&address, highest.as_deref(), least_version).as_bytes())
}

/// From containerd 1.7 on, the answer may say more than the address; earlier ones take nothing else, and know version 2
/// of the Task API only, as CRI-O does.
fn start_answer(address: &str, highest: Option<&str>, least_version: u32) -> String {
    let highest = highest.and_then(|text| text.parse().ok());
    // What containerd 2 calls its highest is the protocol of this call, not of the Task API.
    let version = highest
        .unwrap_or(TASK_VERSION)
        .clamp(TASK_VERSION, SANDBOX_VERSION);
    match version.max(least_version) {
        TASK_VERSION => address.to_owned(),
        version => serde_json::json!({"version": version, "address": address, "protocol": "ttrpc"})
            .to_string(),
    }
}

/// Makes the state directory. One that a pod left which is gone is removed.
async fn create_state_dir(state_dir: &Path, id: &str) -> Result<(), EngineError> {
    if state_dir.exists() {
        let alive = live_vmm(state_dir).is_some() || PodProcess::dial(state_dir).await.is_ok();
        if alive {
            return Err(EngineError::Runs(id.to_owned()));
        }
        destroy(state_dir).await?;
    }
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(state_dir)
        .map_err(host(format!("create {}", state_dir.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_is_one_that_the_engine_knows() {
        for (highest, least, version) in [
            // containerd 1.6, CRI-O, containerd 1.7 and later.
            (None, TASK_VERSION, None),
            (Some("2"), TASK_VERSION, None),
            (Some("3"), TASK_VERSION, Some(3)),
            (Some("4"), TASK_VERSION, Some(3)),
            (Some(""), TASK_VERSION, None),
            // A sandbox that is described later.
            (Some("3"), SANDBOX_VERSION, Some(3)),
        ] {
            let answer = start_answer("unix:///s", highest, least);
            match version {
                None => assert_eq!(answer, "unix:///s"),
                Some(version) => {
                    let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
                    assert_eq!(answer["version"], version);
                    assert_eq!(answer["address"], "unix:///s");
                }
            }
        }
    }
}
