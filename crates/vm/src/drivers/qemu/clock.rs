//! The frequency of this host's time stamp counter.
//!
//! TCG's guest reads the host's counter. Left alone, the guest's kernel measures it against the
//! emulated timer, which on a busy host fails and hangs the boot; so it is told.

use std::time::{Duration, Instant};

/// Ticks of the time stamp counter per millisecond.
#[must_use]
pub(super) fn tsc_khz() -> u64 {
    static MEASURED: std::sync::OnceLock<u64> = std::sync::OnceLock::new();
    *MEASURED.get_or_init(|| {
        // The shorter of two readings around the clock is the one that was not interrupted.
        let stamp = || {
            let best = (0..8).map(|_| {
                let before = ticks();
                let now = Instant::now();
                (ticks() - before, before, now)
            });
            let (_, ticks, now) = best.min_by_key(|sample| sample.0).expect("eight samples");
            (ticks, now)
        };
        let (first_ticks, first) = stamp();
        std::thread::sleep(Duration::from_millis(5));
        let (last_ticks, last) = stamp();
        let nanos = u64::try_from((last - first).as_nanos())
            .unwrap_or(u64::MAX)
            .max(1);
        (last_ticks - first_ticks).saturating_mul(1_000_000) / nanos
    })
}

fn ticks() -> u64 {
    // SAFETY: every x86-64 CPU has RDTSC.
    unsafe { std::arch::x86_64::_rdtsc() }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_frequency_is_one_that_a_cpu_has() {
        let khz = super::tsc_khz();
        assert!((100_000..20_000_000).contains(&khz), "{khz}");
    }
}
