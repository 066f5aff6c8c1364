//! The results: a table for people, JSON for programs, and the promises held against them.

use std::fmt::Write;

use serde::Serialize;

use crate::sample::{Samples, Unit};

/// One line of the table.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    pub(crate) group: &'static str,
    pub(crate) name: String,
    pub(crate) unit: Unit,
    n: usize,
    median: f64,
    min: f64,
    max: f64,
    values: Vec<f64>,
}

/// What SPECIFICATION.md promises, and what was measured.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Promise {
    pub(crate) promise: &'static str,
    /// What is compared, in words.
    pub(crate) measured_as: String,
    pub(crate) bound: Bound,
    pub(crate) limit: f64,
    pub(crate) measured: f64,
    pub(crate) met: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Bound {
    AtMost,
    AtLeast,
}

impl Bound {
    fn holds(self, measured: f64, limit: f64) -> bool {
        match self {
            Self::AtMost => measured <= limit,
            Self::AtLeast => measured >= limit,
        }
    }

    fn symbol(self) -> &'static str {
        match self {
            Self::AtMost => "<=",
            Self::AtLeast => ">=",
        }
    }
}

/// Where it was measured.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) cpus: usize,
    pub(crate) kernel: String,
    /// What the guests run on, as QEMU calls it.
    pub(crate) accelerator: String,
}

/// Everything that one run finds out.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    pub(crate) rows: Vec<Row>,
    pub(crate) promises: Vec<Promise>,
    /// Contenders that could not take part, with the reason.
    pub(crate) absent: Vec<String>,
}

impl Report {
    pub(crate) fn add(
        &mut self,
        group: &'static str,
        name: impl Into<String>,
        unit: Unit,
        samples: &Samples,
    ) {
        if samples.values().is_empty() {
            return;
        }
        self.rows.push(Row {
            group,
            name: name.into(),
            unit,
            n: samples.values().len(),
            median: samples.median(),
            min: samples.min(),
            max: samples.max(),
            values: samples.values().to_vec(),
        });
    }

    fn median(&self, group: &str, name: &str) -> Option<f64> {
        let mut rows = self.rows.iter();
        let row = rows.find(|row| row.group == group && row.name == name)?;
        Some(row.median)
    }

    /// Holds the median of a row, divided by that of another if there is one, against a limit. Rows
    /// that were not measured promise nothing.
    pub(crate) fn check(
        &mut self,
        promise: &'static str,
        row: (&str, &str),
        over: Option<(&str, &str)>,
        (bound, limit): (Bound, f64),
    ) {
        let Some(median) = self.median(row.0, row.1) else {
            return;
        };
        let (measured, measured_as) = match over {
            None => (median, row.1.to_owned()),
            Some((group, name)) => match self.median(group, name) {
                Some(other) => (median / other, format!("{} / {name}", row.1)),
                None => return,
            },
        };
        self.promises.push(Promise {
            promise,
            measured_as,
            bound,
            limit,
            measured,
            met: bound.holds(measured, limit),
        });
    }

    pub(crate) fn table(&self) -> String {
        let mut text = String::new();
        let width = self.rows.iter().map(|row| row.name.chars().count()).max();
        let width = width.unwrap_or_default() + 2;
        // Writing to a string does not fail.
        let mut line = |line: std::fmt::Arguments| {
            let _ = writeln!(text, "{line}");
        };
        let machine = &self.machine;
        line(format_args!(
            "{} x {}, kernel {}, guests on {}",
            machine.cpus, machine.cpu, machine.kernel, machine.accelerator
        ));
        let mut group = "";
        for row in &self.rows {
            if row.group != group {
                group = row.group;
                line(format_args!(""));
                line(format_args!(
                    "{group:width$} {:>6} {:>3} {:>10} {:>10} {:>10}",
                    "unit", "n", "median", "min", "max"
                ));
            }
            line(format_args!(
                "  {:<w$} {:>6} {:>3} {:>10.1} {:>10.1} {:>10.1}",
                row.name,
                row.unit.symbol(),
                row.n,
                row.median,
                row.min,
                row.max,
                w = width - 2
            ));
        }
        if !self.promises.is_empty() {
            line(format_args!("\npromises"));
        }
        for promise in &self.promises {
            let verdict = match promise.met {
                true => "met".to_owned(),
                false => format!("missed by {:.0} %", promise.missed_by() * 100.0),
            };
            line(format_args!(
                "  {}: {:.3} {} {} ({}): {verdict}",
                promise.promise,
                promise.measured,
                promise.bound.symbol(),
                promise.limit,
                promise.measured_as,
            ));
        }
        for absent in &self.absent {
            line(format_args!("absent: {absent}"));
        }
        text
    }
}

impl Promise {
    /// How far beyond the limit, as a part of the limit.
    fn missed_by(&self) -> f64 {
        (self.measured - self.limit).abs() / self.limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(values: &[f64]) -> Samples {
        let mut samples = Samples::new();
        values.iter().for_each(|value| samples.push(*value));
        samples
    }

    #[test]
    fn a_promise_compares_medians() {
        let mut report = Report::default();
        report.add("g", "a", Unit::Milliseconds, &samples(&[10.0, 13.0, 90.0]));
        report.add("g", "b", Unit::Milliseconds, &samples(&[10.0]));
        let ratio = |limit| (Bound::AtMost, limit);
        report.check("p", ("g", "a"), Some(("g", "b")), ratio(1.3));
        report.check("p", ("g", "a"), Some(("g", "b")), ratio(1.2));
        report.check("p", ("g", "a"), None, (Bound::AtLeast, 13.0));
        let met: Vec<_> = report.promises.iter().map(|promise| promise.met).collect();
        assert_eq!(met, [true, false, true]);
        assert!(report.table().contains("missed by 8 %"));
    }

    #[test]
    fn what_was_not_measured_is_neither_met_nor_missed() {
        let mut report = Report::default();
        report.add("g", "nothing", Unit::Mebibytes, &samples(&[]));
        report.check("p", ("g", "nothing"), None, (Bound::AtMost, 1.0));
        assert!(report.rows.is_empty() && report.promises.is_empty());
    }
}
