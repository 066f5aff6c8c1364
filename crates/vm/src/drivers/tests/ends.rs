//! A VMM that ends.

use super::{Running, Step, assert_died};
use crate::driver::Vm;
use crate::drivers::cloud_hypervisor::CloudHypervisor;
use crate::drivers::firecracker::Firecracker;
use crate::error::VmError;
use crate::process::ProcessRecord;
use crate::stand_in::bench::{Bench, StoodIn};
use crate::stand_in::{LAST_STATUS, LAST_WORDS};

/// It ends at each step, when it has sent so much of its answer.
async fn die_when_asked<D: StoodIn>(sent: impl Fn(usize) -> usize) {
    for (at, last) in Step::ALL.into_iter().enumerate() {
        let running = Running::<D>::boot().await;
        let (before, _) = Step::ALL.split_at(at);
        let mut replies: Vec<_> = before.iter().map(|step| running.done(*step)).collect();
        let reply = running.done(last);
        let length = sent(reply.length());
        replies.push(reply.cut_to(length).then(running.bench.stand_in.death()));
        let served = running.bench.serve(replies).await;
        for step in before {
            running.take(*step).await.unwrap();
        }
        let taken = running.bench.stand_in.path("taken");
        let was_there = taken.exists();
        assert_died(&running.take(last).await.unwrap_err(), true);
        assert_eq!(taken.exists(), was_there, "{last:?}");
        assert_ended(running.vm.as_ref(), running.vmm).await;
        served.await.unwrap();
    }
}

/// The machine's end is that of its VMM, which is told.
async fn assert_ended(vm: &dyn Vm, vmm: ProcessRecord) {
    let exit = vm.wait().await;
    assert!(!vmm.is_alive());
    assert!(!exit.by_guest, "{exit:?}");
    for word in [LAST_STATUS, LAST_WORDS] {
        assert_eq!(exit.cause.matches(word).count(), 1, "{exit:?}");
    }
}

#[tokio::test]
async fn a_vmm_that_dies_at_any_step_is_told_with_its_words() {
    for sent in [|_| 0, |_| 5, |length| length - 1] {
        die_when_asked::<CloudHypervisor>(sent).await;
        die_when_asked::<Firecracker>(sent).await;
    }
}

async fn be_dead<D: StoodIn>() {
    let running = Running::<D>::boot().await;
    running.bench.stand_in.die();
    assert_ended(running.vm.as_ref(), running.vmm).await;
    for step in Step::ALL {
        assert_died(&running.take(step).await.unwrap_err(), true);
        assert!(!running.bench.stand_in.path("taken").exists());
    }
}

#[tokio::test]
async fn a_vmm_that_is_dead_does_nothing_any_more() {
    be_dead::<CloudHypervisor>().await;
    be_dead::<Firecracker>().await;
}

/// A start that comes to nothing once the VMM runs.
async fn fail_late<D: StoodIn>() {
    let bench = Bench::<D>::new();
    std::fs::create_dir(bench.stand_in.path("console.log")).unwrap();
    let error = bench.boot().await.unwrap_err();
    assert!(matches!(error, VmError::Host { .. }), "{error}");
    bench.stand_in.assert_gone();
}

#[tokio::test]
async fn nothing_is_left_of_a_start_that_fails() {
    fail_late::<CloudHypervisor>().await;
    fail_late::<Firecracker>().await;
}

async fn be_taken_over<D: StoodIn>() {
    let running = Running::<D>::boot().await;
    let record = running.vm.record();
    let again = running.bench.driver.attach(&record).await.unwrap();
    assert_eq!(again.record(), record);
    let replies = [running.done(Step::Pause)];
    let served = running.bench.serve(replies).await;
    again.pause().await.unwrap();
    served.await.unwrap();
    running.bench.stand_in.die();
    let exit = again.wait().await;
    assert!(exit.cause.contains(LAST_WORDS), "{exit:?}");
    let error = running.bench.driver.attach(&record).await.unwrap_err();
    assert!(matches!(error, VmError::Host { .. }), "{error}");
}

#[tokio::test]
async fn a_machine_is_taken_over_by_its_record() {
    be_taken_over::<CloudHypervisor>().await;
    be_taken_over::<Firecracker>().await;
}
