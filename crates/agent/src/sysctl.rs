//! Kernel parameters.

use std::path::PathBuf;

/// The file of a parameter, named as sysctl(8) does: "net.ipv4.ip_forward", or with slashes where
/// a part has a dot in it ("net/ipv4/conf/eth0.1/forwarding"). `None` for a name that leads
/// elsewhere.
pub(crate) fn path(name: &str) -> Option<PathBuf> {
    // Whichever separator comes first is the separator; the other one is part of a name.
    let first = name.find(['.', '/'])?;
    let relative: String = if name[first..].starts_with('.') {
        name.chars()
            .map(|c| match c {
                '.' => '/',
                '/' => '.',
                other => other,
            })
            .collect()
    } else {
        name.to_owned()
    };
    let proper = relative
        .split('/')
        .all(|part| !part.is_empty() && part != "." && part != "..");
    proper.then(|| PathBuf::from("/proc/sys").join(relative))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_and_slashes_both_separate() {
        let forward = PathBuf::from("/proc/sys/net/ipv4/ip_forward");
        assert_eq!(path("net.ipv4.ip_forward"), Some(forward.clone()));
        assert_eq!(path("net/ipv4/ip_forward"), Some(forward));
        let vlan = PathBuf::from("/proc/sys/net/ipv4/conf/eth0.1/forwarding");
        assert_eq!(path("net.ipv4.conf.eth0/1.forwarding"), Some(vlan));
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for name in ["", "kernel", "/etc/passwd", "net/../../etc", "a..b", "./x"] {
            assert_eq!(path(name), None, "{name}");
        }
    }
}
