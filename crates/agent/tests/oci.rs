//! What the specification says, seen from inside the container.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "each test program uses its own part")]
mod support;

use std::os::unix::fs::PermissionsExt;

use serde_json::json;
use support::{Guest, Setup, unique};

/// The output of a script that must succeed.
async fn output(guest: &Guest, setup: &Setup) -> String {
    let outcome = guest.run(setup).await;
    assert_eq!(outcome.status, 0, "{outcome:?}");
    outcome.stdout
}

macro_rules! guest {
    () => {
        match Guest::start().await {
            Some(guest) => guest,
            None => return,
        }
    };
}

#[tokio::test]
async fn names_environment_and_directory() {
    let guest = guest!();
    let setup = Setup::shell("hostname; cat /proc/sys/kernel/domainname; pwd; echo $GREETING; env")
        .spec("domainname", json!("example"))
        .process("cwd", json!("/made/for/this"))
        .process("env", json!(["PATH=/bin", "GREETING=hello", "A=1=2"]));
    let text = output(&guest, &setup).await;
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[..4], ["box", "example", "/made/for/this", "hello"]);
    assert!(lines.contains(&"A=1=2") && lines.contains(&"HOME=/root"));
}

#[tokio::test]
async fn users_groups_and_umask() {
    let guest = guest!();
    let setup = Setup::shell(
        "id -u; id -g; id -G; umask; echo $HOME; touch /tmp/f; stat -c %a /tmp/f; rm /tmp/f",
    )
    .process(
        "user",
        json!({"uid": 1000, "gid": 1001, "additionalGids": [5, 44], "umask": 0o027}),
    );
    let text = output(&guest, &setup).await;
    assert_eq!(text, "1000\n1001\n1001 5 44\n0027\n/home/user\n640\n");
}

#[tokio::test]
async fn standard_streams_can_be_opened_again_by_any_user() {
    let guest = guest!();
    let setup = Setup::shell("echo one > /dev/stdout; echo two > /dev/stderr; cat /dev/stdin")
        .process("user", json!({"uid": 1000, "gid": 1000}))
        .stdin(b"three");
    let outcome = guest.run(&setup).await;
    assert_eq!(outcome.stdout, "one\nthree");
    assert_eq!(outcome.stderr, "two\n");
}

#[tokio::test]
async fn capabilities_are_those_given() {
    let guest = guest!();
    let caps = json!(["CAP_CHOWN", "CAP_NET_BIND_SERVICE"]);
    let sets = json!({"bounding": caps, "effective": caps, "permitted": caps});
    let script = "grep -E 'Cap|NoNew' /proc/self/status | tr -d '\\t\\n'";
    let setup = Setup::shell(script).process("capabilities", sets);
    assert_eq!(
        output(&guest, &setup).await,
        "CapInh:0000000000000000CapPrm:0000000000000401CapEff:0000000000000401\
         CapBnd:0000000000000401CapAmb:0000000000000000NoNewPrivs:0"
    );
    // Another user keeps what is ambient.
    let sets = json!({"bounding": caps, "effective": caps, "permitted": caps,
        "inheritable": caps, "ambient": caps});
    let setup = Setup::shell(script)
        .process("capabilities", sets)
        .process("noNewPrivileges", json!(true))
        .process("user", json!({"uid": 1000, "gid": 1000}));
    assert_eq!(
        output(&guest, &setup).await,
        "CapInh:0000000000000401CapPrm:0000000000000401CapEff:0000000000000401\
         CapBnd:0000000000000401CapAmb:0000000000000401NoNewPrivs:1"
    );
}

