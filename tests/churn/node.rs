//! The node that all pods are on, whose containerd may be killed at any time.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::time::Duration;

use harness::containerd::Containerd;
use harness::cri::Cri;
use tokio::sync::watch;
use tonic::Status;

/// Longer than any call takes, however busy the machine is.
const LONGEST_CALL: Duration = Duration::from_secs(180);

/// Why a call has no result.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It was refused.
    Refused(Status),
    /// containerd was killed meanwhile. What became of the call is not known.
    Interrupted,
}

/// How far the pods are.
#[derive(Debug, Default, Clone, Copy)]
struct Progress {
    gone: usize,
    calls: usize,
}

/// The node.
#[derive(Debug)]
pub(crate) struct Node {
    hull_root: PathBuf,
    /// The connection to the containerd that runs; none while none does.
    cri: watch::Sender<Option<Cri>>,
    kills: Cell<usize>,
    progress: watch::Sender<Progress>,
}

impl Node {
    /// The one that `containerd` runs on.
    pub(crate) async fn of(containerd: &Containerd) -> Self {
        Self {
            hull_root: containerd.hull_root(),
            cri: watch::Sender::new(Some(Cri::connect(containerd).await)),
            kills: Cell::new(0),
            progress: watch::Sender::default(),
        }
    }

    /// A connection to the containerd that runs.
    pub(crate) fn cri(&self) -> Cri {
        self.cri.borrow().clone().expect("containerd runs")
    }

    /// Where Hull has its state.
    pub(crate) fn hull_root(&self) -> &Path {
        &self.hull_root
    }

    /// A pod has come and gone.
    pub(crate) fn pod_is_gone(&self) {
        self.progress.send_modify(|progress| progress.gone += 1);
    }

    /// Makes a call, as soon as containerd runs.
    ///
    /// # Panics
    /// When there is no answer, with `what` was asked for.
    pub(crate) async fn call<T>(
        &self,
        what: &str,
        call: impl AsyncFnOnce(Cri) -> Result<T, Status>,
    ) -> Result<T, Failure> {
        let mut cri = self.cri.subscribe();
        let cri = cri.wait_for(Option::is_some).await;
        let cri = cri.expect("the sender is ours").clone();
        let kills = self.kills.get();
        self.progress.send_modify(|progress| progress.calls += 1);
        let answer = call(cri.expect("waited for it"));
        let answer = tokio::time::timeout(LONGEST_CALL, answer).await;
        self.progress.send_modify(|progress| progress.calls -= 1);
        let answer = answer.unwrap_or_else(|_| panic!("no answer in {LONGEST_CALL:?}: {what}"));
        answer.map_err(|status| match self.kills.get() == kills {
            true => Failure::Refused(status),
            false => Failure::Interrupted,
        })
    }

    /// When so many pods have `gone` and calls are under way, kills containerd and starts it again.
    pub(crate) async fn kill_after(&self, gone: usize, containerd: &mut Containerd) {
        let mut progress = self.progress.subscribe();
        let reached = |progress: &Progress| progress.gone >= gone && progress.calls >= 2;
        let reached = progress.wait_for(reached).await.map(drop);
        reached.expect("the sender is ours");
        self.cri.send_replace(None);
        self.kills.update(|kills| kills + 1);
        containerd.kill();
        containerd.start();
        self.cri.send_replace(Some(Cri::connect(containerd).await));
    }
}
