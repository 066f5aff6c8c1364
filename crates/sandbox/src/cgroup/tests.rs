use serde_json::json;

use super::*;

const MIB: u64 = 1 << 20;
/// A guest of 128 MiB, of which the container may have 64, and 256 MiB on the host.
const FOOTPRINT: Footprint = Footprint {
    most: 384 * MIB,
    overhead: 320 * MIB,
};

fn limits(resources: serde_json::Value) -> HostLimits {
    HostLimits::of(Some(&serde_json::from_value(resources).unwrap()))
}

/// A hierarchy that is none: files that take everything.
struct Fake {
    dir: tempfile::TempDir,
    group: HostCgroup,
}

impl Fake {
    fn new(version: Version, files: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            let path = match version {
                Version::One => {
                    let controller = file.split('.').next().unwrap();
                    dir.path().join(controller).join("g").join(file)
                }
                Version::Two => dir.path().join("g").join(file),
            };
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let group = HostCgroup::below(dir.path(), version, "g".into()).unwrap();
        Self { dir, group }
    }

    fn one() -> Self {
        let fake = Self::new(
            Version::One,
            &[
                "memory.limit_in_bytes",
                "memory.memsw.limit_in_bytes",
                "memory.soft_limit_in_bytes",
                "cpu.shares",
                "cpu.cfs_quota_us",
                "cpu.cfs_period_us",
                "cpuset.cpus",
                "cpuset.mems",
                "blkio.bfq.weight",
            ],
        );
        fake.put("memory/g/memory.limit_in_bytes", "9223372036854771712");
        fake.put(
            "memory/g/memory.memsw.limit_in_bytes",
            "9223372036854771712",
        );
        fake
    }

    fn two() -> Self {
        let fake = Self::new(
            Version::Two,
            &[
                "memory.max",
                "memory.low",
                "memory.swap.max",
                "cpu.weight",
                "cpu.max",
                "cpuset.cpus",
                "cpuset.mems",
                "io.weight",
            ],
        );
        fake.put("g/memory.max", "max");
        fake.put("g/cpu.max", "max 100000");
        fake
    }

    fn put(&self, file: &str, text: &str) {
        fs::write(self.dir.path().join(file), text).unwrap();
    }

    /// What was written, and left of what there was before.
    fn of(&self, file: &str) -> String {
        fs::read_to_string(self.dir.path().join(file)).unwrap()
    }
}

fn everything() -> HostLimits {
    limits(json!({
        "memory": {"limit": 64 * MIB, "swap": 96 * MIB, "reservation": 32 * MIB},
        "cpu": {"shares": 1024, "quota": 50_000, "period": 200_000, "cpus": "0-1", "mems": "0"},
        "blockIO": {"weight": 1000},
        "pids": {"limit": 5},
    }))
}

#[test]
fn paths_of_both_drivers_are_understood() {
    let relative = |path| relative(path).ok();
    assert_eq!(relative("/k8s.io/abc"), Some("k8s.io/abc".into()));
    assert_eq!(
        relative("kubepods-burstable-pod1.slice:cri-containerd:abc"),
        Some(
            "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice/cri-containerd-abc.scope"
                .into()
        )
    );
    assert_eq!(
        relative("system.slice::x"),
        Some("system.slice/x.scope".into())
    );
    for path in ["", "/", "../x", "/a/../b", "a:b", "a:b:c:d"] {
        assert_eq!(relative(path), None, "{path}");
    }
}

#[test]
fn all_limits_are_in_the_files_of_version_2() {
    let fake = Fake::two();
    let limits = everything();
    fake.group.limit(&limits, FOOTPRINT).unwrap();
    assert_eq!(
        fake.of("g/cpu.max"),
        "max 100000",
        "not before the guest is up"
    );
    fake.group.limit_cpu_time(&limits).unwrap();
    for (file, value) in [
        ("memory.max", (384 * MIB).to_string()),
        ("memory.swap.max", (32 * MIB).to_string()),
        ("memory.low", (352 * MIB).to_string()),
        ("cpu.weight", "39".to_owned()),
        ("cpu.max", "50000 200000".to_owned()),
        ("cpuset.cpus", "0-1".to_owned()),
        ("cpuset.mems", "0".to_owned()),
        ("io.weight", "10000".to_owned()),
    ] {
        assert_eq!(fake.of(&format!("g/{file}")), value, "{file}");
    }
}

