//! Pods of an engine: Hull beside runc, by the same calls to the same containerd.

use std::collections::BTreeMap;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use harness::blocking_cri::BlockingCri;
use harness::containerd::{Containerd, HULL, RUNC};
use harness::cri;

use crate::groups::{Bench, Table};
use crate::interrupt;
use crate::memory;
use crate::pod::{self, POD_PROGRAM, Process};
use crate::sample::{Unit, mebibytes, milliseconds};

const GROUP: &str = "pods";
/// The limit of each pod and its container.
const MEMORY_MIB: u32 = 64;
/// As many pods run when memory is looked at; how long a start takes is told apart by them as well.
const COUNTS: [u32; 3] = [1, 10, 50];
/// As many pods are started at once.
const AT_ONCE: [u32; 2] = [10, 50];

/// Pods that run; they end when this is dropped.
#[derive(Debug)]
struct Pods {
    cri: BlockingCri,
    running: Vec<cri::Pod>,
}

impl Pods {
    fn none(containerd: &Containerd, handler: &'static str) -> Self {
        Self {
            cri: BlockingCri::connect(containerd, handler),
            running: Vec::new(),
        }
    }

    /// Starts another; how long it took until its container ran.
    fn start(&mut self, name: &str) -> Duration {
        let start = Instant::now();
        self.running.push(self.cri.start_pod(name, MEMORY_MIB));
        start.elapsed()
    }
}

impl Drop for Pods {
    fn drop(&mut self) {
        for pod in &self.running {
            self.cri.remove_pod(pod);
        }
    }
}

impl Bench<'_> {
    /// How long pods take to start, and what they take of the host's memory.
    pub(crate) fn pods(&mut self, most: u32) -> Result<()> {
        let this = &*self;
        // The engine takes its thread into a network of its own.
        let table = std::thread::scope(|scope| scope.spawn(|| this.measure_pods(most)).join());
        let table = table.map_err(|_| anyhow!("the engine or one of its pods failed"))??;
        table.report(GROUP, &mut self.report);
        Ok(())
    }

    fn measure_pods(&self, most: u32) -> Result<Table> {
        let containerd = Containerd::with_runc();
        let mut table = Table::default();
        for round in 0..self.runs {
            self.progress(GROUP, round)?;
            for handler in [HULL, RUNC] {
                one_after_the_other(&containerd, handler, most, &mut table)?;
            }
            for count in AT_ONCE.into_iter().filter(|count| *count <= most) {
                for handler in [HULL, RUNC] {
                    at_once(&containerd, handler, count, &mut table)?;
                }
            }
        }
        Ok(table)
    }
}

fn one_after_the_other(
    containerd: &Containerd,
    handler: &'static str,
    most: u32,
    table: &mut Table,
) -> Result<()> {
    let mut pods = Pods::none(containerd, handler);
    let mut number = 0;
    for count in COUNTS.into_iter().filter(|count| *count <= most) {
        let which = match count {
            1 => "pod 1".to_owned(),
            _ => format!("pods {} to {count}", number + 1),
        };
        while number < count {
            interrupt::check()?;
            number += 1;
            let took = pods.start(&format!("pod-{number}"));
            let name = format!("{handler}, start of {which}");
            table.push(&name, Unit::Milliseconds, milliseconds(took));
        }
        memory_per_pod(containerd, handler, count, table)?;
    }
    Ok(())
}

fn at_once(
    containerd: &Containerd,
    handler: &'static str,
    count: u32,
    table: &mut Table,
) -> Result<()> {
    interrupt::check()?;
    let barrier = Barrier::new(count as usize);
    let barrier = &barrier;
    let start_one = move |number: u32| {
        let mut pods = Pods::none(containerd, handler);
        barrier.wait();
        let took = pods.start(&format!("at-once-{number}"));
        // None ends while another starts.
        barrier.wait();
        took
    };
    let took = std::thread::scope(|scope| {
        let starting: Vec<_> = (0..count)
            .map(|number| scope.spawn(move || start_one(number)))
            .collect();
        let took = starting.into_iter().map(|thread| thread.join().ok());
        took.collect::<Option<Vec<_>>>()
    });
    let took = took.ok_or_else(|| anyhow!("a pod of {handler} did not start"))?;
    let name = format!("{handler}, start of {count} pods at once");
    for took in &took {
        let name = format!("{name}, each");
        table.push(&name, Unit::Milliseconds, milliseconds(*took));
    }
    let all = took.into_iter().max().unwrap_or_default();
    table.push(
        &format!("{name}, all"),
        Unit::Milliseconds,
        milliseconds(all),
    );
    Ok(())
}

/// The proportional sets of all processes of the pods that run, by the pod.
fn memory_per_pod(
    containerd: &Containerd,
    handler: &'static str,
    count: u32,
    table: &mut Table,
) -> Result<()> {
    // Every process of an engine's pods is told of its directory.
    let dir = containerd.dir().display().to_string();
    let program = match handler {
        HULL => POD_PROGRAM,
        _ => "containerd-shim-runc-v2",
    };
    let is_pod = |process: &Process| {
        let mut arguments = process.arguments.iter();
        process.program == program && arguments.any(|argument| argument.starts_with(&dir))
    };
    let mut by_program: BTreeMap<String, u64> = BTreeMap::new();
    let mut guest = 0;
    for process in pod::trees(is_pod)? {
        let pss = memory::pss(&process)?;
        guest += pss.guest_kib;
        *by_program.entry(process.program).or_default() += pss.own_kib;
    }
    let all = guest + by_program.values().sum::<u64>();
    let mut row = |what: &str, kib: u64| {
        let name = format!("{handler}, PSS per pod of {count}: {what}");
        let per_pod = mebibytes(kib << 10) / f64::from(count);
        table.push(&name, Unit::Mebibytes, per_pod);
    };
    if handler == HULL {
        row("guest memory", guest);
    }
    for (program, kib) in &by_program {
        row(program, *kib);
    }
    row("all", all);
    Ok(())
}
