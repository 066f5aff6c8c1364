//! Measured values and what is said of them.

use std::time::Duration;

use serde::Serialize;

/// What a value counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) enum Unit {
    #[serde(rename = "ms")]
    Milliseconds,
    #[serde(rename = "MiB")]
    Mebibytes,
    #[serde(rename = "MiB/s")]
    MebibytesPerSecond,
    #[serde(rename = "1/s")]
    PerSecond,
}

impl Unit {
    pub(crate) fn symbol(self) -> &'static str {
        match self {
            Self::Milliseconds => "ms",
            Self::Mebibytes => "MiB",
            Self::MebibytesPerSecond => "MiB/s",
            Self::PerSecond => "1/s",
        }
    }
}

/// One thing, measured several times.
#[derive(Debug, Clone)]
pub(crate) struct Samples {
    values: Vec<f64>,
}

impl Samples {
    pub(crate) fn new() -> Self {
        Self { values: Vec::new() }
    }

    pub(crate) fn push(&mut self, value: f64) {
        let at = self.values.partition_point(|other| *other < value);
        self.values.insert(at, value);
    }

    /// In ascending order.
    pub(crate) fn values(&self) -> &[f64] {
        &self.values
    }

    /// The middle one; of an even number the mean of both. Nothing was measured: not a number.
    pub(crate) fn median(&self) -> f64 {
        let (low, high) = (
            self.values.get(self.values.len().saturating_sub(1) / 2),
            self.values.get(self.values.len() / 2),
        );
        match (low, high) {
            (Some(low), Some(high)) => f64::midpoint(*low, *high),
            _ => f64::NAN,
        }
    }

    pub(crate) fn min(&self) -> f64 {
        self.values.first().copied().unwrap_or(f64::NAN)
    }

    pub(crate) fn max(&self) -> f64 {
        self.values.last().copied().unwrap_or(f64::NAN)
    }
}

pub(crate) fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

const MIB: f64 = 1_048_576.0;

/// Bytes in MiB.
#[expect(
    clippy::cast_precision_loss,
    reason = "2^53 bytes are more than is ever measured"
)]
pub(crate) fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / MIB
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        let mut samples = Samples::new();
        assert!(samples.median().is_nan());
        for value in [5.0, 1.0, 9.0] {
            samples.push(value);
        }
        assert_eq!(samples.values(), [1.0, 5.0, 9.0]);
        assert!((samples.median() - 5.0).abs() < f64::EPSILON);
        samples.push(7.0);
        assert!((samples.median() - 6.0).abs() < f64::EPSILON);
    }
}
