//! What a container may have and do.

use std::fs;

use harness::engine::{Engine, is_hull};

/// Prints a limit of the process's control group, which has one name in version 2 and another in version 1.
fn limit(name: &str, old: &str) -> String {
    format!("cat /sys/fs/cgroup/{name} 2> /dev/null || cat /sys/fs/cgroup/{old}")
}

pub(crate) fn limits_hold(engine: &Engine) {
    let memory = limit("memory.max", "memory/memory.limit_in_bytes");
    let processes = limit("pids.max", "pids/pids.max");
    let cpu = limit("cpu.max", "cpu/cpu.cfs_quota_us");
    let options = ["--memory", "64m", "--cpus", "0.5", "--pids-limit", "50"];
    engine.start("box", &options, "sleep 1000");
    let seen = engine
        .exec("box", &format!("{memory}; {processes}; {cpu}"))
        .ok();
    let lines: Vec<_> = seen.split_whitespace().collect();
    assert_eq!(lines[..3], ["67108864", "50", "50000"], "{seen}");

    let update = [
        "update",
        "--memory",
        "96m",
        "--memory-swap",
        "96m",
        "--cpus",
        "0.75",
        "box",
    ];
    let _ = engine.call(update).ok();
    let seen = engine.exec("box", &format!("{memory}; {cpu}")).ok();
    let lines: Vec<_> = seen.split_whitespace().collect();
    assert_eq!(lines[..2], ["100663296", "75000"], "{seen}");
}

pub(crate) fn too_much_memory_ends_a_container(engine: &Engine) {
    let options = ["--memory", "32m", "--memory-swap", "32m"];
    // It takes memory without end.
    engine.start("box", &options, "exec tail /dev/zero");
    assert_eq!(engine.wait("box"), 137);
    // Podman's conmon does not always see it before the end, and both only look at the host's group.
    if engine.is_docker() && !is_hull() {
        assert_eq!(engine.inspect("box", "{{.State.OOMKilled}}"), "true");
    }
}

pub(crate) fn a_container_is_confined(engine: &Engine) {
    let profile = engine.dir().join("seccomp.json");
    let rules = r#"{"defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]}"#;
    fs::write(&profile, rules).expect("written");
    let profile = format!("seccomp={}", profile.display());
    let options = [
        "--user",
        "1000:1000",
        "--group-add",
        "50",
        "--cap-drop",
        "all",
        "--security-opt",
        &profile,
        "--security-opt",
        "no-new-privileges",
        "--hostname",
        "elsewhere",
        "--workdir",
        "/home/user",
        "--ulimit",
        "nofile=100:200",
        "--ulimit",
        "nproc=1000:1000",
        "--shm-size",
        "1m",
    ];
    let script = "id -u; id -G; hostname; pwd
        ulimit -Sn; ulimit -Hn
        grep -E 'CapEff|CapBnd|NoNewPrivs|^Seccomp:' /proc/self/status | tr -d '\\t'
        df -k /dev/shm | tail -n 1 | awk '{print $2}'
        mkdir /tmp/new 2>&1";
    let seen = engine.run(&options, script);
    let expected = "1000\n1000 50\nelsewhere\n/home/user\n100\n200\n\
        CapEff:0000000000000000\nCapBnd:0000000000000000\nNoNewPrivs:1\nSeccomp:2\n\
        1024\nmkdir: can't create directory '/tmp/new': Operation not permitted\n";
    assert_eq!(seen.stdout(), expected, "{}", seen.stderr());
}

pub(crate) fn capabilities_are_given_and_taken(engine: &Engine) {
    let options = [
        "--cap-drop",
        "all",
        "--cap-add",
        "net_raw",
        "--cap-add",
        "chown",
    ];
    let script = "grep CapEff /proc/self/status | tr -d '\\t'; chown 5 /tmp && stat -c %u /tmp";
    assert_eq!(
        engine.run(&options, script).ok(),
        "CapEff:0000000000002001\n5\n"
    );
    if !harness::engine::is_hull() {
        // Other runtimes may give no more than the machine itself has.
        return;
    }
    let options = ["--privileged"];
    let script = "mkdir /tmp/m && mount -t tmpfs none /tmp/m && grep -c /tmp/m /proc/mounts";
    assert_eq!(engine.run(&options, script).ok(), "1\n");
}