#[test]
fn all_limits_are_in_the_files_of_version_1() {
    let fake = Fake::one();
    let limits = everything();
    fake.group.limit(&limits, FOOTPRINT).unwrap();
    assert_eq!(fake.of("cpu/g/cpu.cfs_quota_us"), "");
    fake.group.limit_cpu_time(&limits).unwrap();
    for (file, value) in [
        (
            "memory/g/memory.soft_limit_in_bytes",
            (352 * MIB).to_string(),
        ),
        ("cpu/g/cpu.shares", "1024".to_owned()),
        ("cpu/g/cpu.cfs_quota_us", "50000".to_owned()),
        ("cpu/g/cpu.cfs_period_us", "200000".to_owned()),
        ("cpuset/g/cpuset.cpus", "0-1".to_owned()),
        ("cpuset/g/cpuset.mems", "0".to_owned()),
        ("blkio/g/blkio.bfq.weight", "1000".to_owned()),
    ] {
        assert_eq!(fake.of(file), value, "{file}");
    }
    // A file that is none keeps what is behind what was written.
    let limit = fake.of("memory/g/memory.limit_in_bytes");
    assert!(limit.starts_with(&(384 * MIB).to_string()), "{limit}");
    let both = fake.of("memory/g/memory.memsw.limit_in_bytes");
    assert!(both.starts_with(&(416 * MIB).to_string()), "{both}");
}

#[test]
fn an_update_changes_what_it_names() {
    let fake = Fake::two();
    let only = |resources| {
        let limits = limits(resources).with_memory(Some(64 * MIB));
        fake.group.limit(&limits, FOOTPRINT)?;
        fake.group.limit_cpu_time(&limits)
    };
    only(json!({"cpu": {"quota": 20_000}})).unwrap();
    assert!(fake.of("g/cpu.max").starts_with("20000"));
    fake.put("g/cpu.max", "20000 100000");
    only(json!({"cpu": {"period": 50_000}})).unwrap();
    assert!(fake.of("g/cpu.max").starts_with("20000 50000"));
    assert_eq!(fake.of("g/memory.max"), "max");

    only(json!({"memory": {"swap": 128 * MIB}})).unwrap();
    assert_eq!(fake.of("g/memory.swap.max"), (64 * MIB).to_string());
    let less = only(json!({"memory": {"swap": 32 * MIB}}));
    assert!(matches!(less, Err(SandboxError::Invalid(_))), "{less:?}");

    fake.put("g/memory.max", "");
    fake.put("g/memory.swap.max", "");
    only(json!({"memory": {"limit": -1}})).unwrap();
    assert_eq!(
        (fake.of("g/memory.max"), fake.of("g/memory.swap.max")),
        ("max".to_owned(), "max".to_owned())
    );
}

#[test]
fn a_machine_that_grows_gets_room_where_there_is_a_limit() {
    let two = Fake::two();
    two.group.make_room(FOOTPRINT).unwrap();
    assert_eq!(two.of("g/memory.max"), "max");
    two.put("g/memory.max", &(400 * MIB).to_string());
    two.group.make_room(FOOTPRINT).unwrap();
    assert_eq!(two.of("g/memory.max"), (400 * MIB).to_string());
    two.put("g/memory.max", &(300 * MIB).to_string());
    two.group.make_room(FOOTPRINT).unwrap();
    assert_eq!(two.of("g/memory.max"), (384 * MIB).to_string());

    let one = Fake::one();
    one.group.make_room(FOOTPRINT).unwrap();
    let unlimited = "9223372036854771712";
    assert_eq!(one.of("memory/g/memory.limit_in_bytes"), unlimited);
    one.put("memory/g/memory.limit_in_bytes", &(300 * MIB).to_string());
    one.put(
        "memory/g/memory.memsw.limit_in_bytes",
        &(310 * MIB).to_string(),
    );
    one.group.make_room(FOOTPRINT).unwrap();
    assert_eq!(
        (
            one.of("memory/g/memory.limit_in_bytes"),
            one.of("memory/g/memory.memsw.limit_in_bytes")
        ),
        ((384 * MIB).to_string(), (394 * MIB).to_string())
    );
}

