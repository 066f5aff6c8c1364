//! `events`.

use std::time::Duration;

use containerd_shim_protos::cgroups_v2::metrics::Metrics;
use containerd_shim_protos::protobuf::Message;
use hull_shim::client::Pod;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use super::{Context, print};
use crate::arguments::EventsArgs;
use crate::container::{ALIVE, Container};
use crate::error::RuntimeError;

/// How often a want of memory is looked for.
const OOM_INTERVAL: Duration = Duration::from_secs(1);

/// Prints what a container uses, once or until it ends, and when the kernel ended a process of it for want of memory.
pub(super) async fn events(context: &Context, args: &EventsArgs) -> Result<(), RuntimeError> {
    if args.interval.is_zero() {
        let text = "duration interval must be greater than 0";
        return Err(RuntimeError::Invalid(text.to_owned()));
    }
    let container = Container::find(&context.store, &args.id).await?;
    let pod = container.pod_if("watch", &ALIVE).await?;
    if args.stats {
        return print(&line(&args.id, "stats", Some(data(&metrics(pod).await?))));
    }
    let mut killed = metrics(pod).await?.memory_events.oom_kill;
    let ended = pod.wait("");
    tokio::pin!(ended);
    let mut figures = interval(args.interval);
    let mut oom = interval(OOM_INTERVAL);
    loop {
        let (ended, print_figures) = tokio::select! {
            biased;
            ended = &mut ended => (Some(ended), false),
            _ = figures.tick() => (None, true),
            _ = oom.tick() => (None, false),
        };
        let metrics = match (&ended, metrics(pod).await) {
            (None, metrics) => Some(metrics?),
            // It may be gone already, and nothing is left to be counted.
            (Some(_), metrics) => metrics.ok(),
        };
        if let Some(metrics) = metrics {
            if metrics.memory_events.oom_kill > killed {
                killed = metrics.memory_events.oom_kill;
                print(&line(&args.id, "oom", None))?;
            }
            if print_figures {
                print(&line(&args.id, "stats", Some(data(&metrics))))?;
            }
        }
        if let Some(ended) = ended {
            return Ok(ended.map(drop)?);
        }
    }
}

/// Whose first time is not now.
fn interval(period: Duration) -> Interval {
    let mut interval = interval_at(Instant::now() + period, period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// In the order in which runc has it: some compare it as text.
#[derive(Debug, Serialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Value>,
}

fn line(id: &str, kind: &'static str, data: Option<Value>) -> String {
    let event = Event { kind, id, data };
    serde_json::to_string(&event).expect("plain data encodes") + "\n"
}

async fn metrics(pod: &Pod) -> Result<Metrics, RuntimeError> {
    Metrics::parse_from_bytes(&pod.stats().await?).map_err(|error| {
        RuntimeError::host("read the container's figures")(std::io::Error::other(error))
    })
}

/// The figures by the names that runc gives them.
fn data(metrics: &Metrics) -> Value {
    const NS_PER_US: u64 = 1000;
    let (cpu, memory, pids) = (&metrics.cpu, &metrics.memory, &metrics.pids);
    json!({
        "cpu": {
            "usage": {
                "total": cpu.usage_usec * NS_PER_US,
                "kernel": cpu.system_usec * NS_PER_US,
                "user": cpu.user_usec * NS_PER_US,
            },
            "throttling": {
                "periods": cpu.nr_periods,
                "throttledPeriods": cpu.nr_throttled,
                "throttledTime": cpu.throttled_usec * NS_PER_US,
            },
        },
        "memory": {
            "cache": memory.file,
            "usage": {
                "limit": memory.usage_limit,
                "usage": memory.usage,
                "max": 0,
                "failcnt": metrics.memory_events.max,
            },
            "swap": {"limit": memory.swap_limit, "usage": memory.swap_usage, "max": 0, "failcnt": 0},
            "raw": {"anon": memory.anon, "file": memory.file, "inactive_file": memory.inactive_file},
        },
        "pids": {"current": pids.current, "limit": pids.limit},
        "blkio": {},
    })
}
