//! Reaping children and handing out their exit statuses.
//!
//! PID 1 is the parent of every orphan of the guest besides the processes it made. One task waits
//! for all of them. A process is made by a helper and known by its pid only afterwards, so it may
//! end, and be reaped, before anybody can ask for it: while a process is expected, the statuses of
//! unknown children are kept.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use nix::errno::Errno;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

/// How and when a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exit {
    /// The exit code, or 128 plus the signal's number.
    pub(crate) status: u32,
    pub(crate) at: SystemTime,
}

/// Distributes exit statuses.
#[derive(Debug, Default)]
pub(crate) struct Reaper {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    watched: HashMap<i32, oneshot::Sender<Exit>>,
    /// Processes being made.
    expected: usize,
    /// Statuses of unknown children that ended while one was expected.
    unclaimed: HashMap<i32, Exit>,
}

impl Reaper {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Announces that a process is about to be made.
    pub(crate) fn expect(self: &Arc<Self>) -> Expectation {
        self.state().expected += 1;
        Expectation {
            reaper: Arc::clone(self),
        }
    }

    /// Reaps for as long as the agent runs.
    pub(crate) async fn run(self: Arc<Self>) -> io::Result<()> {
        let mut signals = signal(SignalKind::child())?;
        loop {
            // Once before waiting, for what ended before the handler was there.
            self.reap();
            signals.recv().await;
        }
    }

    fn reap(&self) {
        loop {
            match waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => self.ended(pid, code.cast_unsigned()),
                Ok(WaitStatus::Signaled(pid, signal, _)) => {
                    self.ended(pid, 128 + (signal as i32).cast_unsigned());
                }
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return,
                // Stops and continuations are not asked for.
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => {
                    log::error!("cannot reap children: {errno}");
                    return;
                }
            }
        }
    }

    fn ended(&self, pid: Pid, status: u32) {
        let exit = Exit {
            status,
            at: SystemTime::now(),
        };
        let mut state = self.state();
        if let Some(sender) = state.watched.remove(&pid.as_raw()) {
            // Whoever watched may have lost interest.
            let _unwatched = sender.send(exit);
        } else if state.expected > 0 {
            state.unclaimed.insert(pid.as_raw(), exit);
        }
    }
}

/// While it lives, no exit status is lost.
#[derive(Debug)]
pub(crate) struct Expectation {
    reaper: Arc<Reaper>,
}

impl Expectation {
    /// Tells how the process ends, or has ended already.
    pub(crate) fn watch(&self, pid: i32) -> oneshot::Receiver<Exit> {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.reaper.state();
        match state.unclaimed.remove(&pid) {
            Some(exit) => {
                // The receiver is right here.
                let _sent = sender.send(exit);
            }
            None => {
                state.watched.insert(pid, sender);
            }
        }
        receiver
    }
}

impl Drop for Expectation {
    fn drop(&mut self) {
        let mut state = self.reaper.state();
        state.expected -= 1;
        if state.expected == 0 {
            state.unclaimed.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_watched_process_reports_its_end() {
        let reaper = Arc::new(Reaper::default());
        let receiver = reaper.expect().watch(7);
        reaper.ended(Pid::from_raw(7), 3);
        assert_eq!(receiver.await.unwrap().status, 3);
    }

    #[tokio::test]
    async fn an_end_before_the_watch_is_not_lost() {
        let reaper = Arc::new(Reaper::default());
        let expectation = reaper.expect();
        reaper.ended(Pid::from_raw(7), 137);
        assert_eq!(expectation.watch(7).await.unwrap().status, 137);
    }

    #[test]
    fn orphans_leave_nothing_behind() {
        let reaper = Arc::new(Reaper::default());
        reaper.ended(Pid::from_raw(7), 0);
        let expectation = reaper.expect();
        reaper.ended(Pid::from_raw(8), 0);
        assert_eq!(reaper.state().unclaimed.len(), 1);
        drop(expectation);
        assert!(reaper.state().unclaimed.is_empty());
    }
}
