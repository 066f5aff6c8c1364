//! What `ctr run` and `ctr task` can be told, on a real containerd.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use harness::Outcome;
use harness::containerd::{BUSYBOX, Containerd, RUNTIME, run_arguments};
use harness::machine::vmm;
use harness::terminal::Terminal;
use harness::traces::pods_only;

/// Starts `c`, which waits.
fn start(containerd: &Containerd, options: &[&str], script: &str) {
    let mut arguments = vec!["run", "-d", "--runtime", RUNTIME];
    arguments.extend(options);
    arguments.extend([BUSYBOX, "c", "sh", "-c", script]);
    let _ = containerd.ctr(arguments).ok();
}

/// `ctr task exec` of a script in `c`.
fn exec(containerd: &Containerd, options: &[&str], script: &str) -> Outcome {
    let mut arguments = vec!["task", "exec", "--exec-id", "e"];
    arguments.extend(options);
    arguments.extend(["c", "sh", "-c", script]);
    containerd.ctr(arguments)
}

/// Ends `c` and removes it.
fn end(containerd: &Containerd) {
    let _ = containerd.ctr(["task", "rm", "--force", "c"]).ok();
    let _ = containerd.ctr(["containers", "rm", "c"]).ok();
    containerd.assert_no_pods();
}

/// Whether this version of `ctr run` has an option.
fn has(containerd: &Containerd, option: &str) -> bool {
    let help = containerd.ctr(["run", "--help"]).ok();
    help.split_whitespace()
        .any(|word| word.trim_end_matches(',') == option)
}

#[test]
fn a_process_is_what_its_options_say() {
    let containerd = Containerd::new();
    let file = |name: &str, text: &str| {
        let path = containerd.dir().join(name);
        fs::write(&path, text).expect("written");
        path.display().to_string()
    };
    let variables = file("variables", "FROM_FILE=file\n");
    let data = file("data", "of the host\n");
    let bind =
        |to: &str, access: &str| format!("type=bind,src={data},dst={to},options=bind:{access}");
    let (readable, writable) = (bind("/ro", "ro"), bind("/rw", "rw"));
    let pid_file = containerd.dir().join("pid").display().to_string();
    let options = [
        ["--cwd", "/tmp"],
        ["--env", "FROM_OPTION=option"],
        ["--env-file", &variables],
        ["--mount", &readable],
        ["--mount", &writable],
        ["--mount", "type=tmpfs,src=tmpfs,dst=/tmpfs,options=size=1m"],
        ["--cpus", "1"],
        ["--memory-limit", "67108864"],
        ["--cap-drop", "CAP_KILL"],
        ["--cap-add", "CAP_SYS_PTRACE"],
        ["--label", "of=test"],
        ["--pid-file", &pid_file],
    ];
    let flags = ["--read-only", "--seccomp", "--allow-new-privs"];
    let options: Vec<_> = options
        .as_flattened()
        .iter()
        .chain(&flags)
        .copied()
        .collect();
    start(&containerd, &options, "sleep 1000");

    let said = exec(
        &containerd,
        &[],
        "pwd; echo $FROM_OPTION $FROM_FILE; cat /ro",
    )
    .ok();
    assert_eq!(said, "/tmp\noption file\nof the host\n");
    for path in ["/x", "/ro"] {
        let written = exec(&containerd, &[], &format!("echo > {path}"));
        assert!(written.stderr().contains("Read-only"), "{written:?}");
    }
    let _ = exec(&containerd, &[], "echo of the guest > /rw; echo > /tmpfs/x").ok();
    assert_eq!(fs::read_to_string(&data).expect("read"), "of the guest\n");

    let status = exec(
        &containerd,
        &[],
        "nproc; grep -E '^(CapEff|NoNewPrivs|Seccomp):' /proc/self/status | cut -f 2",
    );
    // Docker's capabilities without the fifth and with the nineteenth.
    assert_eq!(status.ok(), "1\n00000000a80c25db\n0\n2\n");
    let metrics = ["task", "metrics", "--format", "json", "c"];
    let metrics = containerd.ctr(metrics).ok();
    let metrics: serde_json::Value = serde_json::from_str(&metrics).expect("JSON");
    assert_eq!(metrics["memory"]["usage_limit"], 67_108_864);

    let listed = containerd.ctr(["containers", "ls", "labels.of==test"]).ok();
    assert!(listed.contains(BUSYBOX), "{listed}");
    let noted = fs::read_to_string(&pid_file).expect("read");
    assert_eq!(noted, containerd.pid("default", "c").to_string());
    end(&containerd);
}

