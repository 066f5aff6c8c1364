//! A number of CPUs, which may be a fraction.

/// CPU time, in thousandths of a CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cpus {
    milli: u32,
}

/// The period over which a fraction is enforced, microseconds.
const PERIOD_US: u64 = 100_000;

impl Cpus {
    /// Virtual CPUs that can use this much time.
    pub(crate) fn vcpus(self) -> u32 {
        self.milli.div_ceil(1000)
    }

    /// The cgroup's quota and period in microseconds; none when whole virtual CPUs are the limit.
    pub(crate) fn quota_us(self) -> Option<(i64, u64)> {
        if self.milli.is_multiple_of(1000) {
            return None;
        }
        let quota = i64::from(self.milli) * 100;
        Some((quota, PERIOD_US))
    }
}

/// Reads `2` or `0.5`.
pub(crate) fn parse(text: &str) -> Result<Cpus, String> {
    let malformed = || format!("{text:?} is not a number of CPUs such as 2 or 0.5");
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || fraction.len() > 3 {
        return Err(malformed());
    }
    let whole: u32 = whole.parse().map_err(|_| malformed())?;
    let milli = format!("{fraction:0<3}")
        .parse::<u32>()
        .map_err(|_| malformed())?;
    let most = hull_vm::config::MAX_VCPUS;
    let milli = whole
        .checked_mul(1000)
        .and_then(|whole| whole.checked_add(milli))
        .filter(|milli| *milli <= most * 1000)
        .ok_or_else(|| format!("{text} CPUs are more than a guest can have ({most})"))?;
    if milli < 10 {
        return Err(format!("{text} CPUs are less than the minimum of 0.01"));
    }
    Ok(Cpus { milli })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fractions_get_a_quota_and_whole_numbers_do_not() {
        let half = parse("0.5").unwrap();
        assert_eq!(
            (half.vcpus(), half.quota_us()),
            (1, Some((50_000, 100_000)))
        );
        let two = parse("2").unwrap();
        assert_eq!((two.vcpus(), two.quota_us()), (2, None));
        let more = parse("1.25").unwrap();
        assert_eq!(
            (more.vcpus(), more.quota_us()),
            (2, Some((125_000, 100_000)))
        );
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "",
            "0",
            "-1",
            "1e3",
            "65",
            ".5",
            "1.",
            "0.001",
            "1.0001",
            "99999999999",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
