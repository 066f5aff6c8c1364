//! The guest as a whole: clock, random numbers, parameters, figures.

use std::fs;
use std::os::fd::AsRawFd;
use std::path::Path;

use hull_agent_api::agent::{GuestInfoResponse, InterfaceStats};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_settime};

use crate::error::AgentError;
use crate::sys::check;

/// The kernel's pool holds no more.
const MAX_ENTROPY: usize = 4096;

/// Sets the wall clock.
pub(crate) fn set_clock(realtime_ns: i64) -> Result<(), AgentError> {
    const PER_SECOND: i64 = 1_000_000_000;
    let time = TimeSpec::new(
        realtime_ns.div_euclid(PER_SECOND),
        realtime_ns.rem_euclid(PER_SECOND),
    );
    clock_settime(ClockId::CLOCK_REALTIME, time)
        .map_err(|errno| AgentError::io("set the clock")(errno.into()))
}

/// Mixes host entropy into the random number generator, credits it, and has the kernel use it now.
pub(crate) fn reseed_random(entropy: &[u8]) -> Result<(), AgentError> {
    /// `struct rand_pool_info` with its bytes.
    #[repr(C)]
    struct Pool {
        entropy_bits: libc::c_int,
        size: libc::c_int,
        bytes: [u8; MAX_ENTROPY],
    }
    const RNDADDENTROPY: libc::c_ulong = 0x4008_5203;
    const RNDRESEEDCRNG: libc::c_ulong = 0x5207;

    let length = entropy.len().min(MAX_ENTROPY);
    let size = i32::try_from(length).unwrap_or(0);
    let mut pool = Pool {
        entropy_bits: size * 8,
        size,
        bytes: [0; MAX_ENTROPY],
    };
    pool.bytes[..length].copy_from_slice(&entropy[..length]);
    let failed = || AgentError::io("reseed the random number generator");
    let random = fs::File::options()
        .write(true)
        .open("/dev/random")
        .map_err(failed())?;
    // SAFETY: RNDADDENTROPY reads the structure with as many bytes as its size says, and it lives
    // through the call.
    check(unsafe { libc::ioctl(random.as_raw_fd(), RNDADDENTROPY, &raw const pool) }.into())
        .map_err(failed())?;
    // SAFETY: RNDRESEEDCRNG takes no argument.
    check(unsafe { libc::ioctl(random.as_raw_fd(), RNDRESEEDCRNG) }.into()).map_err(failed())?;
    Ok(())
}

/// Sets a kernel parameter.
pub(crate) fn set_sysctl(name: &str, value: &str) -> Result<(), AgentError> {
    let path = crate::sysctl::path(name).ok_or_else(|| AgentError::Invalid {
        field: "sysctl",
        value: name.to_owned(),
    })?;
    fs::File::options()
        .write(true)
        .open(&path)
        .and_then(|mut file| std::io::Write::write_all(&mut file, value.as_bytes()))
        .map_err(AgentError::io(format!(
            "write {value:?} to {}",
            path.display()
        )))
}

/// Figures for the host.
pub(crate) fn info() -> GuestInfoResponse {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cpus = fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
    let mut info = GuestInfoResponse::new();
    info.agent_version = env!("CARGO_PKG_VERSION").to_owned();
    info.kernel_release = release.trim().to_owned();
    info.memory_total_bytes = kilobytes(&meminfo, "MemTotal:");
    info.memory_available_bytes = kilobytes(&meminfo, "MemAvailable:");
    info.cpus_online = count_cpus(cpus.trim());
    info.agent_rss_bytes = kilobytes(&status, "VmRSS:");
    info
}

/// A line such as "MemTotal:  1024 kB", in bytes; 0 when it is not there.
pub(crate) fn kilobytes(text: &str, name: &str) -> u64 {
    let value = text.lines().find_map(|line| line.strip_prefix(name));
    let number = value.and_then(|value| value.trim().strip_suffix("kB")?.trim().parse().ok());
    number.unwrap_or(0_u64).saturating_mul(1024)
}

/// CPUs in a list such as "0-3,5".
fn count_cpus(list: &str) -> u32 {
    list.split(',')
        .filter_map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
            Some(last.checked_sub(first)? + 1)
        })
        .sum()
}

/// Counters of all interfaces but loopback.
pub(crate) fn interfaces() -> Vec<InterfaceStats> {
    // Without the file there are no interfaces.
    let text = fs::read_to_string(Path::new("/proc/net/dev")).unwrap_or_default();
    parse_interfaces(&text)
}

fn parse_interfaces(text: &str) -> Vec<InterfaceStats> {
    text.lines()
        .filter_map(|line| {
            let (name, counters) = line.split_once(':')?;
            let counters: Vec<u64> = counters
                .split_whitespace()
                .filter_map(|value| value.parse().ok())
                .collect();
            let name = name.trim();
            if name == "lo" || counters.len() < 12 {
                return None;
            }
            let mut stats = InterfaceStats::new();
            stats.name = name.to_owned();
            [
                stats.rx_bytes,
                stats.rx_packets,
                stats.rx_errors,
                stats.rx_dropped,
            ] = [counters[0], counters[1], counters[2], counters[3]];
            [
                stats.tx_bytes,
                stats.tx_packets,
                stats.tx_errors,
                stats.tx_dropped,
            ] = [counters[8], counters[9], counters[10], counters[11]];
            Some(stats)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kilobytes_become_bytes() {
        let text = "MemTotal:       2048 kB\nMemFree: 1 kB\n";
        assert_eq!(kilobytes(text, "MemTotal:"), 2048 * 1024);
        assert_eq!(kilobytes(text, "Swap:"), 0);
    }

    #[test]
    fn cpu_lists_are_counted() {
        assert_eq!(count_cpus("0-3,5"), 5);
        assert_eq!(count_cpus("0"), 1);
        assert_eq!(count_cpus(""), 0);
    }

    #[test]
    fn interface_counters_are_read() {
        let text = "Inter-|   Receive  |  Transmit\n face |bytes packets\n    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n  eth0: 100 2 3 4 0 0 0 0 50 6 7 8 0 0 0 0\n";
        let interfaces = parse_interfaces(text);
        assert_eq!(interfaces.len(), 1);
        let eth0 = &interfaces[0];
        assert_eq!(
            (eth0.name.as_str(), eth0.rx_bytes, eth0.rx_dropped),
            ("eth0", 100, 4)
        );
        assert_eq!((eth0.tx_bytes, eth0.tx_dropped), (50, 8));
    }
}
