//! The VMMs that are there, beside each other.

use std::path::Path;

use anyhow::Result;
use harness::Hull;
use hull_vm::{Driver, Vmm};

use crate::alone::Alone;
use crate::files::Place;
use crate::groups::{Bench, COMMAND, FILE_BYTES, SMALL_FILES, STREAM_BYTES, Table};
use crate::machine;
use crate::memory;
use crate::network::{self, Server};
use crate::pod::Pod;
use crate::sample::{Unit, mebibytes, milliseconds};
use crate::timing;

/// Every machine's memory.
const MEMORY_MIB: u32 = 512;

const NO_NETWORK: [&str; 2] = ["--network", "none"];

/// A VMM, and a pod that runs on it for the whole of the measurement.
struct Contender<'h> {
    vmm: Vmm,
    driver: Box<dyn Driver>,
    alone: Alone,
    pod: Pod<'h>,
    /// This program's path in the pod.
    program: String,
    server: Server,
}

impl Bench<'_> {
    /// Each VMM alone, its driver, and pods on it: start, a further process, memory, files, the network.
    pub(crate) fn vmms(&mut self, dir: &Path) -> Result<()> {
        const GROUP: &str = "vmms";
        let mut table = Table::default();
        let size = format!("vm.memory = '{MEMORY_MIB}MiB'\nvm.max_memory = '{MEMORY_MIB}MiB'\n");
        let cold = Hull::new().with_settings(&size);
        let templates = Hull::new().with_settings(&format!("{size}vm.start = 'template'\n"));
        for hull in [&cold, &templates] {
            timing::output(&mut hull.command(["pull", &self.image]))?;
        }
        let mut drivers = Vec::new();
        for vmm in Vmm::ALL.iter().copied() {
            match vmm.usable() {
                Ok(driver) => drivers.push((vmm, driver)),
                Err(error) => self.report.absent.push(error.to_string()),
            }
        }
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_all().build()?;
        {
            let mut contenders = Vec::new();
            for (vmm, driver) in drivers {
                contenders.push(self.contender(&cold, vmm, driver, dir)?);
            }
            for contender in &contenders {
                if contender.driver.capabilities().snapshot {
                    // The first makes the template.
                    self.first_byte(&templates, contender.vmm, &NO_NETWORK)?;
                }
            }
            for round in 0..self.runs {
                self.progress(GROUP, round)?;
                for contender in &contenders {
                    let mut row = |what: &str, unit, value| {
                        let name = format!("{}: {what}", contender.vmm.name());
                        table.push(&name, unit, value);
                    };
                    let ms = Unit::Milliseconds;
                    let driver = contender.driver.as_ref();
                    let times = runtime.block_on(machine::measure(driver, MEMORY_MIB))?;
                    row("alone, to PID 1", ms, milliseconds(contender.alone.boot()?));
                    row("its driver, to the agent", ms, milliseconds(times.ready));
                    self.look_at(&cold, contender, &mut row)?;
                    if let Some(snapshot) = times.snapshot {
                        let from_template =
                            self.first_byte(&templates, contender.vmm, &NO_NETWORK)?;
                        row("from a template, to first byte", ms, from_template);
                        row("to take a snapshot", ms, milliseconds(snapshot.taken));
                        row("from it to an answer", ms, milliseconds(snapshot.answered));
                    }
                }
            }
        }
        table.report(GROUP, &mut self.report);
        Ok(())
    }

    fn contender<'h>(
        &self,
        hull: &'h Hull,
        vmm: Vmm,
        driver: Box<dyn Driver>,
        dir: &Path,
    ) -> Result<Contender<'h>> {
        let port = network::free_port()?;
        let options = ["--vmm", vmm.name()].map(str::to_owned);
        let options: Vec<_> = options.into_iter().chain(network::publish(port)).collect();
        let (pod, program) = self.pod_with_program(hull, vmm.name(), &options)?;
        Ok(Contender {
            vmm,
            driver,
            alone: Alone::like(&pod, vmm, MEMORY_MIB, dir)?,
            server: Server::start(&pod, &program, port, STREAM_BYTES)?,
            pod,
            program,
        })
    }

    /// `hull run` with `vmm`, these options and a container's command, until its first byte, in milliseconds.
    fn first_byte(&self, hull: &Hull, vmm: Vmm, options: &[&str]) -> Result<f64> {
        let options = [&["--vmm", vmm.name()], options].concat();
        let mut command = self.hull_run(hull, &options);
        let times = timing::until_output(&mut command, COMMAND[1].as_bytes())?;
        Ok(milliseconds(times.output))
    }

    fn look_at(
        &self,
        hull: &Hull,
        contender: &Contender<'_>,
        row: &mut impl FnMut(&str, Unit, f64),
    ) -> Result<()> {
        let Contender { vmm, pod, .. } = contender;
        for (what, network) in [
            ("hull run, to first byte", &[][..]),
            ("hull run --network none, to first byte", &NO_NETWORK),
        ] {
            let took = self.first_byte(hull, *vmm, network)?;
            row(what, Unit::Milliseconds, took);
        }
        let took = timing::to_end(&mut pod.exec(&[], &["true"]))?;
        row("hull exec true", Unit::Milliseconds, milliseconds(took));
        let mut kib = 0;
        for process in &pod.processes {
            let pss = memory::pss(process)?;
            kib += pss.guest_kib + pss.own_kib;
        }
        row(
            "PSS of all with the guest",
            Unit::Mebibytes,
            mebibytes(kib << 10),
        );
        let place = Place::Container(pod, contender.program.clone(), vmm.name());
        let rates = place.measure(FILE_BYTES, SMALL_FILES)?;
        row("write and sync", Unit::MebibytesPerSecond, rates.write);
        row("read", Unit::MebibytesPerSecond, rates.read);
        row("small files", Unit::PerSecond, rates.files);
        let server = &contender.server;
        for (what, rate) in [
            ("network, out", server.sent_rate()?),
            ("network, in", server.received_rate()?),
        ] {
            row(what, Unit::MebibytesPerSecond, rate);
        }
        Ok(())
    }
}
