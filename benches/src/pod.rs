//! A container of `hull` that runs in the background, and the processes behind it.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use harness::Hull;
use hull_vm::Vmm;

use crate::timing;

/// The pod process's program.
pub(crate) const POD_PROGRAM: &str = "containerd-shim-hull-v2";

/// A process of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) program: String,
    pub(crate) arguments: Vec<String>,
}

/// A running container; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Pod<'h> {
    hull: &'h Hull,
    name: &'static str,
    pub(crate) processes: Vec<Process>,
}

impl<'h> Pod<'h> {
    /// `hull run -d` with these options and a command that never ends.
    pub(crate) fn start(
        hull: &'h Hull,
        name: &'static str,
        options: &[String],
        image: &str,
    ) -> Result<Self> {
        let mut command = hull.command(["run", "-d", "--name", name, "--pull", "never"]);
        command.args(options).args([image, "sleep", "1000000"]);
        let id = timing::output(&mut command)?;
        let mut pod = Self {
            hull,
            name,
            processes: Vec::new(),
        };
        let id = id.trim();
        pod.processes = trees(|process| {
            let dir = process.value("--state-dir").unwrap_or_default();
            process.program == POD_PROGRAM && dir.ends_with(id)
        })?;
        Ok(pod)
    }

    /// `hull exec` with these options.
    pub(crate) fn exec(&self, options: &[&str], words: &[&str]) -> Command {
        let mut command = self.hull.command(["exec"]);
        command.args(options).arg(self.name).args(words);
        command
    }

    pub(crate) fn vmm(&self, vmm: Vmm) -> Result<&Process> {
        let mut processes = self.processes.iter();
        processes
            .find(|process| process.program == vmm.program().name)
            .with_context(|| format!("the pod has no {}", vmm.program().title))
    }

    /// The directory where the guest's vsock is, named as `hull-vsock` was told.
    pub(crate) fn vsock(&self) -> Result<PathBuf> {
        let mut processes = self.processes.iter();
        let backend = processes
            .find(|process| process.program == "hull-vsock")
            .context("the pod has no vsock back end")?;
        Ok(backend.value("--uds")?.into())
    }
}

impl Drop for Pod<'_> {
    fn drop(&mut self) {
        let removed = timing::output(&mut self.hull.command(["rm", "-f", self.name]));
        if let Err(error) = removed {
            eprintln!("bench: {error:#}");
        }
    }
}

impl Process {
    /// The value of an option.
    pub(crate) fn value(&self, option: &str) -> Result<&str> {
        let at = self.arguments.iter().position(|word| word == option);
        at.and_then(|at| self.arguments.get(at + 1))
            .map(String::as_str)
            .with_context(|| format!("{} has no {option}", self.program))
    }

    fn read(pid: u32) -> Option<Self> {
        let words = fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
        let mut words = words.trim_end_matches('\0').split('\0');
        let program = words.next()?.rsplit('/').next()?.to_owned();
        Some(Self {
            pid,
            program,
            arguments: words.map(str::to_owned).collect(),
        })
    }
}

/// The pod processes that are wanted and all that they have started.
pub(crate) fn trees(is_pod: impl Fn(&Process) -> bool) -> Result<Vec<Process>> {
    let entries = fs::read_dir("/proc").context("cannot read /proc")?;
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    // A process may end while we look.
    let all: Vec<_> = pids
        .filter_map(|pid| Some((parent(pid)?, Process::read(pid)?)))
        .collect();
    let mut found: Vec<Process> = all
        .iter()
        .map(|(_, process)| process)
        .filter(|process| is_pod(process))
        .cloned()
        .collect();
    ensure!(!found.is_empty(), "there is no pod process");
    let mut next = 0;
    while let Some(process) = found.get(next) {
        let pid = process.pid;
        let children = all.iter().filter(|(parent, _)| *parent == pid);
        found.extend(children.map(|(_, process)| process.clone()));
        next += 1;
    }
    Ok(found)
}

fn parent(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
    line.trim().parse().ok()
}