#[test]
fn a_container_has_a_host_name_and_a_user() {
    let containerd = Containerd::new();
    start(&containerd, &[], "sleep 1000");
    assert_eq!(exec(&containerd, &[], "hostname").ok(), "c\n");
    let options = ["--user", "1:2", "--cwd", "/bin"];
    let other = exec(&containerd, &options, "id -u; id -g; pwd").ok();
    assert_eq!(other, "1\n2\n/bin\n");
    end(&containerd);
    // containerd 1.6 has neither.
    if has(&containerd, "--user") && has(&containerd, "--hostname") {
        let options = ["--user", "1:2", "--hostname", "named"];
        let script = "id -u; id -g; hostname";
        let said = containerd.run(&options, "d", &["sh", "-c", script]).ok();
        assert_eq!(said, "1\n2\nnamed\n");
    }
}

#[test]
fn privileges_are_those_of_the_guest() {
    let containerd = Containerd::new();
    let script = "mkdir /m; mount -t tmpfs t /m; grep CapEff /proc/self/status | cut -f 2";
    let said = containerd.run(&["--privileged"], "c", &["sh", "-c", script]);
    let capabilities = u64::from_str_radix(said.ok().trim(), 16).expect("a number");
    assert_eq!(capabilities & (1 << 21), 1 << 21, "CAP_SYS_ADMIN");
    containerd.assert_no_pods();
}

#[test]
fn a_device_of_the_host_that_is_no_disk_is_refused() {
    let containerd = Containerd::new();
    let said = containerd.run(&["--device", "/dev/loop-control"], "c", &["true"]);
    assert_ne!(said.code(), 0);
    assert!(
        said.stderr()
            .contains("not supported: devices of the host that are no disks"),
        "{}",
        said.stderr()
    );
    containerd.assert_no_pods();
}

#[test]
fn a_user_namespace_maps_ids() {
    let containerd = Containerd::new();
    let map = "0:1000:65536";
    let options = ["--uidmap", map, "--gidmap", map];
    let script = "cat /proc/self/uid_map; id -u; touch /x; stat -c %u /x";
    let said = containerd.run(&options, "c", &["sh", "-c", script]).ok();
    let words: Vec<_> = said.split_whitespace().collect();
    assert_eq!(words, ["0", "1000", "65536", "0", "0"]);
    containerd.assert_no_pods();
}

#[test]
fn a_terminal_is_one_and_its_exit_code_is_ctrs() {
    let containerd = Containerd::new();
    let command = containerd.command(run_arguments(&["-t"], "c", &["sh"]));
    let mut terminal = Terminal::start(command);
    terminal.expect("#");
    terminal.type_in("test -t 0 && test -t 1 && echo is-a-$((1+1))-terminal; stty size\n");
    terminal.expect("is-a-2-terminal");
    terminal.expect("24 80");
    terminal.type_in("exit 42\n");
    assert_eq!(terminal.end().0.code(), Some(42));
    containerd.assert_no_pods();
}

