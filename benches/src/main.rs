//! `make bench`: what Hull costs, measured side by side in one run with what does the same.

mod alone;
mod files;
mod groups;
mod init;
mod inside;
mod interrupt;
mod machine;
mod memory;
mod network;
mod oci_runtime;
mod pod;
mod podman;
mod pods;
mod report;
mod roots;
mod sample;
mod streams;
mod timing;
mod vmms;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand, ValueEnum};
use harness::Hull;
use hull_vm::Vmm;

use alone::Alone;
use groups::{Bench, COMMAND};
use oci_runtime::OciRuntime;
use pod::Pod;
use report::{Machine, Report};

/// Measures Hull side by side with what does the same.
#[derive(Debug, Parser)]
#[command(name = "hull-bench")]
struct Arguments {
    /// How often each thing is measured
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Measure only this; may be given several times
    #[arg(long, value_name = "GROUP", value_enum)]
    only: Vec<Group>,
    /// How many pods run at most in the group `pods`, which looks at 1, 10 and 50
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pods: u32,
    /// Fail when a promise is missed
    #[arg(long)]
    check: bool,
    /// Where the results are written as JSON
    #[arg(long, value_name = "FILE", default_value = "bench-results.json")]
    output: PathBuf,
    #[command(subcommand)]
    work: Option<Task>,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// What this program runs in a guest
    #[command(hide = true, subcommand)]
    Inside(inside::Work),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Group {
    Start,
    Exec,
    Memory,
    Stdio,
    Files,
    Roots,
    Pods,
    Podman,
    Vmms,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match &arguments.work {
        Some(Task::Inside(work)) => inside::carry_out(work).map(|()| true),
        None => bench(&arguments),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(2),
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether the promises count as kept.
fn bench(arguments: &Arguments) -> Result<bool> {
    interrupt::catch()?;
    let hull = Hull::new();
    let image = harness::busybox();
    timing::output(&mut hull.command(["pull", &image]))?;
    let dir = tempfile::Builder::new().prefix("hull-bench-").tempdir()?;
    let mut report = Report::default();
    let mut runtimes = Vec::new();
    for program in oci_runtime::PROGRAMS {
        match OciRuntime::prepare(program, dir.path(), &image, &COMMAND) {
            Ok(runtime) => runtimes.push(runtime),
            Err(error) => report.absent.push(format!("{error:#}")),
        }
    }
    let alone = {
        let pod = Pod::start(&hull, "bench-model", &[], &image)?;
        report.machine = machine(pod.vmm(Vmm::Qemu)?.value("-accel")?)?;
        Alone::qemu(&pod, dir.path())?
    };
    let mut bench = Bench {
        hull: &hull,
        image,
        runtimes,
        alone,
        runs: arguments.runs,
        report,
    };
    for group in Group::value_variants() {
        if !arguments.only.is_empty() && !arguments.only.contains(group) {
            continue;
        }
        match group {
            Group::Start => bench.start()?,
            Group::Exec => bench.exec()?,
            Group::Memory => bench.memory()?,
            Group::Stdio => bench.stdio()?,
            Group::Files => bench.files(dir.path())?,
            Group::Roots => bench.roots()?,
            Group::Pods => bench.pods(arguments.pods)?,
            Group::Podman => bench.podman()?,
            Group::Vmms => bench.vmms(dir.path())?,
        }
    }
    print!("{}", bench.report.table());
    let json = serde_json::to_string_pretty(&bench.report)?;
    fs::write(&arguments.output, json + "\n")
        .with_context(|| format!("cannot write {}", arguments.output.display()))?;
    let all_met = bench.report.promises.iter().all(|promise| promise.met);
    Ok(all_met || !arguments.check)
}

fn machine(accelerator: &str) -> Result<Machine> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").context("cannot read /proc/cpuinfo")?;
    let model = cpuinfo.lines().find(|line| line.starts_with("model name"));
    let model = model.and_then(|line| line.split_once(": "));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease");
    Ok(Machine {
        cpu: model.map_or_else(|| "unknown CPU".to_owned(), |(_, name)| name.to_owned()),
        cpus: std::thread::available_parallelism().map_or(0, usize::from),
        kernel: kernel
            .context("cannot read the kernel's release")?
            .trim()
            .to_owned(),
        accelerator: accelerator.to_owned(),
    })
}
