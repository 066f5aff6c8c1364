//! Containers of Podman: Hull beside what else Podman can run them by.

use std::time::Instant;

use anyhow::{Result, anyhow, ensure};
use harness::engine::{BUSYBOX, Engine, RUNTIME};
use harness::podman::podman;

use crate::groups::{Bench, Table};
use crate::sample::{Unit, milliseconds};

const GROUP: &str = "podman";
/// Those that are tried beside Hull.
const OTHERS: [&str; 4] = ["runc", "crun", "krun", "runsc"];

impl Bench<'_> {
    /// From `podman run` to the end of a program that does nothing, with the removal of its container.
    pub(crate) fn podman(&mut self) -> Result<()> {
        let this = &*self;
        // The engine takes its thread into a network of its own.
        let measured = std::thread::scope(|scope| scope.spawn(|| this.measure_podman()).join());
        let (table, absent) = measured.map_err(|_| anyhow!("Podman failed"))??;
        table.report(GROUP, &mut self.report);
        self.report.absent.extend(absent);
        Ok(())
    }

    fn measure_podman(&self) -> Result<(Table, Vec<String>)> {
        let mut table = Table::default();
        let Some(podman) = podman() else {
            return Ok((table, vec!["podman is not installed".to_owned()]));
        };
        let mut absent = Vec::new();
        let mut runtimes = vec![RUNTIME];
        for runtime in OTHERS {
            // A machine where it cannot run has no such contender.
            match run(&podman, runtime) {
                Ok(_) => runtimes.push(runtime),
                Err(error) => absent.push(format!("podman with {runtime}: {error}")),
            }
        }
        for round in 0..self.runs {
            self.progress(GROUP, round)?;
            for runtime in &runtimes {
                table.push(
                    &format!("podman --runtime {runtime} run --rm, true"),
                    Unit::Milliseconds,
                    run(&podman, runtime)?,
                );
            }
        }
        Ok((table, absent))
    }
}

/// How long it takes, ms.
fn run(podman: &Engine, runtime: &str) -> Result<f64> {
    let start = Instant::now();
    let outcome = podman.call(["--runtime", runtime, "run", "--rm", BUSYBOX, "true"]);
    let took = milliseconds(start.elapsed());
    ensure!(outcome.code() == 0, "{}", outcome.stderr().trim());
    Ok(took)
}
