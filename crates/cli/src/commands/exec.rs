//! `hull exec`.

use oci_spec::runtime::{Process, Spec};

use super::{CommandError, Context};
use crate::arguments::ExecArgs;
use crate::bundle::{self, BundleError};
use crate::container::{Container, State, StoreError, read_json, settle};
use crate::id;
use crate::spec::{self, CapabilitySet};
use crate::stdio::{self, Attached, Ended, Fifos, Signals, Streams};
use crate::values::environment::{self, Variable};
use hull_shim::client::Pod;

/// What Docker reports when the container ends under a further command.
const KILLED: u8 = 137;

/// `hull exec`.
pub(crate) async fn exec(context: &Context, args: &ExecArgs) -> Result<u8, CommandError> {
    if !args.detach && args.tty && args.interactive && !stdio::is_terminal() {
        return Err(CommandError::NoTerminal);
    }
    let container = running(context, &args.container).await?;
    let process = process(&container, args)?;
    let mut pod = Pod::connect(&container.dir.state, container.dir.id()).await?;
    let exec_id = id::random();
    if args.detach {
        let stdio = hull_sandbox::stdio::StdioConfig {
            terminal: args.tty,
            ..Default::default()
        };
        pod.exec(&exec_id, &process, stdio, None).await?;
        pod.start_process(&exec_id).await?;
        return Ok(0);
    }
    let streams = Streams {
        interactive: args.interactive,
        terminal: args.tty,
    };
    let mut signals = Signals::catch().map_err(|e| CommandError::System("catch signals", e))?;
    let prefix = format!("{exec_id}-");
    let mut fifos = Fifos::create(&container.dir.state, &prefix, args.interactive, args.tty)
        .map_err(|e| CommandError::System("make FIFOs in the container's state directory", e))?;
    pod.exec(&exec_id, &process, fifos.config(), None).await?;
    let attached = Attached::start(&mut fifos, streams, None)?;
    if let Err(error) = pod.start_process(&exec_id).await {
        // The process never was; that it is forgotten too is not what was asked.
        let _ = pod.delete(&exec_id).await;
        return Err(error.into());
    }
    Attached::resize(streams, &pod, &exec_id).await;
    let ended = attached
        .wait(&mut pod, &container.dir.state, &exec_id, &mut signals)
        .await?;
    match ended {
        Ended::Exited(code) => {
            // Ended together with its container, there is nothing left to forget.
            let _ = pod.delete(&exec_id).await;
            Ok(u8::try_from(code).unwrap_or(u8::MAX))
        }
        Ended::OutputClosed => {
            let _ = pod.delete(&exec_id).await;
            Ok(128 + 13)
        }
        Ended::Lost(_) => Ok(KILLED),
    }
}

/// A container that runs.
pub(super) async fn running(context: &Context, reference: &str) -> Result<Container, CommandError> {
    let found = context.store.find(reference)?;
    let name = found.record.name.clone();
    let settled = settle(found).await?;
    let container = settled.ok_or_else(|| StoreError::NotFound(reference.to_owned()))?;
    match container.state() {
        State::Running { .. } => Ok(container),
        state => Err(CommandError::WrongState {
            name,
            state: state.word(),
            needed: "running",
        }),
    }
}

/// The container's own process with another program, user and so on.
fn process(container: &Container, args: &ExecArgs) -> Result<Process, CommandError> {
    let config = container.dir.config();
    let spec: Option<Spec> = read_json(&config)?;
    let own = spec.and_then(|spec| spec.process().clone());
    let mut process = own.ok_or(CommandError::usage("the container's specification is gone"))?;
    let mut env = process.env().clone().unwrap_or_default();
    if let Some(user) = &args.user {
        let view = bundle::running_view(&container.dir, &container.settings()?.rootfs)?;
        let accounts = bundle::accounts(&view)?;
        let identity = accounts.resolve(user, &[]).map_err(BundleError::from)?;
        process.set_user(spec::user(&identity));
        environment::apply(&mut env, [Variable::Set("HOME".to_owned(), identity.home)]);
    }
    if args.tty {
        let has_term = env.iter().any(|variable| variable.starts_with("TERM="));
        env.extend((!has_term).then(|| "TERM=xterm".to_owned()));
    }
    for file in &args.env_file {
        environment::apply(
            &mut env,
            environment::read_file(file).map_err(BundleError::from)?,
        );
    }
    environment::apply(&mut env, args.env.iter().cloned());
    process.set_env(Some(env));
    process.set_args(Some(args.command.clone()));
    process.set_terminal(Some(args.tty));
    if let Some(dir) = &args.workdir {
        if !dir.starts_with('/') {
            return Err(BundleError::RelativeWorkdir(dir.clone()).into());
        }
        process.set_cwd(dir.into());
    }
    if args.privileged {
        process.set_capabilities(Some(CapabilitySet::all().to_oci()));
    }
    Ok(process)
}
