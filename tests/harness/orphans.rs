//! Processes that outlive those that have started them: a test adopts them, so that it knows and ends all of them.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::machine::is_running;

/// This process adopts its descendants from now on.
pub(crate) fn adopt() {
    nix::sys::prctl::set_child_subreaper(true).expect("it is permitted");
}

fn children_of(pid: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task"));
    let tasks = tasks.into_iter().flatten().flatten();
    let lists = tasks.map(|task| std::fs::read_to_string(task.path().join("children")));
    let lists: Vec<_> = lists.map(Result::unwrap_or_default).collect();
    let ids = lists.iter().flat_map(|list| list.split_whitespace());
    ids.filter_map(|id| id.parse().ok()).collect()
}

/// The processes that this one has started or adopted, with their command lines, and those that they have.
pub(crate) fn descendants() -> Vec<(u32, String)> {
    let mut open = children_of(std::process::id());
    let mut found = Vec::new();
    while let Some(pid) = open.pop() {
        open.extend(children_of(pid));
        if !is_running(pid.cast_signed()) {
            continue;
        }
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        found.push((pid, String::from_utf8_lossy(&line).replace('\0', " ")));
    }
    found
}

/// Adopted processes of this program that have ended and that nobody has waited for.
#[must_use]
pub fn ended_orphans(program: &str) -> Vec<Pid> {
    let is_ended = |pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.contains(&format!("({program}) Z"))
    };
    let children = children_of(std::process::id()).into_iter().filter(is_ended);
    children
        .map(|pid| Pid::from_raw(pid.cast_signed()))
        .collect()
}

/// Kills all of them, and those that come meanwhile.
pub(crate) fn end_all() {
    // One that is adopted while this looks may be seen by the second look only.
    let mut looks_without_any = 0;
    while looks_without_any < 2 {
        let left = descendants();
        looks_without_any = if left.is_empty() {
            looks_without_any + 1
        } else {
            0
        };
        for (pid, _) in left {
            // It may have ended by itself.
            let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}
