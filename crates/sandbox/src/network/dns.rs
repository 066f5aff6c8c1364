//! Where the pod's programs resolve names.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr};

use super::{NetworkError, RESOLVER_V4};

const HOST_FILE: &str = "/etc/resolv.conf";

/// What goes into the pod's `/etc/resolv.conf`; its `Display` is that file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dns {
    /// Name servers as the pod reaches them.
    pub servers: Vec<IpAddr>,
    /// Domains that are appended to short names.
    pub search: Vec<String>,
    /// Options of the resolver library.
    pub options: Vec<String>,
}

impl Dns {
    /// What the host uses, as the pod reaches it.
    ///
    /// # Errors
    /// When the host's file exists and cannot be read.
    pub(super) fn of_host(ipv6: bool) -> Result<Self, NetworkError> {
        match std::fs::read_to_string(HOST_FILE) {
            Ok(text) => Ok(Self::from_host_file(&text, ipv6)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(NetworkError::host(format!("read {HOST_FILE}"))(error)),
        }
    }

    /// A server on the host's loopback, such as systemd-resolved, is reached at [`RESOLVER_V4`]. That
    /// address leads to the host's first IPv4 server, so it stands for no other.
    fn from_host_file(text: &str, ipv6: bool) -> Self {
        let mut dns = Self::default();
        let mut first_v4 = None;
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    // What does not parse (a link-local address with a zone, too) is of no use in
                    // the pod.
                    let Some(server) = words.next().and_then(|word| word.parse::<IpAddr>().ok())
                    else {
                        continue;
                    };
                    if server.is_ipv4() {
                        first_v4.get_or_insert(server);
                    }
                    let seen_from_pod = match server {
                        IpAddr::V4(address)
                            if address.is_loopback() || address.is_unspecified() =>
                        {
                            (first_v4 == Some(server)).then_some(IpAddr::V4(RESOLVER_V4))
                        }
                        IpAddr::V4(_) => Some(server),
                        IpAddr::V6(address) => {
                            let usable = ipv6
                                && !address.is_loopback()
                                && !address.is_unspecified()
                                && !address.is_unicast_link_local();
                            usable.then_some(server)
                        }
                    };
                    dns.servers.extend(seen_from_pod);
                }
                // The last line of them counts, as in the resolver library.
                Some("search" | "domain") => dns.search = words.map(str::to_owned).collect(),
                Some("options") => dns.options.extend(words.map(str::to_owned)),
                _ => {}
            }
        }
        dns
    }
}

/// The name servers in the text of a `resolv.conf` that are addresses of the loopback, but for 127.0.0.1: there it is a
/// program of the pod's own that answers.
pub(crate) fn on_loopback(text: &str) -> Vec<Ipv4Addr> {
    /// What follows, no resolver library reads.
    const MOST: usize = 3;
    let servers = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next())?
    });
    let addresses = servers.take(MOST).filter_map(|word| word.parse().ok());
    addresses
        .filter(|address: &Ipv4Addr| address.is_loopback() && *address != Ipv4Addr::LOCALHOST)
        .collect()
}

impl fmt::Display for Dns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for server in &self.servers {
            writeln!(f, "nameserver {server}")?;
        }
        for (keyword, words) in [("search", &self.search), ("options", &self.options)] {
            if !words.is_empty() {
                writeln!(f, "{keyword} {}", words.join(" "))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resolver_on_the_hosts_loopback_is_reached_at_an_address_of_the_pods_link() {
        let text =
            "# a stub\nnameserver 127.0.0.53\noptions edns0 trust-ad\nsearch a.example b.example\n";
        let dns = Dns::from_host_file(text, true);
        assert_eq!(
            dns.to_string(),
            "nameserver 10.72.85.3\nsearch a.example b.example\noptions edns0 trust-ad\n"
        );
    }

    #[test]
    fn other_servers_are_used_as_they_are() {
        let text = "nameserver 192.0.2.53\nnameserver 2001:db8::53\nnameserver fe80::1%eth0\n";
        let v4: IpAddr = "192.0.2.53".parse().unwrap();
        let v6: IpAddr = "2001:db8::53".parse().unwrap();
        assert_eq!(Dns::from_host_file(text, true).servers, [v4, v6]);
        assert_eq!(Dns::from_host_file(text, false).servers, [v4]);
    }

    #[test]
    fn the_pods_resolver_address_stands_for_the_first_server_only() {
        let text = "nameserver 192.0.2.53\nnameserver 127.0.0.1\n";
        let first: IpAddr = "192.0.2.53".parse().unwrap();
        assert_eq!(Dns::from_host_file(text, false).servers, [first]);
        let text = "nameserver ::1\nnameserver 127.0.0.1\nnameserver 127.0.0.2\n";
        let dns = Dns::from_host_file(text, true);
        assert_eq!(dns.servers, [IpAddr::V4(RESOLVER_V4)]);
    }

    #[test]
    fn servers_on_the_pods_loopback_are_found() {
        let text = "search x\nnameserver 127.0.0.11\nnameserver ::1\nnameserver 127.0.0.1\n\
                    nameserver 127.0.0.12\noptions ndots:0\n";
        assert_eq!(on_loopback(text), [Ipv4Addr::new(127, 0, 0, 11)]);
        assert!(
            on_loopback("nameserver\n# nameserver 127.0.0.11\nnameserver 192.0.2.1\n").is_empty()
        );
    }
}
