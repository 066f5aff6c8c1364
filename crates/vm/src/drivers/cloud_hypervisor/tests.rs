//! What the VMM tells without being asked: that a machine goes on from a snapshot, and that it does not.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use serde_json::Value;

use super::{CloudHypervisor, api, restored};
use crate::accel::Accelerator;
use crate::config::VmConfig;
use crate::driver::Vm;
use crate::drivers::tests::assert_died;
use crate::error::VmError;
use crate::snapshot::Snapshot;
use crate::stand_in::api::AskedFor;
use crate::stand_in::bench::{Bench, StoodIn};
use crate::stand_in::{LAST_STATUS, LAST_WORDS, StandIn};

#[async_trait]
impl StoodIn for CloudHypervisor {
    const SCHEMA: &'static str = "cloud-hypervisor.yaml";
    const BASE: &'static str = api::BASE;
    const RECORDED: &'static str = include_str!("recorded.json");

    fn of(program: PathBuf) -> Self {
        Self { program }
    }

    fn socket(run_dir: &Path) -> PathBuf {
        api::socket(run_dir)
    }

    fn files(request: &AskedFor) -> Vec<String> {
        if !request.path.ends_with("/vm.snapshot") {
            return Vec::new();
        }
        let body = request.body.as_ref().unwrap();
        let url = body["destination_url"].as_str().unwrap();
        let dir = url.strip_prefix("file://").unwrap();
        restored::FILES.map(|name| format!("{dir}/{name}")).into()
    }

    fn sample(dir: &Path, config: &VmConfig) -> Snapshot {
        restored::sample(dir, config)
    }

    async fn boot(&self, config: VmConfig) -> Result<Box<dyn Vm>, VmError> {
        Ok(Box::new(self.launched(config, Accelerator::Kvm).await?))
    }

    async fn go_on(&self, config: VmConfig, snapshot: &Snapshot) -> Result<Box<dyn Vm>, VmError> {
        let machine = self.restored(config, Accelerator::Kvm, snapshot).await?;
        Ok(Box::new(machine))
    }
}

fn bench() -> Bench<CloudHypervisor> {
    Bench::new()
}

/// Has the VMM tell these.
fn tell(stand_in: &StandIn, events: &[Value]) {
    for event in events {
        stand_in.order(&format!("echo '{event}' > $events"));
    }
}

#[tokio::test]
async fn a_machine_goes_on_when_the_vmm_says_so() {
    let bench = bench();
    tell(&bench.stand_in, &bench.recorded.restored);
    let vm = bench.go_on().await.unwrap();
    let vmm = bench.stand_in.runs().await;
    assert!(vmm.is_alive());
    drop(vm);
    assert!(!vmm.is_alive());
}

#[tokio::test]
async fn a_vmm_that_dies_before_it_says_so_is_told_with_its_words() {
    for told in 0..bench().recorded.restored.len() {
        let bench = bench();
        tell(&bench.stand_in, &bench.recorded.restored[..told]);
        bench.stand_in.die();
        assert_died(&bench.go_on().await.unwrap_err(), false);
    }
}

#[tokio::test]
async fn a_vmm_that_talks_nonsense_is_ended() {
    let bench = bench();
    bench.stand_in.order("echo } > $events");
    let error = bench.go_on().await.unwrap_err().to_string();
    assert!(error.contains("was killed by signal 9"), "{error}");
}

#[tokio::test]
async fn a_vmm_that_cannot_boot_is_told_with_its_words_and_not_as_the_guest_s_end() {
    let bench = bench();
    tell(&bench.stand_in, &bench.recorded.failed_boot);
    bench.stand_in.die();
    let exit = bench.boot().await.unwrap().wait().await;
    assert!(!exit.by_guest, "{exit:?}");
    let expected = format!("Cloud Hypervisor {LAST_STATUS}: {LAST_WORDS}");
    assert_eq!(exit.cause, expected);
}
