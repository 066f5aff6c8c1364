//! The file systems of a container.

use std::path::PathBuf;

use oci_spec::runtime::Mount;

use super::Request;

/// A mount in the words of the OCI runtime specification.
pub(crate) fn mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> Mount {
    let mut mount = Mount::default();
    mount.set_destination(PathBuf::from(destination));
    mount.set_typ(Some(kind.to_owned()));
    mount.set_source(Some(PathBuf::from(source)));
    mount.set_options(Some(
        options.iter().map(|option| (*option).to_owned()).collect(),
    ));
    mount
}

/// The default mounts, then the request's. A default gives way to one that the person puts in its
/// place; parents come before what is below them.
pub(super) fn all(request: &Request) -> Vec<Mount> {
    let mut asked = request.mounts.clone();
    asked.sort_by_key(|mount| mount.destination().components().count());
    let taken = |default: &Mount| {
        asked
            .iter()
            .any(|mount| mount.destination() == default.destination())
    };
    let mut all = defaults(request);
    all.retain(|default| !taken(default));
    all.extend(asked);
    all
}

fn defaults(request: &Request) -> Vec<Mount> {
    let access = if request.privileged { "rw" } else { "ro" };
    let shm_size = format!("size={}", request.shm_bytes);
    vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount(
            "/dev",
            "tmpfs",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ],
        ),
        mount(
            "/sys",
            "sysfs",
            "sysfs",
            &["nosuid", "noexec", "nodev", access],
        ),
        mount(
            "/sys/fs/cgroup",
            "cgroup",
            "cgroup",
            &["nosuid", "noexec", "nodev", "relatime", access],
        ),
        mount(
            "/dev/mqueue",
            "mqueue",
            "mqueue",
            &["nosuid", "noexec", "nodev"],
        ),
        mount(
            "/dev/shm",
            "tmpfs",
            "shm",
            &["nosuid", "noexec", "nodev", "mode=1777", &shm_size],
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::tests::request;

    #[test]
    fn asked_mounts_replace_defaults_and_parents_come_first() {
        let mounts = all(&Request {
            mounts: vec![
                mount("/a/b", "bind", "/y", &[]),
                mount("/a", "bind", "/x", &[]),
                mount("/dev/shm", "tmpfs", "tmpfs", &["size=1m"]),
            ],
            ..request()
        });
        let at = |path: &str| -> Vec<_> {
            let found = mounts
                .iter()
                .enumerate()
                .filter(|(_, m)| m.destination().to_str() == Some(path));
            found.map(|(index, _)| index).collect()
        };
        assert!(at("/a") < at("/a/b"));
        assert_eq!(at("/dev/shm").len(), 1);
        assert_eq!(at("/proc"), [0]);
    }
}
