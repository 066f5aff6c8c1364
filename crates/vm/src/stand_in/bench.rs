//! A driver with a stand-in for its VMM.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use tokio::task::JoinHandle;

use super::StandIn;
use super::api::{self, AskedFor, Reply};
use super::recorded::Recorded;
use crate::config::VmConfig;
use crate::driver::{Driver, Vm};
use crate::error::VmError;
use crate::process::ProcessRecord;
use crate::schema::Schema;
use crate::snapshot::Snapshot;

/// A driver whose VMM can be stood in for, on hosts without KVM, too.
#[async_trait]
pub(crate) trait StoodIn: Driver + Sized {
    /// The document that its VMM publishes of its API.
    const SCHEMA: &'static str;
    /// Where all of the API's paths begin.
    const BASE: &'static str;
    /// What its VMM has answered.
    const RECORDED: &'static str;

    /// One that starts this program.
    fn of(program: PathBuf) -> Self;

    /// Where its VMM takes requests.
    fn socket(run_dir: &Path) -> PathBuf;

    /// What its VMM writes when it is asked so, by paths that it sees.
    fn files(request: &AskedFor) -> Vec<String>;

    /// A snapshot of such a machine that its VMM could have written.
    fn sample(dir: &Path, config: &VmConfig) -> Snapshot;

    /// [`Driver::launch`].
    async fn boot(&self, config: VmConfig) -> Result<Box<dyn Vm>, VmError>;

    /// [`Driver::restore`].
    async fn go_on(&self, config: VmConfig, snapshot: &Snapshot) -> Result<Box<dyn Vm>, VmError>;
}

/// The driver, the stand-in, and what it can answer.
#[derive(Debug)]
pub(crate) struct Bench<D> {
    pub(crate) driver: D,
    pub(crate) stand_in: StandIn,
    pub(crate) recorded: Recorded,
}

impl<D: StoodIn> Bench<D> {
    pub(crate) fn new() -> Self {
        let stand_in = StandIn::new();
        Self {
            driver: D::of(stand_in.program()),
            recorded: Recorded::read(D::RECORDED),
            stand_in,
        }
    }

    /// Boots a machine.
    pub(crate) async fn boot(&self) -> Result<Box<dyn Vm>, VmError> {
        self.driver.boot(self.stand_in.config(vec![])).await
    }

    /// Has one go on from a snapshot.
    pub(crate) async fn go_on(&self) -> Result<Box<dyn Vm>, VmError> {
        let config = self.stand_in.config(vec![]);
        let snapshot = D::sample(&self.stand_in.path("template"), &config);
        self.driver.go_on(config, &snapshot).await
    }

    /// The same with a VMM that answers so; and what it was asked.
    pub(crate) async fn go_on_with(
        &self,
        replies: impl IntoIterator<Item = Reply>,
    ) -> (Result<Box<dyn Vm>, VmError>, Vec<AskedFor>) {
        let mut served = None;
        let serving = async { served = Some(self.serve(replies).await) };
        let vm = self.go_on_while(serving).await;
        match served {
            Some(served) => (vm, served.await.unwrap()),
            None => (vm, Vec::new()),
        }
    }

    /// The same with a VMM that does this, if it is started at all.
    pub(crate) async fn go_on_while<T>(
        &self,
        vmm: impl Future<Output = T>,
    ) -> Result<Box<dyn Vm>, VmError> {
        let vm = self.go_on();
        tokio::pin!(vm);
        tokio::select! {
            vm = &mut vm => vm,
            _ = vmm => vm.await,
        }
    }

    /// Once the VMM runs: has the requests to it answered so, if they are in its schema.
    pub(crate) async fn serve(
        &self,
        replies: impl IntoIterator<Item = Reply>,
    ) -> JoinHandle<Vec<AskedFor>> {
        self.stand_in.runs().await;
        let socket = D::socket(self.stand_in.dir.path());
        // Where the driver has made it for the VMM.
        let _ = std::fs::remove_file(&socket);
        let schema = Schema::of(D::SCHEMA);
        let check = move |request: &AskedFor| {
            if let Some(schema) = &schema {
                schema.check_request(D::BASE, request);
            }
        };
        api::serve(&socket, check, replies)
    }

    /// That the VMM does what it is asked for.
    pub(crate) fn done(&self, what: &str, vmm: ProcessRecord) -> Reply {
        let own = format!("/proc/{}/", vmm.pid);
        self.recorded.exchange(what).done().after(move |request| {
            for file in D::files(request) {
                let file = file.replace("/proc/self/", &own);
                std::fs::write(file, "written").unwrap();
            }
        })
    }
}