#[tokio::test]
async fn a_program_may_be_run_by_right_of_a_capability() {
    let guest = guest!();
    let program = guest.root.join("tmp/sh");
    std::fs::copy(guest.root.join("bin/busybox"), &program).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o744)).unwrap();
    let setup = Setup::new(&["/tmp/sh", "-c", "echo ran"])
        .process("user", json!({"uid": 1000, "gid": 1000}));
    let none = setup.clone().process("capabilities", json!({}));
    assert!(guest.try_run(&none).await.is_err());
    let caps = json!(["CAP_DAC_OVERRIDE"]);
    let sets = json!({"bounding": caps, "effective": caps, "permitted": caps});
    let setup = setup.process("capabilities", sets);
    assert_eq!(output(&guest, &setup).await, "ran\n");
}

#[tokio::test]
async fn limits_and_oom_score() {
    let guest = guest!();
    let limits = json!([
        {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200},
        {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}
    ]);
    let setup = Setup::shell("ulimit -Sn; ulimit -Hn; ulimit -c; cat /proc/self/oom_score_adj")
        .process("rlimits", limits)
        .process("oomScoreAdj", json!(321));
    assert_eq!(output(&guest, &setup).await, "100\n200\n0\n321\n");
}

#[tokio::test]
async fn a_read_only_root_with_writable_mounts() {
    let guest = guest!();
    let setup =
        Setup::shell("touch /x 2>&1 || echo denied; touch /dev/x && touch /scratch/x && echo fine")
            .spec("root", json!({"path": guest.root, "readonly": true}))
            .mount(
                json!({"destination": "/scratch", "type": "tmpfs", "source": "tmpfs",
            "options": ["size=1m", "mode=0700"]}),
            );
    let text = output(&guest, &setup).await;
    assert!(text.contains("denied") && text.contains("fine"), "{text}");
}

#[tokio::test]
async fn masked_and_read_only_paths() {
    let guest = guest!();
    let setup = Setup::shell(
        "cat /data/text | wc -c; ls /home | wc -l; echo 1 > /proc/sys/kernel/hostname || echo denied; \
         touch /etc/x || echo denied",
    )
    .linux("maskedPaths", json!(["/data/text", "/home", "/no/such/path"]))
    .linux("readonlyPaths", json!(["/proc/sys", "/etc", "/no/such/path"]));
    assert_eq!(output(&guest, &setup).await, "0\n0\ndenied\ndenied\n");
}

#[tokio::test]
async fn paths_are_masked_once_and_directories_by_one_file_system() {
    let guest = guest!();
    let setup = Setup::shell(
        "for p in /data/text /home /root; do grep -c \" $p \" /proc/mounts; done; \
         stat -c %d /home /root | uniq | wc -l; touch /root/x || echo denied",
    )
    .linux(
        "maskedPaths",
        json!(["/data/text", "/home", "/root", "/data/text", "/home"]),
    );
    assert_eq!(output(&guest, &setup).await, "1\n1\n1\n1\ndenied\n");
}

#[tokio::test]
async fn bind_mounts_of_files_and_directories() {
    let guest = guest!();
    let data = guest.root.join("data");
    let text = data.join("text");
    let setup = Setup::shell(
        "cat /mnt/file; ls /mnt/dir; touch /mnt/dir/x || echo denied; touch /mnt/rw/x && rm /mnt/rw/x; \
         grep /mnt/dir /proc/self/mountinfo | cut -d' ' -f6",
    )
    .mount(json!({"destination": "/mnt/file", "source": text, "options": ["bind", "ro"]}))
    .mount(json!({"destination": "/mnt/dir", "type": "none", "source": data,
        "options": ["rbind", "ro", "nosuid", "nodev", "noexec", "rprivate"]}))
    .mount(json!({"destination": "/mnt/rw", "source": data, "options": ["bind"]}));
    let text = output(&guest, &setup).await;
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[..3], ["not a program", "text", "denied"]);
    for flag in ["ro", "nosuid", "nodev", "noexec"] {
        assert!(lines[3].split(',').any(|f| f == flag), "{text}");
    }
}

