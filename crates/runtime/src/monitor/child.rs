//! The monitor's own process.
//!
//! Its main thread is where engines look: in the container's network and mount namespaces. All work is done on
//! another one, which stays where the monitor was started.

use std::fs::File;
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::mpsc::{Receiver, Sender, channel};

use hull_sandbox::cgroup::HostCgroup;
use hull_sandbox::stdio::StdioConfig;
use hull_shim::client::Pod;
use hull_shim::client::report::chain;
use hull_shim::client::signals::Signals;
use hull_shim::client::terminal::RawMode;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{SigHandler, Signal, signal};

use super::control::Control;
use super::streams::Streams;
use super::watch::{KILLED, watch};
use super::{
    Begin, Cgroup, Network, Order, Ready, RootPlan, Terminal, Watching, has_own_processes, terminal,
};
use crate::error::RuntimeError;

/// Names the descriptor of the socket to whoever has started the monitor. Its arguments are those of the process
/// that it stands for.
pub(crate) const DESCRIPTOR: &str = "HULL_MONITOR_FD";

/// Prepares the streams, waits for the order and then for the process's end. Answers with its exit status.
/// `descriptor` is that of the socket.
///
/// # Errors
/// When something cannot be prepared: whoever started the monitor has been told.
pub(crate) fn run(descriptor: i32) -> Result<u8, RuntimeError> {
    // SAFETY: whoever starts a monitor hands this descriptor over; nobody else here knows it.
    let control = unsafe { OwnedFd::from_raw_fd(descriptor) };
    let mut control = Control::new(control.into());
    let Some(begin) = control.read::<Begin>() else {
        return Ok(1);
    };
    let (orders, ordered) = channel();
    let prepared = prepare(&begin).and_then(|()| {
        let (stdio, worker) = start_worker(begin.terminal.clone(), ordered)?;
        enter_network(&begin.network)?;
        Ok((stdio, worker))
    });
    let (stdio, worker) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => {
            let _ = control.write(&Ready::Failed(chain(&error)));
            return Ok(1);
        }
    };
    let answered = control.write(&Ready::Streams(stdio));
    let order = answered.ok().and_then(|()| control.read::<Order>());
    let Some(order) = order else {
        // Whoever wanted the process has failed, and says so.
        return Ok(1);
    };
    if let Err(error) = settle(&order) {
        let _ = control.write(&Watching::Failed(chain(&error)));
        return Ok(1);
    }
    // It waits for this, and when it has given up, so shall the worker.
    let _ = control.write(&Watching::Yes);
    drop(control);
    // It has not ended before it has got its order.
    let _ = orders.send(order);
    let code = worker.join().expect("the worker does not panic");
    Ok(code)
}

impl Terminal {
    pub(super) fn is_given(&self) -> bool {
        !matches!(self, Self::None)
    }
}

/// Goes where engines look for the container.
fn settle(order: &Order) -> Result<(), RuntimeError> {
    match &order.cgroup {
        Cgroup::Same => {}
        Cgroup::OfPod(cgroup) => HostCgroup::new(cgroup)?.join()?,
        Cgroup::Own(cgroup) => HostCgroup::new(cgroup)?.enter(None)?,
    }
    order.root.as_ref().map_or(Ok(()), RootPlan::enter)
}

/// What concerns the process as a whole.
fn prepare(begin: &Begin) -> Result<(), RuntimeError> {
    if has_own_processes() {
        // What engines leave behind in there becomes its child, and nobody waits for that. Elsewhere it may start a pod
        // process, which would inherit this and does wait for its children.
        // SAFETY: no handler is set, and no child of this process is waited for anywhere.
        unsafe { signal(Signal::SIGCHLD, SigHandler::SigIgn) }
            .map_err(RuntimeError::host("ignore SIGCHLD"))?;
    }
    // The bundle's file system is not kept in use.
    std::env::set_current_dir("/").map_err(RuntimeError::host("go to /"))?;
    let leave = || nix::unistd::setsid().map_err(RuntimeError::host("leave the session"));
    match &begin.terminal {
        Terminal::Own => Ok(()),
        Terminal::None => leave().map(drop),
        Terminal::For(socket) => {
            leave()?;
            terminal::hand_over(socket)
        }
    }
}

/// The thread that does the work. Answers with where the process's streams shall lead.
fn start_worker(
    terminal: Terminal,
    ordered: Receiver<Order>,
) -> Result<(StdioConfig, std::thread::JoinHandle<u8>), RuntimeError> {
    let (tell, told) = channel();
    let worker = std::thread::Builder::new()
        .name("monitor".to_owned())
        .spawn(move || work(&terminal, &tell, &ordered))
        .map_err(RuntimeError::host("start a thread"))?;
    let stdio = told.recv().expect("the worker answers")?;
    Ok((stdio, worker))
}

fn work(
    terminal: &Terminal,
    tell: &Sender<Result<StdioConfig, RuntimeError>>,
    ordered: &Receiver<Order>,
) -> u8 {
    // What the main thread makes of its root and directory is its own.
    let alone = unshare(CloneFlags::CLONE_FS).map_err(RuntimeError::host("be a thread by itself"));
    let runtime = alone.and_then(|()| {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(RuntimeError::host("start the runtime"))
    });
    let prepared = runtime.and_then(|runtime| {
        let inside = runtime.enter();
        let streams =
            Streams::of_process(terminal).map_err(RuntimeError::host("prepare the streams"))?;
        let signals = Signals::catch().map_err(RuntimeError::host("catch signals"))?;
        drop(inside);
        Ok((runtime, streams, signals))
    });
    let (runtime, streams, signals) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => {
            let _ = tell.send(Err(error));
            return 1;
        }
    };
    // The main thread waits for it.
    let _ = tell.send(Ok(streams.config().clone()));
    let Ok(order) = ordered.recv() else {
        return 1;
    };
    // A terminal that was handed over is raw already, and an input that is none needs nothing.
    let raw = match terminal {
        Terminal::Own => RawMode::of_input().ok(),
        Terminal::None | Terminal::For(_) => None,
    };
    let code = runtime.block_on(follow(&order, streams, signals));
    drop(raw);
    // A thread that waits for input never ends by itself.
    runtime.shutdown_background();
    code
}

/// Takes the calling thread into a network namespace.
fn enter_network(network: &Network) -> Result<(), RuntimeError> {
    match network {
        Network::Same => Ok(()),
        Network::New => unshare(CloneFlags::CLONE_NEWNET)
            .map_err(RuntimeError::host("make a network namespace")),
        Network::At(path) => {
            let namespace =
                File::open(path).map_err(RuntimeError::host(format!("open {}", path.display())))?;
            setns(namespace, CloneFlags::CLONE_NEWNET)
                .map_err(RuntimeError::host(format!("enter {}", path.display())))
        }
    }
}

async fn follow(order: &Order, streams: Streams, signals: Signals) -> u8 {
    match Pod::connect(&order.pod, &order.id).await {
        Ok(pod) => watch(pod, order, streams, signals).await,
        Err(_) => KILLED,
    }
}
