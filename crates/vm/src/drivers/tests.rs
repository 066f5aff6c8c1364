//! What drivers promise of VMMs that are asked over HTTP, whatever those do: with stand-ins that answer what the real
//! ones have answered.
//!
//! - here: one that lives and does not do what it should
//! - `ends`: one that dies, and what is left of it

mod ends;

use std::error::Error;
use std::io;

use super::cloud_hypervisor::CloudHypervisor;
use super::firecracker::Firecracker;
use crate::confine::has_landlock;
use crate::driver::Vm;
use crate::error::VmError;
use crate::process::ProcessRecord;
use crate::snapshot::Snapshot;
use crate::stand_in::api::Reply;
use crate::stand_in::bench::{Bench, StoodIn};
use crate::stand_in::{LAST_STATUS, LAST_WORDS, READS};

/// A step of a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Pause,
    Snapshot,
    Resume,
}

impl Step {
    /// The conversation.
    const ALL: [Self; 3] = [Self::Pause, Self::Snapshot, Self::Resume];

    fn name(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Snapshot => "snapshot",
            Self::Resume => "resume",
        }
    }
}

/// A machine that a stand-in runs.
struct Running<D> {
    bench: Bench<D>,
    vm: Box<dyn Vm>,
    vmm: ProcessRecord,
}

impl<D: StoodIn> Running<D> {
    async fn boot() -> Self {
        let bench = Bench::new();
        let vm = bench.boot().await.unwrap();
        let vmm = bench.stand_in.runs().await;
        Self { bench, vm, vmm }
    }

    async fn take(&self, step: Step) -> Result<(), VmError> {
        match step {
            Step::Pause => self.vm.pause().await,
            Step::Snapshot => self.vm.snapshot(&self.bench.stand_in.path("taken")).await,
            Step::Resume => self.vm.resume().await,
        }
    }

    fn done(&self, step: Step) -> Reply {
        self.bench.done(step.name(), self.vmm)
    }

    /// The step has failed, and has changed nothing.
    fn assert_goes_on(&self, step: Step) {
        assert!(self.vmm.is_alive());
        let taken = self.bench.stand_in.path("taken");
        assert!(!taken.exists(), "{step:?}");
    }
}

/// The whole of what a person is told.
pub(super) fn told(error: &VmError) -> String {
    let mut told = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        told = format!("{told}: {error}");
        cause = error.source();
    }
    told
}

pub(super) fn assert_told_once(error: &VmError, words: &str) {
    let told = told(error);
    assert_eq!(told.matches(words).count(), 1, "{told}");
}

/// It is told that the VMM ended during a request, and how.
pub(super) fn assert_died(error: &VmError, while_asked: bool) {
    let VmError::Died { command, .. } = error else {
        panic!("{}", told(error));
    };
    assert_eq!(command.is_some(), while_asked, "{error}");
    assert_told_once(error, LAST_STATUS);
    assert_told_once(error, LAST_WORDS);
}

pub(super) fn assert_hung_up(error: &VmError) {
    assert!(matches!(error, VmError::Disconnected { .. }), "{error}");
}

pub(super) fn assert_late(error: &VmError) {
    let VmError::Disconnected { source, .. } = error else {
        panic!("{}", told(error));
    };
    assert_eq!(source.kind(), io::ErrorKind::TimedOut, "{source}");
}

async fn converse<D: StoodIn>() {
    let running = Running::<D>::boot().await;
    let bench = &running.bench;
    let replies = Step::ALL.map(|step| running.done(step));
    let served = bench.serve(replies).await;
    for step in Step::ALL {
        running.take(step).await.unwrap();
    }
    let asked = served.await.unwrap();
    let asked: Vec<_> = asked.iter().map(|request| request.line()).collect();
    let recorded = Step::ALL.map(|step| bench.recorded.exchange(step.name()).request.as_str());
    assert_eq!(asked, recorded);
    let snapshot = Snapshot::open(&bench.stand_in.path("taken")).unwrap();
    assert_eq!(snapshot.driver(), bench.driver.name());
    running.vm.kill().await;
    assert!(!running.vmm.is_alive());
}

