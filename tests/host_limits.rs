//! What the host limits a pod to that is one container: Docker's, `ctr run`'s.

use std::fs;
use std::path::{Path, PathBuf};

use containerd_shim_protos::api::UpdateTaskRequest;
use containerd_shim_protos::protobuf::MessageField;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::shim_async::TaskClient;
use harness::Outcome;
use harness::containerd::{BUSYBOX, Containerd, RUNTIME};
use harness::machine::vmm;
use harness::traces::pods_only;
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;
/// What a machine whose guest has so much memory may take of the host, as the settings are.
const fn whole(guest_mib: u64) -> u64 {
    (guest_mib + 256) * MIB + guest_mib * MIB / 64
}

/// Starts `c`, which waits, in a control group of the test's own.
fn start(containerd: &Containerd, options: &[&str]) {
    let group = format!("{}/c", containerd.cgroup());
    let mut arguments = vec!["run", "-d", "--runtime", RUNTIME, "--cgroup", &group];
    arguments.extend(options);
    arguments.extend([BUSYBOX, "c", "sleep", "1000"]);
    let _ = containerd.ctr(arguments).ok();
}

/// `ctr task exec` of a script in `c`.
fn exec(containerd: &Containerd, script: &str) -> Outcome {
    containerd.ctr(["task", "exec", "--exec-id", "e", "c", "sh", "-c", script])
}

/// Ends `c` and removes it.
fn end(containerd: &Containerd) {
    let _ = containerd.ctr(["task", "rm", "--force", "c"]).ok();
    let _ = containerd.ctr(["containers", "rm", "c"]).ok();
    containerd.assert_no_pods();
}

/// The pod's group: that of its VMM.
struct Group {
    memberships: String,
}

impl Group {
    fn of(containerd: &Containerd) -> Self {
        let vmm = pods_only(vmm(), &containerd.hull_root());
        let memberships = fs::read_to_string(format!("/proc/{vmm}/cgroup")).expect("read");
        Self { memberships }
    }

    /// The directory of the hierarchy with a controller, or the only one there is.
    fn dir(&self, controller: &str) -> PathBuf {
        let root = Path::new("/sys/fs/cgroup");
        let (hierarchy, named) = match is_version_2() {
            true => (root.to_owned(), ""),
            false => (root.join(controller), controller),
        };
        let line = self.memberships.lines().find_map(|line| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            let found = controllers.split(',').any(|one| one == named);
            found.then(|| path.trim_start_matches('/'))
        });
        hierarchy.join(line.expect("a group"))
    }

    fn read(&self, controller: &str, file: &str) -> String {
        let text = fs::read_to_string(self.dir(controller).join(file)).expect("read");
        text.trim().to_owned()
    }

    fn memory(&self) -> u64 {
        let file = match is_version_2() {
            true => "memory.max",
            false => "memory.limit_in_bytes",
        };
        self.read("memory", file).parse().expect("a limit")
    }

    /// Bytes of the most memory that was in use.
    fn most_memory(&self) -> u64 {
        let file = match is_version_2() {
            true => "memory.peak",
            false => "memory.max_usage_in_bytes",
        };
        self.read("memory", file).parse().expect("a number")
    }

    /// Quota and period.
    fn cpu(&self) -> (String, String) {
        if !is_version_2() {
            let read = |file| self.read("cpu", file);
            return (read("cpu.cfs_quota_us"), read("cpu.cfs_period_us"));
        }
        let text = self.read("cpu", "cpu.max");
        let (quota, period) = text.split_once(' ').expect("both");
        (quota.to_owned(), period.to_owned())
    }

    fn assert_unlimited(&self) {
        let file = match is_version_2() {
            true => "memory.max",
            false => "memory.limit_in_bytes",
        };
        let memory = self.read("memory", file);
        let unlimited = ["max", "9223372036854771712"];
        assert!(unlimited.contains(&memory.as_str()), "{memory}");
        let (quota, _) = self.cpu();
        assert!(["max", "-1"].contains(&quota.as_str()), "{quota}");
    }

    fn weight(&self) -> String {
        match is_version_2() {
            true => self.read("cpu", "cpu.weight"),
            false => self.read("cpu", "cpu.shares"),
        }
    }
}

fn is_version_2() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// Bytes of memory that the container may use, as its guest says.
fn limit_in_guest(containerd: &Containerd) -> u64 {
    let metrics = ["task", "metrics", "--format", "json", "c"];
    let metrics = containerd.ctr(metrics).ok();
    let metrics: Value = serde_json::from_str(&metrics).expect("JSON");
    metrics["memory"]["usage_limit"].as_u64().expect("a limit")
}

