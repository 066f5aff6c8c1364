//! The running agent: its tasks and its connections to the host.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use hull_agent_api::{Hello, agent_ttrpc};
use tokio::sync::mpsc;
use ttrpc::asynchronous::transport::Listener as RpcListener;

use crate::launch::Launcher;
use crate::listen::{Listener, Transport};
use crate::reaper::Reaper;
use crate::rpc::Service;
use crate::sandbox::Sandbox;

/// How long the answer to a shutdown may take to leave the guest. The host does not depend on it:
/// it sees the guest end.
const LAST_ANSWER: Duration = Duration::from_millis(20);

/// Serves until the host has the guest shut down.
/// Helpers come from the process behind `helpers` (see [`crate::helper::start_server`]).
pub(crate) fn run(transport: &Transport, helpers: UnixStream) -> anyhow::Result<()> {
    // One thread: the agent moves bytes and waits; what it does besides is done by helpers.
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(8)
        .thread_stack_size(256 << 10)
        .build()
        .context("cannot start the event loop")?
        .block_on(serve(transport, helpers))
}

async fn serve(transport: &Transport, helpers: UnixStream) -> anyhow::Result<()> {
    let reaper = Arc::new(Reaper::default());
    let reaping = tokio::spawn(Arc::clone(&reaper).run());
    let launcher = Arc::new(Launcher::new(helpers, reaper));
    let sandbox = Arc::new(Sandbox::new(launcher));
    let stdio = transport
        .stdio()
        .context("cannot listen for stdio streams")?;
    tokio::spawn(Arc::clone(&sandbox.parked).serve(stdio));
    let (shutdown, mut asked) = mpsc::channel(1);
    let service = Service { sandbox, shutdown };
    let rpc = transport.rpc().context("cannot listen for calls")?;
    let mut server = ttrpc::r#async::Server::new()
        .add_listener(calls(rpc))
        .register_service(agent_ttrpc::create_agent(Arc::new(service)));
    server.start().await.context("cannot serve calls")?;
    say_hello(transport).context("cannot tell the host that the agent is ready")?;
    log::info!("ready");
    tokio::select! {
        ended = reaping => ended.context("the reaper failed")?.context("cannot reap")?,
        _ = asked.recv() => tokio::time::sleep(LAST_ANSWER).await,
    }
    Ok(())
}

/// The host's connections, as the RPC server takes them.
fn calls(listener: Listener) -> RpcListener {
    let connections = futures_util::stream::unfold(listener, |listener| async {
        let connection = match listener.accept().await {
            // Any stream socket reads and writes alike.
            Ok(fd) => tokio::net::UnixStream::from_std(UnixStream::from(fd)),
            Err(error) => Err(error),
        };
        Some((connection, listener))
    });
    RpcListener::new(connections)
}

fn say_hello(transport: &Transport) -> std::io::Result<()> {
    // Any stream socket writes alike.
    let mut host = UnixStream::from(transport.dial_host()?);
    host.write_all(Hello::current().to_line().as_bytes())
}
