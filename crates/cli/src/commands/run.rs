//! `hull run` and `hull create`.

use std::path::PathBuf;

use hull_config::Config;
use hull_image::{Image, Store};
use hull_vm::Acceleration;

use super::{CommandError, Context};
use crate::arguments::{ContainerArgs, CreateArgs, RunArgs};
use crate::bundle;
use crate::container::{Container, ContainerDir, ContainerLock, exit_file_name};
use crate::images::{self, FetchError};
use crate::launch::{self, Launch};
use crate::stdio::{self, Signals};

/// `hull run`.
pub(crate) async fn run(context: &Context, args: &RunArgs) -> Result<u8, CommandError> {
    let container = &args.container;
    bundle::check(container)?;
    check_streams(args)?;
    let config = Config::load(None)?;
    let accel = container.machine.accel.unwrap_or(config.vm.acceleration);
    let notice = tcg_notice(context, accel);
    let mut signals = Signals::catch().map_err(|e| CommandError::System("catch signals", e))?;
    let store = images::open(&context.locations, None)?;
    let image = tokio::select! {
        image = obtain(context, &store, container) => image?,
        signal = signals.interrupted() => return Err(CommandError::Interrupted(signal)),
    };
    let draft = context.store.begin(container.name.as_deref())?;
    let dir = draft.container.dir.clone();
    let for_us_only = container.rm && !args.detach;
    // With this process the container ends and is removed, so nobody would give a hold back.
    let lease = match for_us_only {
        true => Some(image.lease()?),
        false => {
            store.hold(dir.id(), &image)?;
            None
        }
    };
    let mut pod = bundle::pod_config(container, &config, &dir, &context.locations)?;
    if let Some(single) = &mut pod.single {
        single.exit_file = exit_file(context, &dir, for_us_only);
    }
    // The guest boots while the bundle is written.
    let launch = Launch::begin(&dir, &pod).await?;
    let written = bundle::write(container, &image, &draft.container, pod, &context.locations);
    let prepared = written.map_err(CommandError::from).and_then(|settings| {
        let (mut made, lock) = draft.finish(settings)?;
        launch::mark_started(&mut made, !args.detach)?;
        Ok((made, lock))
    });
    let (made, lock) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => {
            launch.abort().await?;
            return Err(error);
        }
    };
    let code = if args.detach {
        let id = made.record.id.clone();
        launch.detached(made, &mut signals).await?;
        drop(lock);
        println!("{id}");
        0
    } else {
        launch.attached(made, lock, &mut signals).await?
    };
    notice.await;
    drop(lease);
    Ok(u8::try_from(code).unwrap_or(u8::MAX))
}

/// `hull create`.
pub(crate) async fn create(context: &Context, args: &CreateArgs) -> Result<u8, CommandError> {
    let container = &args.container;
    bundle::check(container)?;
    let store = images::open(&context.locations, None)?;
    let image = obtain(context, &store, container).await?;
    let (made, _lock) = make(context, &store, container, &image)?;
    println!("{}", made.record.id);
    Ok(0)
}

fn make(
    context: &Context,
    store: &Store,
    args: &ContainerArgs,
    image: &Image,
) -> Result<(Container, ContainerLock), CommandError> {
    let draft = context.store.begin(args.name.as_deref())?;
    store.hold(draft.container.dir.id(), image)?;
    let config = Config::load(None)?;
    let dir = &draft.container.dir;
    let pod = bundle::pod_config(args, &config, dir, &context.locations)?;
    let settings = bundle::write(args, image, &draft.container, pod, &context.locations)?;
    Ok(draft.finish(settings)?)
}

fn check_streams(args: &RunArgs) -> Result<(), CommandError> {
    let container = &args.container;
    if args.detach && container.interactive && !container.tty {
        return Err(CommandError::usage(
            "not supported: -d with -i and without -t: nobody could write to the command's input",
        ));
    }
    if !args.detach && container.tty && container.interactive && !stdio::is_terminal() {
        return Err(CommandError::NoTerminal);
    }
    Ok(())
}

async fn obtain(
    context: &Context,
    store: &Store,
    args: &ContainerArgs,
) -> Result<Image, FetchError> {
    let reference = args
        .image_and_command
        .first()
        .expect("clap requires an image");
    images::obtain(store, reference, args.pull, context.quiet).await
}

/// Where the pod process says how it ended. With `--rm` the container's directory is gone by then, so
/// it goes beside the state directories, under a name that tells whose it is.
fn exit_file(context: &Context, dir: &ContainerDir, for_us_only: bool) -> PathBuf {
    match for_us_only {
        true => context.locations.state.join(exit_file_name(dir.id())),
        false => dir.exit(),
    }
}

/// Says once that there is no hardware virtualisation, while everything else goes on.
pub(super) async fn tcg_notice_text(acceleration: Acceleration) -> Option<String> {
    if acceleration != Acceleration::Auto {
        return None;
    }
    let reason = tokio::task::spawn_blocking(hull_vm::accel::kvm_problem)
        .await
        .ok()??;
    Some(format!(
        "hull: no usable KVM ({reason}); running on QEMU's TCG, which is slow"
    ))
}

/// Starts to find out at once; the notice appears as soon as it is known.
pub(super) fn tcg_notice(
    context: &Context,
    acceleration: Acceleration,
) -> impl Future<Output = ()> + use<> {
    let quiet = context.quiet;
    let task = tokio::spawn(async move {
        if !quiet && let Some(text) = tcg_notice_text(acceleration).await {
            eprintln!("{text}");
        }
    });
    async {
        // A notice that could not be found out is none.
        let _ = task.await;
    }
}