#[tokio::test]
async fn what_a_link_would_lead_to_is_mounted_on() {
    let guest = guest!();
    std::os::unix::fs::symlink("../run/conf", guest.root.join("etc/resolv.conf")).unwrap();
    let setup = Setup::shell("cat /run/conf; grep -c ' /run/conf ' /proc/mounts").mount(
        json!({"destination": "/etc/resolv.conf", "source": guest.root.join("data/text"), "options": ["bind"]}),
    );
    assert_eq!(output(&guest, &setup).await, "not a program\n1\n");
}

#[tokio::test]
async fn mount_propagation_is_as_asked() {
    let guest = guest!();
    let data = guest.root.join("data");
    let script = "for p in / /private /slave /shared; do \
         awk -v p=$p '$5==p {print p, $7}' /proc/self/mountinfo | cut -d: -f1; done";
    let mount = |name: &str| json!({"destination": format!("/{name}"), "source": data, "options": ["bind", name]});
    let setup = Setup::shell(script)
        .mount(mount("private"))
        .mount(mount("slave"))
        .mount(mount("shared"));
    let text = output(&guest, &setup).await;
    assert!(text.contains("/private -"), "{text}");
    assert!(text.contains("/slave master"), "{text}");
    assert!(text.contains("/shared shared"), "{text}");
    assert!(text.contains("/ master") || text.contains("/ -"), "{text}");
}

#[tokio::test]
async fn a_shared_root_is_shared_with_nobody_outside() {
    let guest = guest!();
    let script = "awk '$5==\"/\" {print $7, $8}' /proc/self/mountinfo | sed 's/:[0-9]*//'";
    let setup = Setup::shell(script).linux("rootfsPropagation", json!("shared"));
    assert_eq!(output(&guest, &setup).await, "shared -\n");
}

#[tokio::test]
async fn a_tmpfs_takes_over_what_it_covers() {
    let guest = guest!();
    let mount = json!({"destination": "/data", "type": "tmpfs", "source": "tmpfs",
        "options": ["tmpcopyup", "ro"]});
    let setup = Setup::shell("cat /data/text; touch /data/x || echo denied").mount(mount);
    assert_eq!(output(&guest, &setup).await, "not a program\ndenied\n");
}

#[tokio::test]
async fn a_tmpfs_has_the_mode_of_what_it_covers() {
    let guest = guest!();
    let mount =
        |destination: &str| json!({"destination": destination, "type": "tmpfs", "source": "tmpfs"});
    let setup = Setup::shell(
        "stat -c %a /home /not/there /not; grep -c ' /not/there .*mode=' /proc/mounts",
    )
    .mount(mount("/home"))
    .mount(mount("/not/there"));
    let outcome = guest.run(&setup).await;
    assert_eq!(outcome.stdout, "755\n1777\n755\n0\n");
}

#[tokio::test]
async fn devices_and_links_are_there() {
    let guest = guest!();
    let setup = Setup::shell(
        "echo x > /dev/null && head -c 2 /dev/zero | wc -c; ls /dev | tr '\\n' ' '; \
         stat -c '%t:%T %a %u:%g' /dev/mine; readlink /dev/ptmx; readlink /dev/fd",
    )
    .linux(
        "devices",
        json!([{"path": "/dev/mine", "type": "c", "major": 10, "minor": 229,
            "fileMode": 0o640, "uid": 3, "gid": 4}]),
    );
    let text = output(&guest, &setup).await;
    for name in ["full", "null", "random", "stderr", "tty", "urandom", "zero"] {
        assert!(text.contains(name), "{name} in {text}");
    }
    assert!(
        text.contains("a:e5 640 3:4\npts/ptmx\n/proc/self/fd\n"),
        "{text}"
    );
}

#[tokio::test]
async fn devices_are_refused_unless_allowed() {
    let guest = guest!();
    // 1:1 is physical memory, 10:229 is /dev/fuse, which needs no rights to be opened.
    let script = "mknod /tmp/mem c 1 1; mknod /tmp/fuse c 10 229; \
         (: < /tmp/mem) 2>/dev/null && echo mem; (: < /tmp/fuse) && echo read; \
         (: > /tmp/fuse) 2>/dev/null && echo write; rm /tmp/mem /tmp/fuse";
    let rules = json!({"devices": [
        {"allow": false, "access": "rwm"},
        {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "r"}
    ]});
    let setup = Setup::shell(script).linux("resources", rules);
    assert_eq!(output(&guest, &setup).await, "read\n");
}

