//! `exec`.

use std::path::Path;

use hull_sandbox::spec::capabilities::decode;
use hull_sandbox::state::Status;
use hull_shim::client::Pod;
use hull_shim::client::signals::Signals;
use hull_vm::process::ProcessRecord;
use oci_spec::runtime::Process;
use serde_json::{Value, json};

use super::create::{self, check_console, write_pid};
use super::run::wait;
use super::{Context, capabilities};
use crate::arguments::ExecArgs;
use crate::container::{ALIVE, Container};
use crate::error::RuntimeError;
use crate::monitor::{self, Begin, Cgroup, Monitor, Order};

/// Runs a further program in a container, and unless `detach` waits for its end.
pub(super) async fn exec(context: &Context, args: &ExecArgs) -> Result<u8, RuntimeError> {
    if args.cgroup.is_some() {
        return Err(RuntimeError::Unsupported(
            "to run a program in another control group of the container",
        ));
    }
    let container = Container::find(&context.store, &args.id).await?;
    let allowed: &[Status] = match args.ignore_paused {
        true => &ALIVE,
        false => &[Status::Created, Status::Running],
    };
    let pod = container.pod_if("exec in", allowed).await?;
    let (process, unknown) = process(&container, args)?;
    capabilities::warn_of_unknown(&context.log, &unknown);
    capabilities::warn_of_ambient(&context.log, &process);
    let terminal = process.terminal().unwrap_or(false);
    check_console(&args.streams, terminal, args.detach)?;
    // Before the process can end.
    let signals = Signals::catch().map_err(RuntimeError::host("catch signals"))?;
    let monitor = monitor::begin(&Begin {
        args: process.args().clone().unwrap_or_default(),
        terminal: create::terminal(&args.streams, terminal),
        ..Begin::default()
    })?;
    let order = Order {
        pod: container.record.pod.clone(),
        id: args.id.clone(),
        exec_id: exec_id(&monitor.record),
        root: None,
        cgroup: Cgroup::Same,
    };
    start(pod, &order, &process, &monitor).await?;
    context.store.add_exec(&args.id, monitor.record)?;
    write_pid(&args.streams, monitor.record.pid)?;
    let monitor = monitor.release(&order)?;
    match args.detach {
        true => Ok(0),
        false => wait(monitor, signals).await,
    }
}

/// Unique, as no other process is named so.
fn exec_id(monitor: &ProcessRecord) -> String {
    format!("exec-{}-{}", monitor.pid, monitor.start_ticks)
}

async fn start(
    pod: &Pod,
    order: &Order,
    process: &Process,
    monitor: &Monitor,
) -> Result<(), RuntimeError> {
    let exec_id = &order.exec_id;
    pod.exec(
        exec_id,
        process,
        monitor.stdio.clone(),
        Some(monitor.record),
    )
    .await?;
    let started = pod.start_process(exec_id).await;
    if started.is_err() {
        // The process never was; that it is forgotten too is not what was asked.
        let _ = pod.delete(exec_id).await;
    }
    started.map_err(RuntimeError::program(process.args().as_ref()))
}

/// What shall run: what the file says, or the container's own with another program. With it come the names of
/// capabilities that nobody knows.
fn process(container: &Container, args: &ExecArgs) -> Result<(Process, Vec<String>), RuntimeError> {
    if let Some(path) = &args.process {
        let (mut process, unknown) = read(path)?;
        if args.tty {
            process.set_terminal(Some(true));
        }
        return Ok((process, unknown));
    }
    let invalid = |text: &str| RuntimeError::Invalid(text.to_owned());
    if args.command.is_empty() {
        return Err(invalid("exec args cannot be empty"));
    }
    let own = container.record.process.clone();
    let mut process = own.ok_or_else(|| invalid("the container has no process"))?;
    process.set_args(Some(args.command.clone()));
    process.set_terminal(Some(args.tty));
    if let Some(dir) = &args.cwd {
        process.set_cwd(dir.clone());
    }
    let mut env = process.env().clone().unwrap_or_default();
    env.extend(args.env.iter().cloned());
    process.set_env(Some(env));
    if let Some(no_new_privileges) = args.no_new_privs {
        process.set_no_new_privileges(Some(no_new_privileges));
    }
    set_user(&mut process, args)?;
    let unknown = capabilities::add(&mut process, &args.cap);
    Ok((process, unknown))
}

/// Without a user it is root's.
fn read(path: &Path) -> Result<(Process, Vec<String>), RuntimeError> {
    let bytes =
        std::fs::read(path).map_err(RuntimeError::host(format!("read {}", path.display())))?;
    let mut process: Value =
        serde_json::from_slice(&bytes).map_err(RuntimeError::malformed(path))?;
    if let Some(fields) = process.as_object_mut() {
        fields
            .entry("user")
            .or_insert_with(|| json!({"uid": 0, "gid": 0}));
    }
    let bytes = serde_json::to_vec(&process).expect("JSON encodes");
    decode(&bytes, "/capabilities").map_err(RuntimeError::malformed(path))
}

fn set_user(process: &mut Process, args: &ExecArgs) -> Result<(), RuntimeError> {
    let mut user = process.user().clone();
    if let Some(text) = &args.user {
        let malformed = || RuntimeError::Invalid(format!("{text:?} is not UID[:GID]"));
        let (uid, gid) = match text.split_once(':') {
            Some((uid, gid)) => (uid, Some(gid)),
            None => (text.as_str(), None),
        };
        user.set_uid(uid.parse().map_err(|_| malformed())?);
        if let Some(gid) = gid {
            user.set_gid(gid.parse().map_err(|_| malformed())?);
        }
    }
    if !args.additional_gids.is_empty() {
        let mut gids = user.additional_gids().clone().unwrap_or_default();
        gids.extend(&args.additional_gids);
        user.set_additional_gids(Some(gids));
    }
    process.set_user(user);
    Ok(())
}