#[test]
fn weights_count_where_the_disks_scheduler_knows_them() {
    let fake = Fake::new(Version::Two, &["cpu.max"]);
    let weight = limits(json!({"blockIO": {"weight": 500}}));
    fake.group.limit(&weight, FOOTPRINT).unwrap();
    let missing = limits(json!({"cpu": {"shares": 2}}));
    let missing = fake.group.limit(&missing, FOOTPRINT).unwrap_err();
    assert!(missing.to_string().contains("cpu.weight"), "{missing}");
}

#[test]
fn what_limits_nothing_is_empty() {
    for nothing in [
        json!({}),
        json!({"memory": {"limit": 0}, "cpu": {"quota": 0, "cpus": ""}}),
        json!({"memory": {"limit": -1, "swap": -1}, "cpu": {"quota": -1, "period": 100_000}}),
        json!({"pids": {"limit": 5}}),
    ] {
        assert!(limits(nothing.clone()).is_empty(), "{nothing}");
    }
    for some in [
        json!({"memory": {"reservation": 1}}),
        json!({"cpu": {"shares": 2}}),
        json!({"cpu": {"cpus": "0"}}),
    ] {
        assert!(!limits(some.clone()).is_empty(), "{some}");
    }
}

#[test]
fn controllers_are_handed_down_to_the_group() {
    let dir = tempfile::tempdir().unwrap();
    for at in ["", "a", "a/b"] {
        let at = dir.path().join(at);
        fs::create_dir_all(&at).unwrap();
        fs::write(at.join("cgroup.controllers"), "cpu io memory rdma\n").unwrap();
        fs::write(at.join("cgroup.subtree_control"), "").unwrap();
    }
    fs::write(dir.path().join("cgroup.subtree_control"), "cpu").unwrap();
    let group = HostCgroup::below(dir.path(), Version::Two, "a/b".into()).unwrap();
    group.enter(None).unwrap();
    let on = |at| fs::read_to_string(dir.path().join(at).join("cgroup.subtree_control")).unwrap();
    assert_eq!(
        (on("").as_str(), on("a").as_str()),
        ("+io +memory", "+cpu +io +memory")
    );
    assert_eq!(
        on("a/b"),
        "",
        "a group with processes has none below that are limited"
    );
    let entered = fs::read_to_string(dir.path().join("a/b/cgroup.procs"));
    assert_eq!(entered.unwrap(), "0");
}

#[test]
fn a_group_has_the_cpus_of_the_one_above() {
    let dir = tempfile::tempdir().unwrap();
    for at in ["", "a", "a/b"] {
        let at = dir.path().join(CPUSET).join(at);
        fs::create_dir_all(&at).unwrap();
        fs::write(at.join("cpuset.cpus"), "\n").unwrap();
        fs::write(at.join("cpuset.mems"), "\n").unwrap();
    }
    let root = dir.path().join(CPUSET);
    fs::write(root.join("cpuset.cpus"), "0-3\n").unwrap();
    fs::write(root.join("cpuset.mems"), "0\n").unwrap();
    fs::write(root.join("a/cpuset.cpus"), "2\n").unwrap();
    create_cpuset(&root, Path::new("a/b")).unwrap();
    let of = |file| fs::read_to_string(root.join(file)).unwrap();
    assert_eq!(of("a/cpuset.cpus"), "2\n");
    assert_eq!(of("a/b/cpuset.cpus"), "2\n");
    assert_eq!(of("a/b/cpuset.mems"), "0\n");
}