#[tokio::test]
async fn sysctls_of_the_containers_namespaces() {
    let guest = guest!();
    let setup = Setup::shell(
        "cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shm_rmid_forced /proc/sys/kernel/msgmax",
    )
    .linux(
        "sysctl",
        json!({"net.ipv4.ip_forward": "1", "kernel.shm_rmid_forced": "1", "kernel.msgmax": "4321"}),
    );
    assert_eq!(output(&guest, &setup).await, "1\n1\n4321\n");
    let setup = Setup::shell("true").linux("sysctl", json!({"net.no.such": "1"}));
    let error = guest.try_run(&setup).await.unwrap_err().to_string();
    assert!(error.contains("net/no/such"), "{error}");
}

#[tokio::test]
async fn a_new_network_has_loopback() {
    let guest = guest!();
    let text = output(&guest, &Setup::shell("ip addr show lo; ls /sys/class/net")).await;
    assert!(
        text.contains("127.0.0.1/8") && text.contains("UP"),
        "{text}"
    );
    assert_eq!(text.lines().last(), Some("lo"));
}

fn no_mkdir() -> serde_json::Value {
    json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
    "syscalls": [
        {"names": ["mkdir", "mkdirat", "no_such_call"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
        {"names": ["kill"], "action": "SCMP_ACT_ERRNO",
            "args": [{"index": 1, "value": 10, "op": "SCMP_CMP_EQ"}]}
    ]})
}

#[tokio::test]
async fn seccomp_filters_init_and_later_processes() {
    let guest = guest!();
    for no_new_privileges in [true, false] {
        let setup = Setup::shell("mkdir /tmp/d 2>&1; grep Seccomp: /proc/self/status; cat")
            .seccomp(no_mkdir())
            .process("noNewPrivileges", json!(no_new_privileges));
        let id = unique("seccomp");
        let ends = guest.launch(&id, &setup).await.unwrap();
        let script = "mkdir /tmp/e 2>&1; kill -10 1 2>&1; kill -0 1 && echo fine";
        let exec = Setup::shell(script).process("noNewPrivileges", json!(no_new_privileges));
        let exec = guest.run_exec(&id, &exec).await.unwrap();
        assert!(exec.stdout.contains("not implemented"), "{exec:?}");
        assert!(exec.stdout.contains("not permitted"), "{exec:?}");
        assert!(exec.stdout.contains("fine"), "{exec:?}");
        let (out, _) = ends.exchange(b"").await;
        assert!(out.contains("not implemented"), "{out}");
        assert!(out.contains("Seccomp:\t2"), "{out}");
        guest.wait(&id, "").await;
        guest.remove(&id).await.unwrap();
    }
}

#[tokio::test]
async fn a_seccomp_profile_that_allows_a_list() {
    let guest = guest!();
    // What a shell needs, and nothing newer.
    let names = "read write open openat close stat fstat lstat poll lseek mmap mprotect munmap brk \
        rt_sigaction rt_sigprocmask rt_sigreturn ioctl pread64 readv writev access pipe select dup \
        dup2 dup3 nanosleep getpid socket clone clone3 fork vfork execve exit wait4 kill uname fcntl \
        getcwd chdir fchdir readlink umask getrlimit prlimit64 getuid getgid geteuid getegid setuid \
        setgid setgroups setresuid setresgid capget capset prctl arch_prctl gettid futex set_tid_address \
        set_robust_list exit_group newfstatat rseq getrandom sched_yield seccomp close_range getppid \
        getpgrp setpgid setsid sched_getaffinity madvise sigaltstack statx sched_setaffinity sendmsg recvmsg recvfrom sendto tgkill faccessat faccessat2 time";
    let names: Vec<_> = names.split_whitespace().collect();
    let profile = json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1,
        "syscalls": [{"names": names, "action": "SCMP_ACT_ALLOW"}]});
    for no_new_privileges in [true, false] {
        let setup = Setup::shell("echo fine; mkdir /tmp/d")
            .seccomp(profile.clone())
            .process("noNewPrivileges", json!(no_new_privileges));
        let outcome = guest.run(&setup).await;
        assert_eq!(outcome.stdout, "fine\n", "{outcome:?}");
        assert!(outcome.stderr.contains("not permitted"), "{outcome:?}");
    }
}