#[tokio::test]
async fn a_vmm_is_asked_as_its_schema_says_and_does_it() {
    converse::<CloudHypervisor>().await;
    converse::<Firecracker>().await;
}

async fn refuse<D: StoodIn>() {
    for step in Step::ALL {
        let running = Running::<D>::boot().await;
        let exchange = running.bench.recorded.exchange(step.name());
        let replies = [exchange.refused(), running.done(step)];
        let served = running.bench.serve(replies).await;
        let error = running.take(step).await.unwrap_err();
        assert!(matches!(error, VmError::Refused { .. }), "{error}");
        assert_told_once(&error, &exchange.words);
        running.assert_goes_on(step);
        running.take(step).await.unwrap();
        served.await.unwrap();
    }
}

#[tokio::test]
async fn a_refusal_is_told_in_the_vmm_s_words_and_the_machine_goes_on() {
    refuse::<CloudHypervisor>().await;
    refuse::<Firecracker>().await;
}

async fn hang_up<D: StoodIn>() {
    for step in Step::ALL {
        let running = Running::<D>::boot().await;
        let length = running.done(step).length();
        let cuts = [0, 5, length - 1];
        let replies = cuts.map(|cut| running.done(step).cut_to(cut));
        let served = running.bench.serve(replies).await;
        for _ in cuts {
            assert_hung_up(&running.take(step).await.unwrap_err());
            running.assert_goes_on(step);
        }
        served.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_vmm_that_hangs_up_half_way_has_not_answered() {
    hang_up::<CloudHypervisor>().await;
    hang_up::<Firecracker>().await;
}

async fn be_late<D: StoodIn>() {
    for step in Step::ALL {
        let running = Running::<D>::boot().await;
        let served = running.bench.serve([Reply::never()]).await;
        assert_late(&running.take(step).await.unwrap_err());
        running.assert_goes_on(step);
        served.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn a_vmm_that_does_not_answer_is_not_waited_for_for_ever() {
    be_late::<CloudHypervisor>().await;
    be_late::<Firecracker>().await;
}

async fn never_go_on<D: StoodIn>() {
    let bench = Bench::<D>::new();
    assert_late(&bench.go_on().await.unwrap_err());
    bench.stand_in.assert_gone();
}

/// Cloud Hypervisor does not say that its machine goes on, and Firecracker does not listen.
#[tokio::test(start_paused = true)]
async fn a_vmm_that_never_goes_on_is_not_waited_for_for_ever() {
    never_go_on::<CloudHypervisor>().await;
    never_go_on::<Firecracker>().await;
}

async fn read_the_host<D: StoodIn>(told: &str) {
    let bench = Bench::<D>::new();
    bench.stand_in.order(READS);
    assert_eq!(bench.go_on().await.unwrap_err().to_string(), told);
}

#[tokio::test]
async fn a_vmm_reads_nothing_of_the_host_but_randomness() {
    if !has_landlock() {
        return;
    }
    read_the_host::<CloudHypervisor>(
        "cloud-hypervisor exited with status 1 before it could be used: /dev/urandom",
    )
    .await;
    read_the_host::<Firecracker>("firecracker exited with status 1 before it could be used").await;
}

async fn write_nothing<D: StoodIn>() {
    let running = Running::<D>::boot().await;
    let done = running.bench.recorded.exchange("snapshot").done();
    let served = running.bench.serve([done]).await;
    let error = running.take(Step::Snapshot).await.unwrap_err();
    assert!(matches!(error, VmError::Host { .. }), "{error}");
    running.assert_goes_on(Step::Snapshot);
    served.await.unwrap();
}

#[tokio::test]
async fn a_snapshot_that_a_vmm_has_only_promised_is_none() {
    write_nothing::<CloudHypervisor>().await;
    write_nothing::<Firecracker>().await;
}
