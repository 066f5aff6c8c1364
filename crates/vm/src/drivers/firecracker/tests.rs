//! How a machine goes on from a snapshot, and how it does not.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use tokio::net::UnixListener;

use super::machine::has_swap;
use super::{FILES, Firecracker, NAME, api, devices};
use crate::accel::Accelerator;
use crate::config::{Device, VmConfig};
use crate::driver::Vm;
use crate::drivers::tests::{assert_died, assert_hung_up, assert_late, assert_told_once};
use crate::error::VmError;
use crate::sample::net;
use crate::snapshot::{Snapshot, written};
use crate::stand_in::api::{AskedFor, Reply};
use crate::stand_in::bench::{Bench, StoodIn};

#[async_trait]
impl StoodIn for Firecracker {
    const SCHEMA: &'static str = "firecracker.yaml";
    const BASE: &'static str = "";
    const RECORDED: &'static str = include_str!("recorded.json");

    fn of(program: PathBuf) -> Self {
        Self { program }
    }

    fn socket(run_dir: &Path) -> PathBuf {
        api::socket(run_dir.join("api"))
    }

    fn files(request: &AskedFor) -> Vec<String> {
        if request.path != "/snapshot/create" {
            return Vec::new();
        }
        let body = request.body.as_ref().unwrap();
        let named = ["snapshot_path", "mem_file_path"].map(|name| body[name].as_str().unwrap());
        named.map(str::to_owned).into()
    }

    fn sample(dir: &Path, config: &VmConfig) -> Snapshot {
        written(dir, NAME, config, FILES.map(|name| (name, String::new())))
    }

    async fn boot(&self, config: VmConfig) -> Result<Box<dyn Vm>, VmError> {
        Ok(Box::new(self.launched(config, Accelerator::Kvm).await?))
    }

    async fn go_on(&self, config: VmConfig, snapshot: &Snapshot) -> Result<Box<dyn Vm>, VmError> {
        let machine = self.restored(config, Accelerator::Kvm, snapshot).await?;
        Ok(Box::new(machine))
    }
}

const LOAD: &str = "load";

fn bench() -> Bench<Firecracker> {
    Bench::new()
}

#[tokio::test]
async fn a_machine_goes_on_when_the_vmm_says_so() {
    let bench = bench();
    let load = bench.recorded.exchange(LOAD);
    let (vm, asked) = bench.go_on_with([load.done()]).await;
    assert_eq!(asked[0].line(), load.request);
    let vmm = bench.stand_in.runs().await;
    assert!(vmm.is_alive());
    drop(vm.unwrap());
    assert!(!vmm.is_alive());
}

#[tokio::test]
async fn a_refusal_is_told_in_the_vmm_s_words_though_it_ends_then() {
    let bench = bench();
    let load = bench.recorded.exchange(LOAD);
    let refused = load.refused().then(bench.stand_in.death());
    let (vm, _) = bench.go_on_with([refused]).await;
    let error = vm.unwrap_err();
    assert!(matches!(error, VmError::Refused { .. }), "{error}");
    assert_told_once(&error, &load.words);
    bench.stand_in.assert_gone();
}

#[tokio::test]
async fn a_vmm_that_hangs_up_half_way_has_loaded_nothing() {
    for cut in [0, 20] {
        let bench = bench();
        let reply = bench.recorded.exchange(LOAD).done().cut_to(cut);
        let (vm, _) = bench
            .go_on_with([reply.after(|_| tokio::time::pause())])
            .await;
        tokio::time::resume();
        assert_hung_up(&vm.unwrap_err());
        bench.stand_in.assert_gone();
    }
}

#[tokio::test]
async fn a_vmm_that_does_not_load_is_not_waited_for_for_ever() {
    let bench = bench();
    let never = Reply::never().after(|_| tokio::time::pause());
    let vm = bench.go_on_while(bench.serve([never])).await;
    assert_late(&vm.unwrap_err());
    bench.stand_in.assert_gone();
}

#[tokio::test]
async fn a_vmm_that_dies_before_it_listens_is_told_with_its_words() {
    let bench = bench();
    bench.stand_in.die();
    assert_died(&bench.go_on().await.unwrap_err(), false);
    bench.stand_in.assert_gone();
}

#[tokio::test]
async fn a_vmm_that_dies_once_it_listens_is_told_with_its_words() {
    let bench = bench();
    let dies = async {
        bench.stand_in.runs().await;
        let socket = Firecracker::socket(&bench.stand_in.path(""));
        let listener = UnixListener::bind(socket).unwrap();
        let connection = listener.accept().await.unwrap();
        drop((connection, listener));
        bench.stand_in.die();
    };
    let vm = bench.go_on_while(dies).await;
    assert_died(&vm.unwrap_err(), true);
    bench.stand_in.assert_gone();
}

#[tokio::test]
async fn a_vmm_that_dies_while_it_loads_is_told_with_its_words() {
    for cut in [0, 20] {
        let bench = bench();
        let reply = bench.recorded.exchange(LOAD).done().cut_to(cut);
        let (vm, _) = bench.go_on_with([reply.then(bench.stand_in.death())]).await;
        assert_died(&vm.unwrap_err(), true);
        bench.stand_in.assert_gone();
    }
}

#[test]
fn only_a_vmm_with_taps_opens_them() {
    assert_eq!(devices(&[Device::Rng]), ["/dev/kvm"]);
    assert_eq!(
        devices(&[Device::Rng, net(true)]),
        ["/dev/kvm", "/dev/net/tun"]
    );
}

/// What of the memory the VMM is asked to write into a snapshot.
async fn extent(bench: &Bench<Firecracker>, vm: &dyn Vm) -> String {
    let vmm = bench.stand_in.runs().await;
    let served = bench.serve([bench.done("snapshot", vmm)]).await;
    vm.snapshot(&bench.stand_in.path("taken")).await.unwrap();
    let asked = served.await.unwrap();
    let body = asked[0].body.as_ref().unwrap();
    body["snapshot_type"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn what_was_never_touched_is_left_out_only_if_that_is_all_that_can_be_missing() {
    let bench = bench();
    let booted = bench.boot().await.unwrap();
    let expected = match has_swap() {
        true => "Full",
        false => "Diff",
    };
    assert_eq!(extent(&bench, booted.as_ref()).await, expected);
    let bench = Bench::<Firecracker>::new();
    let load = bench.recorded.exchange(LOAD);
    let (restored, _) = bench.go_on_with([load.done()]).await;
    assert_eq!(extent(&bench, restored.unwrap().as_ref()).await, "Full");
}
