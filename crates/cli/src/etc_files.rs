//! The files that are mounted over a container's `/etc`.

use std::fmt::Write;
use std::net::IpAddr;
use std::path::PathBuf;
use std::{fs, io};

use hull_sandbox::network::{NetworkError, host_dns};
use oci_spec::runtime::Mount;

use crate::container::ContainerDir;
use crate::volume::{VolumeError, bind};

/// Why the files cannot be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EtcError {
    /// A file.
    #[error("cannot write {0}")]
    Write(PathBuf, #[source] io::Error),
    /// An `--add-host` that is none.
    #[error("{0:?} is not NAME:ADDRESS")]
    Host(String),
    /// A path that a specification cannot hold.
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// The host's name servers.
    #[error(transparent)]
    Network(#[from] NetworkError),
}

/// What is in the files.
#[derive(Debug, Clone, Default)]
pub(crate) struct EtcFiles {
    pub(crate) hostname: String,
    /// Name servers to use instead of the host's.
    pub(crate) dns: Vec<IpAddr>,
    /// `NAME:ADDRESS` each.
    pub(crate) hosts: Vec<String>,
    /// Without a network there is no name server.
    pub(crate) network: bool,
}

impl EtcFiles {
    /// Writes the files into the container's directory, and says how they are mounted.
    pub(crate) fn write(&self, dir: &ContainerDir) -> Result<Vec<Mount>, EtcError> {
        let files = [
            ("hostname", format!("{}\n", self.hostname)),
            ("hosts", self.hosts()?),
            ("resolv.conf", self.resolv_conf()?),
        ];
        let mut mounts = Vec::new();
        for (name, text) in files {
            let path = dir.data.join(name);
            fs::write(&path, text).map_err(|source| EtcError::Write(path.clone(), source))?;
            mounts.push(bind(&path, &format!("/etc/{name}"), false, "rprivate")?);
        }
        Ok(mounts)
    }

    fn hosts(&self) -> Result<String, EtcError> {
        let mut text = String::from(
            "127.0.0.1\tlocalhost\n\
             ::1\tlocalhost ip6-localhost ip6-loopback\n\
             fe00::\tip6-localnet\n\
             ff00::\tip6-mcastprefix\n\
             ff02::1\tip6-allnodes\n\
             ff02::2\tip6-allrouters\n",
        );
        for host in &self.hosts {
            let malformed = || EtcError::Host(host.clone());
            let (name, address) = host.split_once(':').ok_or_else(malformed)?;
            let address: IpAddr = address.parse().map_err(|_| malformed())?;
            let name = crate::values::name::parse_host(name).map_err(|_| malformed())?;
            writeln!(text, "{address}\t{name}").expect("a String takes everything");
        }
        writeln!(text, "127.0.1.1\t{}", self.hostname).expect("a String takes everything");
        Ok(text)
    }

    fn resolv_conf(&self) -> Result<String, EtcError> {
        if !self.network {
            return Ok(String::new());
        }
        let mut dns = host_dns()?;
        if !self.dns.is_empty() {
            dns.servers.clone_from(&self.dns);
        }
        Ok(dns.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_asked_for_or_none_without_a_network() {
        let mut files = EtcFiles {
            dns: vec!["192.0.2.1".parse().unwrap()],
            ..EtcFiles::default()
        };
        assert_eq!(files.resolv_conf().unwrap(), "");
        files.network = true;
        let text = files.resolv_conf().unwrap();
        let servers = text.lines().filter(|line| line.starts_with("nameserver"));
        assert_eq!(servers.collect::<Vec<_>>(), ["nameserver 192.0.2.1"]);
    }

    #[test]
    fn hosts_are_added() {
        let files = |host: &str| EtcFiles {
            hostname: "box".to_owned(),
            hosts: vec![host.to_owned()],
            ..EtcFiles::default()
        };
        let text = files("db:10.0.0.2").hosts().unwrap();
        assert!(text.contains("10.0.0.2\tdb\n") && text.ends_with("127.0.1.1\tbox\n"));
        assert!(files("v6:::1").hosts().unwrap().contains("::1\tv6"));
        for bad in ["db", "db:x", "a b:1.2.3.4"] {
            assert!(files(bad).hosts().is_err(), "{bad}");
        }
    }
}
