//! `list`.

use std::fmt::Write;

use super::state::describe;
use super::{Context, print};
use crate::arguments::{ListArgs, TableFormat};
use crate::container::Container;
use crate::error::RuntimeError;

/// Lists the containers below the root.
pub(super) async fn list(context: &Context, args: &ListArgs) -> Result<(), RuntimeError> {
    context.check_root()?;
    let records = context.store.all()?;
    if args.quiet {
        return print(&records.iter().fold(String::new(), |mut text, record| {
            writeln!(text, "{}", record.id).expect("a String takes everything");
            text
        }));
    }
    let mut containers = Vec::new();
    for record in records {
        let container = Container::of(record).await?;
        let status = container.status().await?;
        containers.push((container.record, status));
    }
    if args.format == TableFormat::Json {
        let states: Vec<_> = containers
            .iter()
            .map(|(record, status)| describe(record, *status))
            .collect();
        let text = serde_json::to_string(&states).expect("plain data encodes");
        return print(&format!("{text}\n"));
    }
    let mut rows = vec![["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned)];
    rows.extend(containers.iter().map(|(record, status)| {
        let state = describe(record, *status);
        [
            record.id.clone(),
            state.pid.to_string(),
            state.status.to_string(),
            record.bundle.display().to_string(),
            record.created.clone(),
            "root".to_owned(),
        ]
    }));
    print(&table(&rows))
}

/// Columns as wide as their widest cells.
fn table<const N: usize>(rows: &[[String; N]]) -> String {
    const GAP: usize = 3;
    let widths: [usize; N] = std::array::from_fn(|column| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
            + GAP
    });
    let mut text = String::new();
    for row in rows {
        let line: String = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        writeln!(text, "{}", line.trim_end()).expect("a String takes everything");
    }
    text
}
