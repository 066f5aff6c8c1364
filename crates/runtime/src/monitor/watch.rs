//! Waiting for a process's end, and passing on to it what comes meanwhile.

use hull_shim::client::signals::{Event, Signals};
use hull_shim::client::{Pod, terminal};

use super::streams::Streams;
use super::{Order, has_own_processes};

/// What is said of a process whose virtual machine is gone.
pub(super) const KILLED: u8 = 137;

/// Completes when the process has ended and its output is where it was to go, with its exit status.
pub(super) async fn watch(
    mut pod: Pod,
    order: &Order,
    mut streams: Streams,
    mut signals: Signals,
) -> u8 {
    streams.are_opened();
    let has_terminal = streams.config().terminal;
    if has_terminal {
        resize(&pod, &order.exec_id).await;
    }
    let code = loop {
        tokio::select! {
            exit = pod.wait(&order.exec_id) => match exit {
                Ok(exit) => break u8::try_from(exit.code).unwrap_or(u8::MAX),
                // What is started from here is in this process's namespace, and would end with it.
                Err(error) if has_own_processes() && !error.is_answer() => break KILLED,
                Err(error) => match error.reconnect(&mut pod, &order.pod).await {
                    Ok(()) => {}
                    Err(_) => break KILLED,
                },
            },
            event = signals.next() => match event {
                Event::Resized if has_terminal => resize(&pod, &order.exec_id).await,
                Event::Resized => {}
                // A process that is gone needs no signal.
                Event::Signal(number) => drop(pod.kill(&order.exec_id, number, false).await),
            },
        }
    };
    if !order.exec_id.is_empty() {
        // Ended together with its container, there is nothing left to forget.
        let _ = pod.delete(&order.exec_id).await;
    }
    streams.finish().await;
    code
}

/// Gives the process's terminal the size of this one's. One of the wrong size is no reason to fail.
async fn resize(pod: &Pod, exec_id: &str) {
    if let Some((columns, rows)) = terminal::size() {
        let _ = pod.resize(exec_id, columns, rows).await;
    }
}
