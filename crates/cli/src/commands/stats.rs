//! `hull stats`.

use std::time::{Duration, Instant};

use containerd_shim_protos::cgroups_v2::metrics::Metrics;
use protobuf::Message;
use serde_json::json;

use super::table::table;
use super::{CommandError, Context, print};
use crate::arguments::StatsArgs;
use crate::container::{Container, State, settle};
use crate::id;
use crate::values::size;
use hull_shim::client::Pod;

/// Between two looks.
const INTERVAL: Duration = Duration::from_secs(1);

/// What a container used at one moment.
struct Sample {
    at: Instant,
    metrics: Metrics,
}

/// A container that is watched.
struct Watched {
    container: Container,
    pod: Pod,
    before: Option<Sample>,
}

/// What is shown of a container.
struct Usage {
    id: String,
    name: String,
    /// Percent of one CPU.
    cpu: f64,
    memory: u64,
    memory_limit: u64,
    read: u64,
    written: u64,
    pids: u64,
}

/// `hull stats`.
pub(crate) async fn stats(context: &Context, args: &StatsArgs) -> Result<u8, CommandError> {
    let mut watched = Vec::new();
    for container in chosen(context, &args.containers).await? {
        let pod = Pod::connect(&container.dir.state, container.dir.id()).await?;
        watched.push(Watched {
            container,
            pod,
            before: None,
        });
    }
    // The first look only gives the CPU time something to be compared with.
    look(&mut watched).await?;
    loop {
        tokio::time::sleep(INTERVAL).await;
        let usages = look(&mut watched).await?;
        show(&usages, args)?;
        if args.no_stream || usages.is_empty() {
            return Ok(0);
        }
    }
}

async fn chosen(context: &Context, names: &[String]) -> Result<Vec<Container>, CommandError> {
    let mut chosen = Vec::new();
    for name in names {
        chosen.push(super::exec::running(context, name).await?);
    }
    if names.is_empty() {
        for container in context.store.list()? {
            let settled = settle(container).await?;
            chosen.extend(settled.filter(|c| matches!(c.state(), State::Running { .. })));
        }
    }
    Ok(chosen)
}

/// Looks at all of them; those that have ended are watched no more.
async fn look(watched: &mut Vec<Watched>) -> Result<Vec<Usage>, CommandError> {
    let mut usages = Vec::new();
    let mut ended = Vec::new();
    for (index, one) in watched.iter_mut().enumerate() {
        let bytes = match one.pod.stats().await {
            Ok(bytes) => bytes,
            Err(error) => {
                if settle(one.container.clone())
                    .await?
                    .is_some_and(|c| matches!(c.state(), State::Running { .. }))
                {
                    return Err(error.into());
                }
                ended.push(index);
                continue;
            }
        };
        let metrics = Metrics::parse_from_bytes(&bytes)
            .map_err(|_| CommandError::usage("the guest's figures are malformed"))?;
        let now = Sample {
            at: Instant::now(),
            metrics,
        };
        usages.push(usage(&one.container, one.before.as_ref(), &now));
        one.before = Some(now);
    }
    for index in ended.into_iter().rev() {
        watched.remove(index);
    }
    Ok(usages)
}

fn usage(container: &Container, before: Option<&Sample>, now: &Sample) -> Usage {
    let metrics = &now.metrics;
    let cpu_us = |sample: &Sample| sample.metrics.cpu.usage_usec;
    let cpu = before.map_or(0.0, |before| {
        let used = Duration::from_micros(cpu_us(now).saturating_sub(cpu_us(before)));
        let passed = now.at.duration_since(before.at);
        100.0 * used.as_secs_f64() / passed.as_secs_f64().max(f64::EPSILON)
    });
    let sum = |of: fn(&containerd_shim_protos::cgroups_v2::metrics::IOEntry) -> u64| {
        metrics.io.usage.iter().map(of).sum()
    };
    Usage {
        id: container.record.id.clone(),
        name: container.record.name.clone(),
        cpu,
        // What the kernel can drop at any time does not count, as in Docker.
        memory: metrics
            .memory
            .usage
            .saturating_sub(metrics.memory.inactive_file),
        memory_limit: metrics.memory.usage_limit,
        read: sum(|entry| entry.rbytes),
        written: sum(|entry| entry.wbytes),
        pids: metrics.pids.current,
    }
}

fn show(usages: &[Usage], args: &StatsArgs) -> Result<u8, CommandError> {
    if args.json {
        let lines = usages.iter().map(|usage| {
            let value = json!({
                "id": usage.id,
                "name": usage.name,
                "cpu_percent": usage.cpu,
                "memory_bytes": usage.memory,
                "memory_limit_bytes": limit(usage),
                "read_bytes": usage.read,
                "written_bytes": usage.written,
                "pids": usage.pids,
            });
            format!("{value}\n")
        });
        return print(&lines.collect::<String>());
    }
    let rows = usages.iter().map(|usage| {
        let limit = limit(usage).map_or("none".to_owned(), size::human);
        vec![
            id::short(&usage.id).to_owned(),
            usage.name.clone(),
            format!("{:.2}%", usage.cpu),
            format!("{} / {limit}", size::human(usage.memory)),
            format!(
                "{} / {}",
                size::human(usage.read),
                size::human(usage.written)
            ),
            usage.pids.to_string(),
        ]
    });
    let header = [
        "CONTAINER ID",
        "NAME",
        "CPU",
        "MEMORY / LIMIT",
        "READ / WRITTEN",
        "PIDS",
    ];
    let rows: Vec<_> = rows.collect();
    let text = table(&header, &rows);
    if args.no_stream {
        return print(&text);
    }
    // From the top of a cleared screen, like a picture that changes.
    print(&format!("\x1b[2J\x1b[H{text}"))
}

/// The memory limit; the kernel says "none" with the largest number.
fn limit(usage: &Usage) -> Option<u64> {
    Some(usage.memory_limit).filter(|limit| (1..1 << 60).contains(limit))
}
