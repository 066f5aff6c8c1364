//! `update`.

use std::io::Read;
use std::path::Path;

use oci_spec::runtime::LinuxResources;
use serde_json::{Map, Value, json};

use super::Context;
use crate::arguments::UpdateArgs;
use crate::container::{ALIVE, Container};
use crate::error::RuntimeError;

/// Far more than anybody writes.
const MOST_BYTES: u64 = 1 << 20;

/// Changes a container's limits; what is not named stays.
pub(super) async fn update(context: &Context, args: &UpdateArgs) -> Result<(), RuntimeError> {
    let resources = match &args.resources {
        Some(path) => read(path)?,
        None => resources(args),
    };
    let container = Container::find(&context.store, &args.id).await?;
    let pod = container.pod_if("update", &ALIVE).await?;
    Ok(pod.update(&resources).await?)
}

fn read(path: &Path) -> Result<LinuxResources, RuntimeError> {
    let cannot = || RuntimeError::host(format!("read {}", path.display()));
    let mut bytes = Vec::new();
    let read = match path.to_str() {
        Some("-") => std::io::stdin()
            .take(MOST_BYTES)
            .read_to_end(&mut bytes)
            .map(drop),
        _ => std::fs::read(path).map(|read| bytes = read),
    };
    read.map_err(cannot())?;
    serde_json::from_slice(&bytes).map_err(RuntimeError::malformed(path))
}

/// What the command line says.
fn resources(args: &UpdateArgs) -> LinuxResources {
    let given = |values: Vec<(&str, Option<Value>)>| -> Value {
        let values = values
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_owned(), value?)));
        Value::Object(values.collect::<Map<_, _>>())
    };
    let number = |value: Option<i64>| value.map(Value::from);
    let positive = |value: Option<u64>| value.map(Value::from);
    let all = json!({
        "memory": given(vec![
            ("limit", number(args.memory)),
            ("reservation", number(args.memory_reservation)),
            ("swap", number(args.memory_swap)),
        ]),
        "cpu": given(vec![
            ("shares", positive(args.cpu_shares)),
            ("quota", number(args.cpu_quota)),
            ("burst", positive(args.cpu_burst)),
            ("period", positive(args.cpu_period)),
            ("cpus", args.cpuset_cpus.clone().map(Value::from)),
            ("mems", args.cpuset_mems.clone().map(Value::from)),
        ]),
    });
    let mut all: LinuxResources =
        serde_json::from_value(all).expect("these are resources of the specification");
    if let Some(limit) = args.pids_limit {
        let mut pids = oci_spec::runtime::LinuxPids::default();
        pids.set_limit(limit);
        all.set_pids(Some(pids));
    }
    if let Some(weight) = args.blkio_weight {
        let mut block = oci_spec::runtime::LinuxBlockIo::default();
        block.set_weight(Some(weight));
        all.set_block_io(Some(block));
    }
    all
}