#[tokio::test]
async fn a_user_namespace_maps_ids() {
    let guest = guest!();
    let mappings = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    let setup = Setup::shell(
        "id -u; cat /proc/self/uid_map | tr -s ' '; echo x > /dev/null && stat -c %u /proc/1; \
         hostname other && hostname; mount -t tmpfs tmpfs /tmp 2>/dev/null || echo unmounted; cat",
    )
    .namespace("user")
    .linux("uidMappings", mappings.clone())
    .linux("gidMappings", mappings)
    .process(
        "capabilities",
        json!({"bounding": ["CAP_SYS_ADMIN"], "effective": ["CAP_SYS_ADMIN"],
        "permitted": ["CAP_SYS_ADMIN"]}),
    );
    let id = unique("userns");
    let ends = guest.launch(&id, &setup).await.unwrap();
    let exec = guest
        .run_exec(
            &id,
            &Setup::shell(
                "id -u; cat /proc/self/uid_map | tr -s ' '; grep CapEff /proc/self/status",
            ),
        )
        .await
        .unwrap();
    assert!(exec.stdout.starts_with("0\n 0 100000 65536\n"), "{exec:?}");
    let (out, err) = ends.exchange(b"").await;
    assert!(
        out.starts_with("0\n 0 100000 65536\n0\nother\n"),
        "{out} {err}"
    );
    assert_eq!(guest.wait(&id, "").await.exit_status, 0);
    guest.remove(&id).await.unwrap();
}

#[tokio::test]
async fn namespaces_that_are_left_out_are_the_guests() {
    let guest = guest!();
    let own = "for n in uts net ipc; do readlink /proc/self/ns/$n; done";
    let setup = Setup::shell(own)
        .without("uts")
        .without("network")
        .without("ipc");
    let first = output(&guest, &setup).await;
    let second = output(&guest, &setup).await;
    assert_eq!(first, second);
    assert_ne!(first, output(&guest, &Setup::shell(own)).await);
}

#[tokio::test]
async fn a_time_namespace_has_offsets() {
    let guest = guest!();
    let setup = Setup::shell("cut -d. -f1 /proc/uptime")
        .namespace("time")
        .linux("timeOffsets", json!({"boottime": {"secs": 5_000_000}}));
    let uptime: u64 = output(&guest, &setup).await.trim().parse().unwrap();
    assert!(uptime >= 5_000_000);
}

#[tokio::test]
async fn a_personality_changes_the_machine() {
    let guest = guest!();
    let setup = Setup::shell("uname -m; cat").linux("personality", json!({"domain": "LINUX32"}));
    let id = unique("personality");
    let ends = guest.launch(&id, &setup).await.unwrap();
    let exec = Setup::new(&["uname", "-m"]);
    let exec = guest.run_exec(&id, &exec).await.unwrap();
    assert_eq!(exec.stdout, "i686\n");
    assert_eq!(ends.exchange(b"").await.0, "i686\n");
    guest.wait(&id, "").await;
    guest.remove(&id).await.unwrap();
}

#[tokio::test]
async fn scheduling_is_set() {
    let guest = guest!();
    let setup = Setup::shell("cut -d' ' -f19,41 /proc/self/stat; ionice -p $$")
        .process("scheduler", json!({"policy": "SCHED_BATCH", "nice": 5}))
        .process(
            "ioPriority",
            json!({"class": "IOPRIO_CLASS_BE", "priority": 6}),
        );
    let text = output(&guest, &setup).await;
    assert_eq!(text, "5 3\nbest-effort: prio 6\n");
}