/// What an engine tells the pod process when somebody changes a container's limits.
async fn update(containerd: &Containerd, resources: Value) -> Result<(), String> {
    let socket = containerd.only_state_dir().join("task.sock");
    let address = format!("unix://{}", socket.display());
    let client = ttrpc::asynchronous::Client::connect(&address).await;
    let request = UpdateTaskRequest {
        id: "c".to_owned(),
        resources: MessageField::some(Any {
            value: serde_json::to_vec(&resources).expect("JSON"),
            ..Default::default()
        }),
        ..Default::default()
    };
    let updated = TaskClient::new(client.expect("it listens"))
        .update(ttrpc::context::with_timeout(0), &request)
        .await;
    updated.map(drop).map_err(|error| error.to_string())
}

#[test]
fn a_container_has_its_limits_on_the_host_and_runs_out_of_memory_in_the_guest() {
    let containerd = Containerd::new();
    let options = ["--memory-limit", "67108864", "--cpu-quota", "150000"];
    let more = ["--cpu-period", "100000", "--cpu-shares", "512"];
    start(&containerd, &[options, more].concat());
    let group = Group::of(&containerd);
    let own = format!("{}/c", containerd.cgroup());
    assert!(group.dir("memory").ends_with(&own[1..]), "{own}");
    assert_eq!(group.memory(), whole(64 + 64));
    assert_eq!(group.cpu(), ("150000".to_owned(), "100000".to_owned()));
    let weight = if is_version_2() { "20" } else { "512" };
    assert_eq!(group.weight(), weight);

    // Killed where the limit is the container's own, again and again.
    for _ in 0..3 {
        assert_eq!(exec(&containerd, "tail /dev/zero").code(), 137);
    }
    // Files of many times the memory.
    let files = "dd if=/dev/zero of=/file bs=1M count=300 2>/dev/null && cat /file | wc -c";
    assert_eq!(exec(&containerd, files).ok(), "314572800\n");
    let used = group.most_memory();
    assert!(used > 64 * MIB && used <= group.memory(), "{used}");
    end(&containerd);
}

#[test]
fn a_container_without_limits_has_none_on_the_host() {
    let containerd = Containerd::new();
    start(&containerd, &[]);
    let group = Group::of(&containerd);
    group.assert_unlimited();
    end(&containerd);
}

#[tokio::test]
async fn an_update_changes_the_hosts_limits_too() {
    let containerd = Containerd::new();
    start(&containerd, &["--memory-limit", "67108864"]);
    let group = Group::of(&containerd);
    let more =
        json!({"memory": {"limit": 256 * MIB}, "cpu": {"quota": 150_000, "period": 100_000}});
    update(&containerd, more).await.expect("updated");
    assert_eq!(limit_in_guest(&containerd), 256 * MIB);
    // The guest has taken blocks of 128 MiB into use.
    assert_eq!(group.memory(), whole(64 + 64 + 2 * 128));
    assert_eq!(group.cpu().0, "150000");
    // All of which it can have.
    let use_it = "awk 'BEGIN {s = sprintf(\"%1048576s\", \"x\"); for (i = 0; i < 220; i++) a[i] = s i; print length(a)}'";
    assert_eq!(exec(&containerd, use_it).ok(), "220\n");

    let cpus = json!({"cpu": {"cpus": "0", "mems": "0"}});
    update(&containerd, cpus).await.expect("updated");
    assert_eq!(group.read("cpuset", "cpuset.cpus"), "0");

    // The machine does not become smaller, and what it has is the guest's to use.
    let less = json!({"memory": {"limit": 32 * MIB}, "cpu": {"quota": 50_000}});
    update(&containerd, less).await.expect("updated");
    assert_eq!(limit_in_guest(&containerd), 32 * MIB);
    assert_eq!(group.memory(), whole(64 + 64 + 2 * 128));
    assert_eq!(group.cpu().0, "50000");
    assert_eq!(exec(&containerd, "tail /dev/zero").code(), 137);
    assert_eq!(exec(&containerd, "echo lives").ok(), "lives\n");

    let none = json!({"memory": {"limit": -1}, "cpu": {"quota": -1}});
    update(&containerd, none).await.expect("updated");
    group.assert_unlimited();

    let refused = update(&containerd, json!({"cpu": {"cpus": "4000"}})).await;
    assert!(refused.is_err_and(|error| error.contains("cpuset.cpus")));
    end(&containerd);
}
