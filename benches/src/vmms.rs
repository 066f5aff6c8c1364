//! The VMMs that are there, beside each other.

use anyhow::Result;
use harness::Hull;
use hull_vm::Vmm;

use crate::files::Place;
use crate::groups::{Bench, COMMAND, FILE_BYTES, SMALL_FILES, Table};
use crate::memory;
use crate::pod::Pod;
use crate::sample::{Unit, mebibytes, milliseconds};
use crate::timing;

impl Bench<'_> {
    /// Start, a further process, memory and files with each VMM.
    pub(crate) fn vmms(&mut self) -> Result<()> {
        const GROUP: &str = "vmms";
        let mut table = Table::default();
        let all = Vmm::ALL.iter().copied();
        let vmms: Vec<_> = all.filter(|vmm| vmm.usable().is_ok()).collect();
        let templates = Hull::new().with_settings("vm.start = 'template'");
        timing::output(&mut templates.command(["pull", &self.image]))?;
        {
            let mut pods = Vec::new();
            for vmm in &vmms {
                let option = ["--vmm", vmm.name()].map(str::to_owned);
                pods.push(self.pod_with_program(self.hull, vmm.name(), &option)?);
                if vmm.driver()?.capabilities().snapshot {
                    // The first makes the template.
                    self.start_from_template(*vmm, &templates)?;
                }
            }
            for round in 0..self.runs {
                self.progress(GROUP, round)?;
                for (vmm, (pod, program)) in vmms.iter().zip(&pods) {
                    self.look_at(*vmm, pod, program, &mut table)?;
                    if vmm.driver()?.capabilities().snapshot {
                        table.push(
                            &format!("{}: the same from a template", vmm.name()),
                            Unit::Milliseconds,
                            self.start_from_template(*vmm, &templates)?,
                        );
                    }
                }
            }
        }
        table.report(GROUP, &mut self.report);
        Ok(())
    }

    /// Until the first byte of a pod without a network, in milliseconds.
    fn start_from_template(&self, vmm: Vmm, hull: &Hull) -> Result<f64> {
        let mut command = hull.command(["run", "--rm", "--vmm", vmm.name()]);
        command
            .args(["--network", "none", &self.image])
            .args(COMMAND);
        let times = timing::until_output(&mut command, COMMAND[1].as_bytes())?;
        Ok(milliseconds(times.output))
    }

    fn look_at(&self, vmm: Vmm, pod: &Pod<'_>, program: &str, table: &mut Table) -> Result<()> {
        let name = vmm.name();
        let mut row = |what: &str, unit, value| table.push(&format!("{name}: {what}"), unit, value);
        let expected = COMMAND[1].as_bytes();
        let networks: [(&str, &[&str]); 2] = [
            ("hull run", &["--vmm", name]),
            (
                "hull run --network none",
                &["--vmm", name, "--network", "none"],
            ),
        ];
        for (what, options) in networks {
            let times = timing::until_output(&mut self.hull_run(options), expected)?;
            row(
                &format!("{what}, to first byte"),
                Unit::Milliseconds,
                milliseconds(times.output),
            );
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
        let rates = Place::Container(pod, program.to_owned(), name);
        let rates = rates.measure(FILE_BYTES, SMALL_FILES)?;
        row("write and sync", Unit::MebibytesPerSecond, rates.write);
        row("read", Unit::MebibytesPerSecond, rates.read);
        row("small files", Unit::PerSecond, rates.files);
        Ok(())
    }
}
