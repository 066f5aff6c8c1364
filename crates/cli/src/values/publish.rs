//! Published ports: `[ADDRESS:][HOST_PORT:]CONTAINER_PORT[/PROTOCOL]`, each port possibly a range.

use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::ops::RangeInclusive;

use hull_sandbox::{Protocol, PublishedPort};

/// One `-p` option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Publish {
    address: Option<IpAddr>,
    /// None: any free port.
    host: Option<RangeInclusive<u16>>,
    container: RangeInclusive<u16>,
    protocol: Protocol,
}

/// Reads a `-p` option.
pub(crate) fn parse(text: &str) -> Result<Publish, String> {
    let malformed = || format!("{text:?} is not [ADDRESS:][HOST_PORT:]CONTAINER_PORT[/tcp|udp]");
    let (ports, protocol) = match text.split_once('/') {
        None => (text, Protocol::Tcp),
        Some((ports, "tcp")) => (ports, Protocol::Tcp),
        Some((ports, "udp")) => (ports, Protocol::Udp),
        Some(_) => return Err(malformed()),
    };
    let (rest, container) = match ports.rsplit_once(':') {
        None => (None, ports),
        Some((rest, container)) => (Some(rest), container),
    };
    let container = range(container).ok_or_else(malformed)?;
    let (address, host) = match rest {
        None => (None, None),
        Some(rest) => match rest.rsplit_once(':') {
            None => (None, Some(rest)),
            Some((address, host)) => (Some(address), Some(host)),
        },
    };
    let address = match address {
        None | Some("") => None,
        Some(address) => {
            let bare = address
                .strip_prefix('[')
                .and_then(|inner| inner.strip_suffix(']'))
                .unwrap_or(address);
            Some(bare.parse().map_err(|_| malformed())?)
        }
    };
    let host = match host {
        None | Some("") => None,
        Some(host) => Some(range(host).ok_or_else(malformed)?),
    };
    if host
        .as_ref()
        .is_some_and(|host| host.len() != container.len())
    {
        return Err(format!("the two port ranges of {text:?} differ in length"));
    }
    Ok(Publish {
        address,
        host,
        container,
        protocol,
    })
}

fn range(text: &str) -> Option<RangeInclusive<u16>> {
    let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port != 0);
    match text.split_once('-') {
        None => port(text).map(|port| port..=port),
        Some((first, last)) => {
            let range = port(first)?..=port(last)?;
            (!range.is_empty()).then_some(range)
        }
    }
}

/// Every port of the options, with a free port found for each that leaves the host's open.
pub(crate) fn resolve(options: &[Publish]) -> std::io::Result<Vec<PublishedPort>> {
    let mut published = Vec::new();
    for option in options {
        for (index, container) in option.container.clone().enumerate() {
            let host = match &option.host {
                Some(host) => host.clone().nth(index).unwrap_or(container),
                None => free_port(option.address, option.protocol)?,
            };
            published.push(PublishedPort {
                address: option.address,
                host,
                container,
                protocol: option.protocol,
            });
        }
    }
    Ok(published)
}

/// Asks the kernel for a port that nobody has now.
fn free_port(address: Option<IpAddr>, protocol: Protocol) -> std::io::Result<u16> {
    let any = IpAddr::from([0, 0, 0, 0]);
    let at = SocketAddr::new(address.unwrap_or(any), 0);
    let bound = match protocol {
        Protocol::Tcp => TcpListener::bind(at)?.local_addr()?,
        Protocol::Udp => UdpSocket::bind(at)?.local_addr()?,
    };
    Ok(bound.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dockers_forms_are_understood() {
        let ports = resolve(&[
            parse("8080:80").unwrap(),
            parse("127.0.0.1:53:53/udp").unwrap(),
            parse("[::1]:7000-7001:8000-8001/tcp").unwrap(),
        ])
        .unwrap();
        let brief: Vec<_> = ports
            .iter()
            .map(|p| (p.address, p.host, p.container, p.protocol))
            .collect();
        let localhost = Some(IpAddr::from([127, 0, 0, 1]));
        let localhost6 = Some("::1".parse().unwrap());
        assert_eq!(
            brief,
            [
                (None, 8080, 80, Protocol::Tcp),
                (localhost, 53, 53, Protocol::Udp),
                (localhost6, 7000, 8000, Protocol::Tcp),
                (localhost6, 7001, 8001, Protocol::Tcp),
            ]
        );
    }

    #[test]
    fn an_open_host_port_is_chosen() {
        let ports = resolve(&[parse("80").unwrap(), parse("127.0.0.1::81").unwrap()]).unwrap();
        assert!(ports.iter().all(|port| port.host != 0));
        assert_eq!(ports[1].container, 81);
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "",
            "0",
            "a:80",
            "80/sctp",
            "1-2:3",
            "9-8",
            "65536",
            "1.2.3:1:2",
            "80:",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
