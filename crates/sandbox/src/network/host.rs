//! What the host's own network looks like.

use std::io;

use super::NetworkError;

const ROUTES: &str = "/proc/net/ipv6_route";
const ADDRESSES: &str = "/proc/net/if_inet6";

/// The interface through which the host reaches the IPv6 Internet, if it does.
///
/// # Errors
/// When the kernel's tables cannot be read.
pub(super) fn ipv6_uplink() -> Result<Option<String>, NetworkError> {
    let routes = read(ROUTES)?;
    let addresses = read(ADDRESSES)?;
    Ok(uplink(&routes, &addresses).map(str::to_owned))
}

/// A table of a kernel; without IPv6 there is none.
fn read(path: &str) -> Result<String, NetworkError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(NetworkError::host(format!("read {path}"))(error)),
    }
}

/// The default route's interface, the best one first. Without a link-local address of its own it is of
/// no use to passt.
fn uplink<'a>(routes: &'a str, addresses: &str) -> Option<&'a str> {
    /// Route flag: packets are refused.
    const RTF_REJECT: u32 = 0x200;
    const ANYWHERE: &str = "00000000000000000000000000000000";
    let has_link_local = |interface: &str| {
        addresses.lines().any(|line| {
            line.starts_with("fe80") && line.split_whitespace().last() == Some(interface)
        })
    };
    let default_route = |line: &'a str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let &[destination, length, _, _, _, metric, _, _, flags, interface] = fields.as_slice()
        else {
            return None;
        };
        let flags = u32::from_str_radix(flags, 16).ok()?;
        let metric = u32::from_str_radix(metric, 16).ok()?;
        let usable = destination == ANYWHERE && length == "00" && flags & RTF_REJECT == 0;
        (usable && has_link_local(interface)).then_some((metric, interface))
    };
    let best = routes.lines().filter_map(default_route).min()?;
    Some(best.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ZERO: &str = "00000000000000000000000000000000";

    fn route(metric: &str, flags: &str, interface: &str) -> String {
        format!(
            "{ZERO} 00 {ZERO} 00 fd000000000000000000000000000001 {metric} 00000001 00000000 {flags} {interface:>8}\n"
        )
    }

    #[test]
    fn the_best_default_route_counts_and_a_refusing_one_does_not() {
        let addresses = "fe8000000000000000fc00fffe000001 02 40 20 80     eth0\n\
                         fe8000000000000000fc00fffe000002 03 40 20 80    wlan0\n";
        let routes = route("ffffffff", "00200200", "lo")
            + &route("00000800", "00450003", "wlan0")
            + &route("00000400", "00450003", "eth0");
        assert_eq!(uplink(&routes, addresses), Some("eth0"));
        assert_eq!(
            uplink(&route("ffffffff", "00200200", "lo"), addresses),
            None
        );
    }

    #[test]
    fn an_interface_without_a_link_local_address_is_no_uplink() {
        let routes = route("00000400", "00450003", "eth0");
        assert_eq!(uplink(&routes, ""), None);
    }

    #[test]
    fn this_hosts_tables_are_read() {
        ipv6_uplink().unwrap();
    }
}
