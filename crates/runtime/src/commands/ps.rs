//! `ps`.

use std::collections::HashSet;
use std::process::Command;

use hull_vm::process::ProcessRecord;

use super::{Context, print};
use crate::arguments::{PsArgs, TableFormat};
use crate::container::Container;
use crate::error::RuntimeError;

/// Lists the processes that stand on the host for a container's: its first and those that were added. The guest's
/// own ids mean nothing here.
pub(super) async fn ps(context: &Context, args: &PsArgs) -> Result<(), RuntimeError> {
    let record = Container::find(&context.store, &args.id).await?.record;
    let processes = [record.monitor].into_iter().chain(record.execs);
    let pids: Vec<i32> = processes
        .filter(ProcessRecord::is_alive)
        .map(|process| process.pid)
        .collect();
    if args.format == TableFormat::Json {
        let text = serde_json::to_string(&pids).expect("plain data encodes");
        return print(&format!("{text}\n"));
    }
    let options = match args.options.is_empty() {
        true => &["-ef".to_owned()],
        false => args.options.as_slice(),
    };
    let output = Command::new("ps")
        .args(options)
        .output()
        .map_err(RuntimeError::host("run ps"))?;
    print(&select(&String::from_utf8_lossy(&output.stdout), &pids)?)
}

/// The head of what ps(1) prints, and the lines of these processes.
fn select(listing: &str, pids: &[i32]) -> Result<String, RuntimeError> {
    let mut lines = listing.lines();
    let head = lines.next().unwrap_or_default();
    let column = head
        .split_whitespace()
        .position(|name| name == "PID")
        .ok_or_else(|| RuntimeError::Invalid("ps lists no column PID".to_owned()))?;
    let pids: HashSet<String> = pids.iter().map(ToString::to_string).collect();
    let ours = lines.filter(|line| {
        let pid = line.split_whitespace().nth(column);
        pid.is_some_and(|pid| pids.contains(pid))
    });
    Ok([head]
        .into_iter()
        .chain(ours)
        .map(|line| format!("{line}\n"))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::select;

    #[test]
    fn only_the_lines_of_the_processes_are_kept() {
        let listing = "UID PID PPID CMD\nroot 1 0 init\nroot 12 1 x\nroot 2 1 y 12\n";
        assert_eq!(
            select(listing, &[12]).unwrap(),
            "UID PID PPID CMD\nroot 12 1 x\n"
        );
        assert!(select("CMD\nx\n", &[1]).is_err());
    }
}