#[test]
fn a_task_is_listed_signalled_and_attached_to() {
    let containerd = Containerd::new();
    let script = "trap 'touch /usr' USR1; until [ -e /go ]; do sleep 0.1; done; echo out; exit 4";
    start(&containerd, &[], script);
    let listed = containerd.ctr(["task", "ps", "c"]).ok();
    let pids = listed
        .lines()
        .skip(1)
        .filter_map(|line| line.split_whitespace().next());
    let pids: Vec<u32> = pids.map(|pid| pid.parse().expect("a number")).collect();
    assert!(!pids.is_empty(), "{listed}");

    let waits = "until [ -e /trapped ]; do sleep 0.1; done";
    let trapped = waits.replace("/trapped", "/usr");
    let _ = containerd
        .ctr(["task", "kill", "--signal", "SIGUSR1", "c"])
        .ok();
    assert_eq!(exec(&containerd, &[], &trapped).code(), 0);

    let mut other = containerd
        .command(["task", "exec", "--exec-id", "other", "c", "sh", "-c"])
        .arg("touch /runs; exec sleep 1000")
        .spawn()
        .expect("ctr starts");
    let runs = waits.replace("/trapped", "/runs");
    assert_eq!(exec(&containerd, &[], &runs).code(), 0);
    let kill = [
        "task",
        "kill",
        "--signal",
        "KILL",
        "--exec-id",
        "other",
        "c",
    ];
    let _ = containerd.ctr(kill).ok();
    assert_eq!(other.wait().expect("it ends").code(), Some(137));

    let attached = containerd
        .command(["task", "attach", "c"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("ctr starts");
    // Its code is anybody's guess: the container may end, and all in it, before it does.
    let _ = exec(&containerd, &[], "touch /go");
    let attached = Outcome(attached.wait_with_output().expect("it ends"));
    assert_eq!((attached.code(), attached.stdout().as_str()), (4, "out\n"));
    let _ = containerd.ctr(["containers", "rm", "c"]).ok();
    containerd.assert_no_pods();
}

#[test]
fn output_goes_to_a_file_or_nowhere() {
    let containerd = Containerd::new();
    let log = containerd.dir().join("log");
    let uri = format!("file://{}", log.display());
    let script = ["sh", "-c", "echo out; echo err >&2; exit 3"];
    let logged = containerd.run(&["--log-uri", &uri], "c", &script);
    assert_eq!((logged.code(), logged.stdout().as_str()), (3, ""));
    let mut lines: Vec<_> = fs::read_to_string(&log)
        .expect("read")
        .lines()
        .map(str::to_owned)
        .collect();
    lines.sort();
    assert_eq!(lines, ["err", "out"]);
    let nowhere = containerd.run(&["--null-io"], "c", &script);
    assert_eq!((nowhere.code(), nowhere.stdout().as_str()), (3, ""));
    containerd.assert_no_pods();
}

#[test]
fn a_directory_is_a_root() {
    let containerd = Containerd::new();
    let root = containerd.dir().join("rootfs");
    fs::create_dir_all(root.join("bin")).expect("a directory");
    fs::copy("/bin/busybox", root.join("bin/busybox")).expect("copied");
    let path = root.display().to_string();
    let mut arguments = vec!["run", "--rm", "--runtime", RUNTIME, "--rootfs", &path, "c"];
    let busybox = "/bin/busybox";
    arguments.extend([busybox, "sh", "-c", "busybox uname -r; busybox touch /made"]);
    let kernel = containerd.ctr(arguments).ok();
    assert!(kernel.trim().ends_with("-hull"), "{kernel}");
    assert!(root.join("made").exists());
    containerd.assert_no_pods();
}

#[test]
fn the_network_and_the_control_group_may_be_those_that_the_host_has() {
    let containerd = Containerd::new();
    let add = ["netns", "add", "made"];
    let added = Command::new("ip").args(add).status().expect("ip runs");
    assert!(added.success());
    for arguments in [
        "link add inside type veth peer name outside",
        "link set inside address 02:00:00:00:00:07 netns made",
        "-n made link set inside up",
    ] {
        let mut ip = Command::new("ip");
        let status = ip.args(arguments.split(' ')).status().expect("ip runs");
        assert!(status.success(), "ip {arguments}");
    }
    let group = format!("{}/c", containerd.cgroup());
    let options = ["--with-ns", "network:/run/netns/made", "--cgroup", &group];
    start(&containerd, &options, "sleep 1000");
    let address = exec(&containerd, &[], "cat /sys/class/net/inside/address").ok();
    assert_eq!(address, "02:00:00:00:00:07\n");
    let vmm = pods_only(vmm(), &containerd.hull_root());
    let groups = fs::read_to_string(Path::new("/proc").join(vmm.to_string()).join("cgroup"));
    let groups = groups.expect("read");
    assert!(groups.contains(&group), "{group} is not among {groups}");
    let removed = Command::new("ip")
        .args(["netns", "delete", "made"])
        .status();
    assert!(removed.expect("ip runs").success());
    end(&containerd);
}

#[test]
fn what_is_refused_says_why_and_leaves_nothing() {
    let containerd = Containerd::new();
    for (id, options, reason) in [
        (
            "a",
            ["--with-ns", "pid:/proc/1/ns/pid"],
            "to join a namespace of the host",
        ),
        (
            "b",
            ["--with-ns", "ipc:/proc/1/ns/ipc"],
            "to join a namespace of the host",
        ),
        ("c", ["--rdt-class", "some"], "intelRdt"),
    ] {
        let refused = containerd.run(&options, id, &["true"]);
        assert_ne!(refused.code(), 0, "{options:?}");
        assert!(refused.stderr().contains(reason), "{}", refused.stderr());
    }
    containerd.assert_no_pods();
    start(&containerd, &[], "sleep 1000");
    let refused = containerd.ctr(["task", "checkpoint", "c"]);
    assert_ne!(refused.code(), 0);
    let reason = refused.stderr();
    assert!(reason.contains("not supported: checkpoints"), "{reason}");
    assert_eq!(exec(&containerd, &[], "exit 6").code(), 6, "it still runs");
    end(&containerd);
}
