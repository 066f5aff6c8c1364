//! `spec`.

use oci_spec::runtime::Spec;
use serde_json::{Value, json};

use super::SPEC_VERSION;
use crate::arguments::SpecArgs;
use crate::error::RuntimeError;

/// Writes `config.json` for a container that runs a shell on a terminal: something to begin with.
pub(super) fn spec(args: &SpecArgs) -> Result<(), RuntimeError> {
    let path = args.bundle.join("config.json");
    if path.exists() {
        return Err(RuntimeError::Invalid(format!(
            "file {} exists. Remove it first",
            path.display()
        )));
    }
    let text = serde_json::to_string_pretty(&example(args.rootless)).expect("plain data encodes");
    std::fs::write(&path, text + "\n")
        .map_err(RuntimeError::host(format!("write {}", path.display())))
}

fn example(rootless: bool) -> Value {
    let capabilities = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    let mut namespaces = vec!["pid", "network", "ipc", "uts", "mount", "cgroup"];
    if rootless {
        namespaces.push("user");
    }
    let namespaces: Vec<Value> = namespaces
        .into_iter()
        .map(|kind| json!({"type": kind}))
        .collect();
    let mut example = json!({
        "ociVersion": SPEC_VERSION,
        "process": {
            "terminal": true,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": true,
        },
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "hull",
        "mounts": mounts(),
        "linux": {
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "namespaces": namespaces,
            "maskedPaths": [
                "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
                "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi",
            ],
            "readonlyPaths": [
                "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger",
            ],
        },
    });
    if rootless {
        let map = |id: u32| json!([{"containerID": 0, "hostID": id, "size": 1}]);
        example["linux"]["uidMappings"] = map(nix::unistd::geteuid().as_raw());
        example["linux"]["gidMappings"] = map(nix::unistd::getegid().as_raw());
    }
    // What is written is what would be read.
    let spec: Spec = serde_json::from_value(example).expect("the example is a specification");
    serde_json::to_value(spec).expect("a specification encodes")
}

fn mounts() -> Value {
    let own = |destination: &str, kind: &str, options: &[&str]| json!({"destination": destination, "type": kind, "source": kind, "options": options});
    json!([
        own("/proc", "proc", &[]),
        own(
            "/dev",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"]
        ),
        own(
            "/dev/pts",
            "devpts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5"
            ]
        ),
        own(
            "/dev/shm",
            "tmpfs",
            &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]
        ),
        own("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        own("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        own(
            "/sys/fs/cgroup",
            "cgroup",
            &["nosuid", "noexec", "nodev", "relatime", "ro"]
        ),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_example_is_written_once() {
        let dir = tempfile::tempdir().unwrap();
        let args = SpecArgs {
            bundle: dir.path().to_owned(),
            rootless: true,
        };
        spec(&args).unwrap();
        let written = hull_sandbox::bundle_spec(dir.path()).unwrap();
        assert!(written.linux().as_ref().unwrap().uid_mappings().is_some());
        assert!(matches!(spec(&args), Err(RuntimeError::Invalid(_))));
    }
}
