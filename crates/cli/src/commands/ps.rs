//! `hull ps` and `hull inspect`.

use hull_sandbox::{NetworkConfig, Protocol, PublishedPort};
use serde_json::{Value, json};

use super::table::{cell, table};
use super::{CommandError, Context, print};
use crate::arguments::{InspectArgs, PsArgs};
use crate::container::{Container, State, StoreError, at, settle};
use crate::id;

/// `hull ps`.
pub(crate) async fn ps(context: &Context, args: &PsArgs) -> Result<u8, CommandError> {
    context.sweep().await?;
    let mut shown = context.store.list()?;
    shown.retain(|container| match container.state() {
        State::Running { .. } => true,
        State::Created | State::Exited { .. } => args.all,
        State::Creating => false,
    });
    if args.json {
        let all: Result<Vec<_>, _> = shown.iter().map(summary).collect();
        return print(&format!("{:#}\n", Value::Array(all?)));
    }
    if args.ids {
        let ids = shown
            .iter()
            .map(|container| format!("{}\n", id::short(&container.record.id)));
        return print(&ids.collect::<String>());
    }
    let rows: Result<Vec<_>, CommandError> = shown.iter().map(row).collect();
    let header = [
        "CONTAINER ID",
        "IMAGE",
        "COMMAND",
        "CREATED",
        "STATUS",
        "PORTS",
        "NAME",
    ];
    print(&table(&header, &rows?))
}

fn row(container: &Container) -> Result<Vec<String>, CommandError> {
    let settings = container.settings()?;
    Ok(vec![
        id::short(&container.record.id).to_owned(),
        cell(&settings.image, 40),
        cell(&settings.command.join(" "), 30),
        format!("{} ago", container.record.created.age()),
        container.state().phrase(),
        ports(&settings.pod.network).join(", "),
        container.record.name.clone(),
    ])
}

fn published(network: &NetworkConfig) -> &[PublishedPort] {
    match network {
        NetworkConfig::None | NetworkConfig::Namespace { .. } => &[],
        NetworkConfig::Nat { publish } => publish,
    }
}

fn ports(network: &NetworkConfig) -> Vec<String> {
    let one = |port: &PublishedPort| {
        let address = port
            .address
            .map_or("*".to_owned(), |address| match address.is_ipv6() {
                true => format!("[{address}]"),
                false => address.to_string(),
            });
        let protocol = match port.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        };
        format!("{address}:{}->{}/{protocol}", port.host, port.container)
    };
    published(network).iter().map(one).collect()
}

/// What `ps --json` says of a container: the fields stay as they are, new ones may come.
fn summary(container: &Container) -> Result<Value, StoreError> {
    let settings = container.settings()?;
    let state = container.state();
    let mut value = json!({
        "id": container.record.id,
        "name": container.record.name,
        "image": settings.image,
        "image_id": settings.image_id,
        "command": settings.command,
        "created": container.record.created,
        "state": state.word(),
        "labels": settings.labels,
        "ports": ports(&settings.pod.network),
    });
    match state {
        State::Creating | State::Created => {}
        State::Running { since } => value["started"] = json!(since),
        State::Exited { record } => {
            if let Some(exit) = record.exit {
                value["exit_code"] = json!(exit.code);
                value["finished"] = json!(at(exit.at_ns));
                value["oom_killed"] = json!(exit.oom_killed);
            }
            value["failure"] = json!(record.failure);
        }
    }
    Ok(value)
}

/// `hull inspect`.
pub(crate) async fn inspect(context: &Context, args: &InspectArgs) -> Result<u8, CommandError> {
    let mut all = Vec::new();
    for reference in &args.containers {
        let settled = settle(context.store.find(reference)?).await?;
        let container = settled.ok_or_else(|| StoreError::NotFound(reference.clone()))?;
        let settings = container.settings()?;
        let mut value = summary(&container)?;
        let spec: Option<Value> = crate::container::read_json(&container.dir.config())?;
        value["bundle"] = json!(container.dir.data);
        value["state_dir"] = json!(container.dir.state);
        value["log"] = json!(container.dir.log());
        value["settings"] = json!(settings);
        value["spec"] = json!(spec);
        if let State::Exited { record } = container.state() {
            value["console"] = json!(record.console);
        }
        all.push(value);
    }
    print(&format!("{:#}\n", Value::Array(all)))
}