#[tokio::test]
async fn hooks_run_in_their_places() {
    let guest = guest!();
    // In a machine of its own the guest has no shell outside its containers.
    if std::env::var_os("HULL_AGENT_TEST_GUEST").is_some() {
        return;
    }
    let log = guest.root.join("tmp/hooks");
    let hook = |name: &str, log: &str| {
        let script =
            format!("echo {name} $(grep -o '\"status\":\"[a-z]*\"' | cut -d'\"' -f4) >> {log}");
        json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"],
            "timeout": 60}])
    };
    let outside = log.display().to_string();
    let hooks = json!({
        "prestart": hook("prestart", &outside),
        "createRuntime": hook("createRuntime", &outside),
        "createContainer": hook("createContainer", &outside),
        "startContainer": hook("startContainer", "/tmp/hooks"),
        "poststart": hook("poststart", &outside),
        "poststop": hook("poststop", &outside),
    });
    let setup = Setup::shell("cat").spec("hooks", hooks);
    let id = unique("hooks");
    let ends = guest.launch(&id, &setup).await.unwrap();
    ends.exchange(b"").await;
    guest.wait(&id, "").await;
    guest.remove(&id).await.unwrap();
    assert_eq!(
        std::fs::read_to_string(log).unwrap(),
        "prestart creating\ncreateRuntime creating\ncreateContainer creating\n\
         startContainer creating\npoststart running\npoststop stopped\n"
    );
}

#[tokio::test]
async fn hooks_at_the_start_run_as_the_program_does() {
    let guest = guest!();
    let hooks = |script: &str| {
        json!({"startContainer": [
            {"path": "/bin/true"},
            {"path": "/bin/sh", "args": ["sh", "-c", script]},
        ]})
    };
    let shell = |script| {
        Setup::shell("echo ran")
            .spec("hooks", hooks(script))
            .seccomp(no_mkdir())
            .process("env", json!(["PATH=/bin", "GREETING=hello"]))
    };
    let same = shell(
        "test $GREETING = hello && test $HOME = /root && grep -q 'Seccomp:.2' /proc/self/status",
    );
    for no_new_privileges in [true, false] {
        let setup = same
            .clone()
            .process("noNewPrivileges", json!(no_new_privileges));
        assert_eq!(output(&guest, &setup).await, "ran\n");
    }
    let killed = shell("kill -SYS $$").process("noNewPrivileges", json!(true));
    let error = guest.try_run(&killed).await.unwrap_err().to_string();
    assert!(
        error.contains("error running startContainer hook #1: /bin/sh: signal: bad system call"),
        "{error}"
    );
}

#[tokio::test]
async fn a_failing_hook_fails_the_creation() {
    let guest = guest!();
    if std::env::var_os("HULL_AGENT_TEST_GUEST").is_some() {
        return;
    }
    let hooks = json!({"createRuntime": [{"path": "/bin/sh",
        "args": ["sh", "-c", "echo broken on purpose >&2; exit 1"]}]});
    let error = guest
        .try_run(&Setup::shell("true").spec("hooks", hooks))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("broken on purpose"), "{error}");
}

#[tokio::test]
async fn what_a_guest_cannot_honour_is_refused() {
    let guest = guest!();
    for (field, value) in [
        ("intelRdt", json!({"closID": "x"})),
        ("netDevices", json!({"eth1": {}})),
        // Rules that are not compiled.
        ("seccomp", json!({"defaultAction": "SCMP_ACT_ERRNO"})),
    ] {
        let setup = Setup::shell("true").linux(field, value);
        let error = guest.try_run(&setup).await.unwrap_err();
        let ttrpc::Error::RpcStatus(status) = &error else {
            panic!("{error}");
        };
        assert_eq!(status.code(), ttrpc::Code::UNIMPLEMENTED, "{error}");
    }
}

