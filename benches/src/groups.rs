//! What is measured, contender by contender in turn, as the machine is never quiet.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use harness::Hull;
use hull_vm::Vmm;

use crate::alone::Alone;
use crate::files::Place;
use crate::inside;
use crate::interrupt;
use crate::memory;
use crate::oci_runtime::OciRuntime;
use crate::pod::Pod;
use crate::report::{Bound, Report};
use crate::sample::{Samples, Unit, mebibytes, milliseconds};
use crate::streams::Streams;
use crate::timing;

/// What the contenders run.
pub(crate) const COMMAND: [&str; 2] = ["echo", "ready"];
pub(crate) const STREAM_BYTES: u64 = 64 << 20;
pub(crate) const FILE_BYTES: u64 = 64 << 20;
pub(crate) const SMALL_FILES: u32 = 200;
/// What `hull run` makes a machine of 128 MiB of.
const CONTAINER_MEMORY: &str = "64m";
const MACHINE_MEMORY_MIB: u64 = 128;

/// What every group needs.
#[derive(Debug)]
pub(crate) struct Bench<'b> {
    pub(crate) hull: &'b Hull,
    pub(crate) image: String,
    pub(crate) runtimes: Vec<OciRuntime>,
    /// Hull's default VMM.
    pub(crate) alone: Alone,
    pub(crate) runs: u32,
    pub(crate) report: Report,
}

/// Names with what was measured, in the order in which they came first.
#[derive(Debug, Default)]
pub(crate) struct Table {
    order: Vec<String>,
    samples: BTreeMap<String, (Unit, Samples)>,
}

impl Table {
    pub(crate) fn push(&mut self, name: &str, unit: Unit, value: f64) {
        let entry = self.samples.entry(name.to_owned());
        let (_, samples) = entry.or_insert_with(|| {
            self.order.push(name.to_owned());
            (unit, Samples::new())
        });
        samples.push(value);
    }

    pub(crate) fn report(self, group: &'static str, report: &mut Report) {
        for name in self.order {
            let (unit, samples) = &self.samples[&name];
            report.add(group, name, *unit, samples);
        }
    }
}

