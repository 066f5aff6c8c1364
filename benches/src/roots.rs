//! Reading the root of a Debian: the host's directory, and an image of it.

use anyhow::Result;
use harness::Hull;

use crate::groups::{Bench, Table};
use crate::pod::Pod;
use crate::sample::{Unit, milliseconds};
use crate::timing;

/// What a guest does that looks at many files, and at what is in them.
const WORK: [(&str, &[&str]); 2] = [
    ("find / -ls", &["find", "/", "-xdev", "-ls"]),
    (
        "tar of /usr/share",
        &["tar", "--create", "--file", "/dev/zero", "/usr/share"],
    ),
];

impl Bench<'_> {
    /// Each in a guest that has just started, and again. The host's page cache holds all of it.
    pub(crate) fn roots(&mut self) -> Result<()> {
        const GROUP: &str = "roots";
        let image = harness::debian();
        let mut table = Table::default();
        let hulls = ["shared", "image"].map(|kind| {
            let settings = format!("root.kind = {kind:?}\n");
            (kind, Hull::new().with_settings(&settings))
        });
        for (_, hull) in &hulls {
            timing::output(&mut hull.command(["pull", &image]))?;
        }
        for round in 0..self.runs {
            self.progress(GROUP, round)?;
            for (kind, hull) in &hulls {
                let options = ["--network", "none"].map(str::to_owned);
                let pod = Pod::start(hull, "bench-roots", &options, &image)?;
                for (what, command) in WORK {
                    for time in ["first", "again"] {
                        let took = timing::to_end(&mut pod.exec(&[], command))?;
                        let name = format!("{what}, {time}: {kind}");
                        table.push(&name, Unit::Milliseconds, milliseconds(took));
                    }
                }
            }
        }
        table.report(GROUP, &mut self.report);
        Ok(())
    }
}
