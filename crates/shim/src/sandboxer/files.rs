//! The files that every container of a pod finds in `/etc`, where containerd leaves them to the sandbox.

use std::fs;
use std::path::{Path, PathBuf};

use hull_sandbox::SandboxError;

use super::cri::DnsConfig;

const HOST_HOSTS: &str = "/etc/hosts";
const HOST_RESOLV: &str = "/etc/resolv.conf";

/// Where the files of the pod in `state_dir` are.
#[must_use]
pub fn directory(state_dir: &Path) -> PathBuf {
    state_dir.join("etc")
}

/// Writes `hostname`, `hosts` and `resolv.conf`. A pod without name servers of its own has the host's.
pub(super) fn write(
    state_dir: &Path,
    hostname: &str,
    dns: Option<&DnsConfig>,
) -> Result<(), SandboxError> {
    let dir = directory(state_dir);
    fs::create_dir_all(&dir).map_err(SandboxError::host(format!("create {}", dir.display())))?;
    let put = |name: &str, text: String| {
        let path = dir.join(name);
        fs::write(&path, text).map_err(SandboxError::host(format!("write {}", path.display())))
    };
    put("hostname", format!("{hostname}\n"))?;
    put("hosts", host_file(HOST_HOSTS)?)?;
    let resolver = match dns.map(resolver_file) {
        Some(text) if !text.is_empty() => text,
        Some(_) | None => host_file(HOST_RESOLV)?,
    };
    put("resolv.conf", resolver)
}

/// A host without it has nothing to say.
fn host_file(path: &str) -> Result<String, SandboxError> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        read => read.map_err(SandboxError::host(format!("read {path}"))),
    }
}

fn resolver_file(dns: &DnsConfig) -> String {
    let mut text = String::new();
    for (word, values) in [("search", &dns.searches), ("options", &dns.options)] {
        if !values.is_empty() {
            text.push_str(&format!("{word} {}\n", values.join(" ")));
        }
    }
    for server in &dns.servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pods_name_servers_are_its_own() {
        let dns = DnsConfig {
            servers: vec!["192.0.2.1".to_owned(), "2001:db8::1".to_owned()],
            searches: vec!["a.example".to_owned(), "b.example".to_owned()],
            options: vec!["ndots:5".to_owned()],
            ..Default::default()
        };
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "web", Some(&dns)).unwrap();
        let read = |name| fs::read_to_string(directory(dir.path()).join(name)).unwrap();
        assert_eq!(
            read("resolv.conf"),
            "search a.example b.example\noptions ndots:5\nnameserver 192.0.2.1\nnameserver 2001:db8::1\n"
        );
        assert_eq!(read("hostname"), "web\n");
        assert_eq!(read("hosts"), host_file(HOST_HOSTS).unwrap());
    }

    #[test]
    fn without_any_they_are_the_hosts() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "web", Some(&DnsConfig::default())).unwrap();
        let text = fs::read_to_string(directory(dir.path()).join("resolv.conf")).unwrap();
        assert_eq!(text, host_file(HOST_RESOLV).unwrap());
    }
}
