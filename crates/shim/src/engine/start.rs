//! `start`: a pod process for a new pod, or the address of the one that a container joins.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use hull_config::{Config, LogLevel};
use hull_sandbox::{bundle_spec, destroy, live_vmm};
use oci_spec::runtime::Spec;

use super::role::Role;
use super::{EngineError, Invocation, answer, host, options, pod};
use crate::client::{self, Engine, PodProcess, Start};
use crate::sandboxer::PendingPod;

/// Starts the pod process for the container in the working directory, unless its pod has one, and
/// says on the standard output where it listens.
///
/// # Errors
/// When the specification cannot be honoured, or the process not be started.
pub async fn start(invocation: &Invocation) -> Result<(), EngineError> {
    let bundle = std::env::current_dir().map_err(host("find the working directory"))?;
    let config_file = options::config_path(io::stdin().lock()).map_err(host("read the options"))?;
    let own = invocation.state_dir(&invocation.id);
    // A sandbox of containerd's sandboxer `shim` has no specification: it is described later.
    let (state_dir, least_version) = if bundle.join("config.json").exists() {
        let spec = bundle_spec(&bundle)?;
        match Role::of(&spec) {
            Role::Member(pod) => (running(invocation, pod).await?, 2),
            role => {
                let settings = settings(config_file.as_deref(), &spec)?;
                let config = pod::request(invocation, &role, &spec)?.config(&settings)?;
                create_state_dir(&own, &invocation.id).await?;
                config.write(&own)?;
                launch(invocation, &bundle, &own, settings.log.level).await?;
                (own, 2)
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
        create_state_dir(&own, &invocation.id).await?;
        pending.write(&own)?;
        launch(invocation, &bundle, &own, settings.log.level).await?;
        (own, SANDBOX_VERSION)
    };
    let address = format!("unix://{}", client::socket(&state_dir).display());
    std::fs::write(bundle.join("address"), &address).map_err(host("write the file `address`"))?;
    answer(start_answer(&address, least_version).as_bytes())
}

/// The version of the Task API from which on containerd takes a shim for one that serves the Sandbox API.
const SANDBOX_VERSION: u32 = 3;

/// The state directory of a pod that a container joins.
async fn running(invocation: &Invocation, pod: String) -> Result<PathBuf, EngineError> {
    let state_dir = invocation.state_dir(&pod);
    match PodProcess::dial(&state_dir).await {
        Ok(_) => Ok(state_dir),
        Err(_) => Err(EngineError::NoPod {
            id: invocation.id.clone(),
            pod,
        }),
    }
}

/// Starts the pod process of a state directory that says what it shall do.
async fn launch(
    invocation: &Invocation,
    bundle: &Path,
    state_dir: &Path,
    log_level: LogLevel,
) -> Result<(), EngineError> {
    let engine = Engine {
        namespace: invocation.namespace.clone(),
        events: std::env::var_os("TTRPC_ADDRESS").map(Into::into),
        log: bundle.join("log"),
        log_level: match invocation.debug {
            true => LogLevel::Debug,
            false => log_level,
        },
    };
    let start = Start {
        engine: Some(engine),
        ..Start::default()
    };
    if let Err(error) = PodProcess::start(state_dir, start).await {
        destroy(state_dir).await?;
        return Err(error.into());
    }
    Ok(())
}

/// From containerd 1.7 on, the answer may say more than the address; earlier ones take nothing else,
/// and know version 2 of the Task API only.
fn start_answer(address: &str, least_version: u32) -> String {
    match std::env::var_os("MAX_SHIM_VERSION") {
        None => address.to_owned(),
        Some(highest) => {
            let highest = highest.to_str().and_then(|text| text.parse().ok());
            // What containerd 2 calls its highest is the protocol of this call, not of the Task API.
            let version = highest
                .map_or(2, |highest: u32| highest.clamp(2, 3))
                .max(least_version);
            serde_json::json!({"version": version, "address": address, "protocol": "ttrpc"})
                .to_string()
        }
    }
}

/// What counts for the pod: the operator's files and the pod's annotations.
fn settings(file: Option<&Path>, spec: &Spec) -> Result<Config, EngineError> {
    let annotations = spec.annotations().iter().flatten();
    let (config, ignored) = Config::load(file)?.with_annotations(annotations)?;
    for name in ignored {
        tracing::warn!("the annotation {name} is ignored");
    }
    Ok(config)
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