impl Bench<'_> {
    pub(crate) fn progress(&self, group: &str, round: u32) -> Result<()> {
        interrupt::check()?;
        eprintln!("bench: {group}, round {} of {}", round + 1, self.runs);
        Ok(())
    }

    pub(crate) fn hull_run(&self, hull: &Hull, options: &[&str]) -> std::process::Command {
        let mut command = hull.command(["run", "--rm", "--pull", "never"]);
        command.args(options).arg(&self.image).args(COMMAND);
        command
    }

    /// From nothing to the first byte.
    pub(crate) fn start(&mut self) -> Result<()> {
        const GROUP: &str = "start";
        let mut table = Table::default();
        for round in 0..self.runs {
            self.progress(GROUP, round)?;
            let boot = self.alone.boot()?;
            table.push(
                "VMM alone, to PID 1",
                Unit::Milliseconds,
                milliseconds(boot),
            );
            let expected = COMMAND[1].as_bytes();
            let contenders = [
                ("hull run".to_owned(), self.hull_run(self.hull, &[])),
                (
                    "hull run --network none".to_owned(),
                    self.hull_run(self.hull, &["--network", "none"]),
                ),
            ];
            let runtimes = self.runtimes.iter();
            let runtimes =
                runtimes.map(|runtime| (format!("{} run", runtime.program), runtime.run()));
            let mut ends = Vec::new();
            for (name, mut command) in contenders.into_iter().chain(runtimes) {
                let times = timing::until_output(&mut command, expected)?;
                let output = milliseconds(times.output);
                table.push(
                    &format!("{name}, to first byte"),
                    Unit::Milliseconds,
                    output,
                );
                ends.push((format!("{name}, to its end"), milliseconds(times.end)));
            }
            for (name, end) in ends {
                table.push(&name, Unit::Milliseconds, end);
            }
        }
        table.report(GROUP, &mut self.report);
        self.report.check(
            "cold start over a boot of the same VMM",
            (GROUP, "hull run, to first byte"),
            Some((GROUP, "VMM alone, to PID 1")),
            (Bound::AtMost, 1.3),
        );
        Ok(())
    }

    /// A further process in a container that runs.
    pub(crate) fn exec(&mut self) -> Result<()> {
        const GROUP: &str = "exec";
        let mut table = Table::default();
        let pod = Pod::start(self.hull, "bench-exec", &[], &self.image)?;
        let backgrounds = self.runtimes.iter().map(|runtime| {
            let background = runtime.background()?;
            Ok((runtime.program, background))
        });
        let backgrounds = backgrounds.collect::<Result<Vec<_>>>()?;
        for round in 0..self.runs {
            self.progress(GROUP, round)?;
            let took = timing::to_end(&mut pod.exec(&[], &["true"]))?;
            table.push("hull exec true", Unit::Milliseconds, milliseconds(took));
            for (program, background) in &backgrounds {
                let took = timing::to_end(&mut background.exec(&["true"]))?;
                let name = format!("{program} exec true");
                table.push(&name, Unit::Milliseconds, milliseconds(took));
            }
        }
        table.report(GROUP, &mut self.report);
        self.report.check(
            "exec over a cold start",
            (GROUP, "hull exec true"),
            Some(("start", "hull run, to first byte")),
            (Bound::AtMost, 0.1),
        );
        Ok(())
    }

    /// What one pod takes of the host's memory, and what an idle guest takes of its own.
    pub(crate) fn memory(&mut self) -> Result<()> {
        const GROUP: &str = "memory";
        let mut table = Table::default();
        for round in 0..self.runs {
            self.progress(GROUP, round)?;
            let options = ["--memory", CONTAINER_MEMORY].map(str::to_owned);
            let pod = Pod::start(self.hull, "bench-memory", &options, &self.image)?;
            let machine = pod.vmm(Vmm::Qemu)?.value("-m")?.to_owned();
            ensure!(
                machine == format!("{MACHINE_MEMORY_MIB}M"),
                "--memory {CONTAINER_MEMORY} makes a machine of {machine}"
            );
            let meminfo = timing::output(&mut pod.exec(&[], &["cat", "/proc/meminfo"]))?;
            let mut all = 0;
            let mut by_program: BTreeMap<&str, u64> = BTreeMap::new();
            for process in &pod.processes {
                let pss = memory::pss(process)?.own_kib;
                all += pss;
                *by_program.entry(&process.program).or_default() += pss;
            }
            for (program, pss) in by_program {
                let name = format!("PSS of {program}, less guest memory");
                table.push(&name, Unit::Mebibytes, mebibytes(pss << 10));
            }
            let mut row = |name: &str, kib: u64| {
                table.push(name, Unit::Mebibytes, mebibytes(kib << 10));
            };
            row("PSS of all, less guest memory", all);
            let machine_kib = MACHINE_MEMORY_MIB << 10;
            let available = memory::meminfo_kib(&meminfo, "MemAvailable")?;
            let total = memory::meminfo_kib(&meminfo, "MemTotal")?;
            row(
                "guest of 128 MiB: 128 MiB - MemAvailable",
                machine_kib.saturating_sub(available),
            );
            row(
                "guest of 128 MiB: 128 MiB - MemTotal",
                machine_kib.saturating_sub(total),
            );
        }
        table.report(GROUP, &mut self.report);
        self.report.check(
            "memory of an idle guest of 128 MiB",
            (GROUP, "guest of 128 MiB: 128 MiB - MemAvailable"),
            None,
            (Bound::AtMost, 40.0),
        );
        Ok(())
    }

    /// A pod with this program in it that may open vsock streams, and the program's path.
    pub(crate) fn pod_with_program<'h>(
        &self,
        hull: &'h Hull,
        name: &'static str,
        further: &[String],
    ) -> Result<(Pod<'h>, String)> {
        let mut options = inside::mounts()?;
        // The default filter has no vsock for containers.
        options.extend(["--security-opt", "seccomp=unconfined"].map(str::to_owned));
        options.extend_from_slice(further);
        let pod = Pod::start(hull, name, &options, &self.image)?;
        let program = std::env::current_exe()?;
        let program = program.to_str().context("this program's path is no text")?;
        Ok((pod, program.to_owned()))
    }

    /// Bytes through a process's streams.
    pub(crate) fn stdio(&mut self) -> Result<()> {
        const GROUP: &str = "stdio";
        let mut table = Table::default();
        {
            let (pod, program) = self.pod_with_program(self.hull, "bench-stdio", &[])?;
            let streams = Streams::new(&pod, &program, STREAM_BYTES)?;
            for round in 0..self.runs {
                self.progress(GROUP, round)?;
                let mut row =
                    |name: &str, rate: f64| table.push(name, Unit::MebibytesPerSecond, rate);
                row("vsock stream, out", streams.vsock_out()?);
                row("hull exec, stdout", streams.stdout()?);
                row("vsock stream, there and back", streams.vsock_echo()?);
                row("hull exec -i cat", streams.cat()?);
            }
        }
        table.report(GROUP, &mut self.report);
        for (hull, vsock) in [
            ("hull exec, stdout", "vsock stream, out"),
            ("hull exec -i cat", "vsock stream, there and back"),
        ] {
            self.report.check(
                "stdio over a vsock stream",
                (GROUP, hull),
                Some((GROUP, vsock)),
                (Bound::AtLeast, 0.5),
            );
        }
        Ok(())
    }

    /// Files in the container's root, by virtio-fs and over vsock, and in a directory beside it on the host.
    pub(crate) fn files(&mut self, dir: &Path) -> Result<()> {
        const GROUP: &str = "files";
        let mut table = Table::default();
        {
            let over_vsock = Hull::new().with_settings("vm.file_sharing = 'vsock'");
            timing::output(&mut over_vsock.command(["pull", &self.image]))?;
            let (pod, program) = self.pod_with_program(self.hull, "bench-files", &[])?;
            let (slow, _) = self.pod_with_program(&over_vsock, "bench-files-vsock", &[])?;
            let container = |pod, name| Place::Container(pod, program.clone(), name);
            let places = [
                Place::Host(dir.to_owned()),
                container(&pod, "container's root"),
                container(&slow, "container's root over vsock"),
            ];
            for round in 0..self.runs {
                self.progress(GROUP, round)?;
                for place in &places {
                    let rates = place.measure(FILE_BYTES, SMALL_FILES)?;
                    let mut row = |what: &str, unit, rate| {
                        table.push(&format!("{what}, {}", place.name()), unit, rate);
                    };
                    row("write and sync", Unit::MebibytesPerSecond, rates.write);
                    row("read", Unit::MebibytesPerSecond, rates.read);
                    row("small files", Unit::PerSecond, rates.files);
                }
            }
        }
        table.report(GROUP, &mut self.report);
        Ok(())
    }
}