/// A hierarchy that nobody may write to, which only the thread sees that is given it.
fn read_only(path: &Path) -> bool {
    use nix::mount::{MsFlags, mount};
    use nix::sched::{CloneFlags, unshare};

    let none = None::<&str>;
    let own = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
    unshare(CloneFlags::CLONE_NEWNS)
        .and_then(|()| mount(none, "/", none, own, none))
        .and_then(|()| mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::MS_RDONLY, none))
        .is_ok()
}

#[test]
fn only_a_pod_without_limits_does_without_a_group() {
    let dir = tempfile::tempdir().unwrap();
    if !read_only(dir.path()) {
        eprintln!("skipped: this user may not mount");
        return;
    }
    let group = HostCgroup::below(dir.path(), Version::Two, "a/b".into()).unwrap();
    group.enter(None).unwrap();
    group
        .enter(Some((&HostLimits::default(), FOOTPRINT)))
        .unwrap();
    let refused = group.enter(Some((&everything(), FOOTPRINT))).unwrap_err();
    assert!(
        refused.to_string().starts_with("cannot create"),
        "{refused}"
    );
    let late = group.limit(&everything(), FOOTPRINT);
    assert!(late.is_err(), "an update");
    group.leave().unwrap();
}

#[test]
fn systemd_itself_makes_the_scope_and_ends_it() {
    let path = format!("hulltest.slice:hull:test{}", std::process::id());
    let group = HostCgroup::new(&path);
    let Ok(group) = group.and_then(|group| match group.scope {
        Some(_) => Ok(group),
        None => Err(SandboxError::Unsupported("a host without systemd")),
    }) else {
        eprintln!("skipped: systemd does not run this machine, or this user is not root");
        return;
    };
    let limits = limits(json!({
        // Without swap, which not every kernel has.
        "memory": {"limit": 64 * MIB, "reservation": 32 * MIB},
        "cpu": {"shares": 1024, "quota": 50_000, "period": 100_000},
    }));
    let shown = |property: &str| {
        let unit = format!("hull-test{}.scope", std::process::id());
        let shown = std::process::Command::new("systemctl")
            .args(["show", "--value", "--property", property, &unit])
            .output()
            .unwrap();
        String::from_utf8(shown.stdout).unwrap().trim().to_owned()
    };
    // Twice: a name can be used again.
    for _ in 0..2 {
        group.enter(Some((&limits, FOOTPRINT))).unwrap();
        group.limit_cpu_time(&limits).unwrap();
        assert_eq!(shown("ActiveState"), "active");
        assert_eq!(shown("Slice"), "hulltest.slice");
        assert_eq!(shown("Delegate"), "yes");
        // As much in the files after systemd has written them all anew.
        let reloaded = std::process::Command::new("systemctl")
            .arg("daemon-reload")
            .status();
        assert!(reloaded.unwrap().success());
        if group.version == Version::Two {
            let own = origin(Path::new(ROOT));
            assert_eq!(group.file("memory", "memory.max"), own.join("memory.max"));
            let read = |file| fs::read_to_string(group.file("", file)).unwrap();
            assert_eq!(read("memory.max").trim(), (384 * MIB).to_string());
            assert_eq!(read("memory.low").trim(), (352 * MIB).to_string());
            assert_eq!(read("cpu.max").trim(), "50000 100000");
            assert_eq!(read("cpu.weight").trim(), "39");
        }
        group
            .make_room(Footprint {
                most: 500 * MIB,
                overhead: 0,
            })
            .unwrap();
        assert_eq!(shown("MemoryMax"), (500 * MIB).to_string());
        group.leave().unwrap();
        assert!(group.directories().all(|dir| !dir.exists()));
        assert_eq!(shown("ActiveState"), "inactive");
    }
}