#[tokio::test]
async fn apparmor_and_selinux_are_ignored() {
    let guest = guest!();
    let setup = Setup::shell("echo fine")
        .process("apparmorProfile", json!("docker-default"))
        .process("selinuxLabel", json!("system_u:system_r:container_t:s0"));
    assert_eq!(output(&guest, &setup).await, "fine\n");
}

#[tokio::test]
async fn a_cgroup_mount_shows_the_containers_own() {
    let guest = guest!();
    let setup = Setup::shell(
        "grep 0:: /proc/self/cgroup; ls /sys/fs/cgroup/cgroup.procs; cat /sys/fs/cgroup/cgroup.type",
    )
    .mount(
        json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
            "options": ["ro", "nosuid", "noexec", "nodev"]}),
    );
    assert_eq!(
        output(&guest, &setup).await,
        "0::/\n/sys/fs/cgroup/cgroup.procs\ndomain\n"
    );
}

#[tokio::test]
async fn exec_has_its_own_user_environment_and_directory() {
    let guest = guest!();
    let id = unique("exec");
    let ends = guest.launch(&id, &Setup::new(&["/bin/cat"])).await.unwrap();
    let setup = Setup::shell("id -u; pwd; echo $WORD; ulimit -n; grep CapEff /proc/self/status")
        .process("user", json!({"uid": 1000, "gid": 1000}))
        .process("cwd", json!("/tmp"))
        .process("env", json!(["WORD=mellon", "PATH=/bin"]))
        .process(
            "rlimits",
            json!([{"type": "RLIMIT_NOFILE", "soft": 77, "hard": 77}]),
        );
    let outcome = guest.run_exec(&id, &setup).await.unwrap();
    assert_eq!(
        outcome.stdout,
        "1000\n/tmp\nmellon\n77\nCapEff:\t0000000000000000\n"
    );
    let namespaces = "for n in pid mnt net ipc uts cgroup; do readlink /proc/1/ns/$n; \
         readlink /proc/self/ns/$n; done | uniq -c | grep -vc ' 2 '; cat /proc/self/cgroup | grep 0::";
    let outcome = guest
        .run_exec(&id, &Setup::shell(namespaces))
        .await
        .unwrap();
    assert_eq!(outcome.stdout, "0\n0::/\n", "{outcome:?}");
    drop(ends);
    guest.kill_all(&id).await;
    guest.wait(&id, "").await;
    guest.remove(&id).await.unwrap();
}

#[tokio::test]
async fn a_mount_can_map_ids() {
    let guest = guest!();
    // The share of a virtual machine need not be able to.
    if guest.is_elsewhere() {
        return;
    }
    let mapping = json!([{"containerID": 0, "hostID": 1000, "size": 1000}]);
    let setup = Setup::shell("stat -c '%u %g' /mnt/text /data/text").mount(json!({
        "destination": "/mnt", "source": guest.root.join("data"), "options": ["bind", "idmap"],
        "uidMappings": mapping, "gidMappings": mapping}));
    assert_eq!(output(&guest, &setup).await, "1000 1000\n0 0\n");
}

#[tokio::test]
async fn no_descriptor_of_the_guest_gets_in() {
    let guest = guest!();
    // The last one is the directory itself.
    let script = "ls /proc/self/fd";
    assert_eq!(output(&guest, &Setup::shell(script)).await, "0\n1\n2\n3\n");
    let terminal = guest.run(&Setup::shell(script).terminal()).await;
    assert_eq!(
        terminal.stdout.split_whitespace().count(),
        4,
        "{terminal:?}"
    );
    let id = unique("fds");
    let ends = guest.launch(&id, &Setup::new(&["/bin/cat"])).await.unwrap();
    let exec = guest.run_exec(&id, &Setup::shell(script)).await.unwrap();
    assert_eq!(exec.stdout, "0\n1\n2\n3\n");
    ends.exchange(b"").await;
    guest.wait(&id, "").await;
    guest.remove(&id).await.unwrap();
}
