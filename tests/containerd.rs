//! `ctr run --runtime io.containerd.hull.v2`, on a real containerd.

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::sync::mpsc;
use std::time::Duration;

use harness::Outcome;
use harness::containerd::{BUSYBOX, Containerd, RUNTIME, run_arguments};
use harness::machine::vmm;
use harness::traces::{pids_of, pods_only, wait_for_end};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// `ctr run -d` of a container that waits.
fn in_background(containerd: &Containerd, options: &[&str], id: &str, script: &str) {
    let mut arguments = vec!["run", "-d", "--runtime", RUNTIME];
    arguments.extend(options);
    arguments.extend([BUSYBOX, id, "sh", "-c", script]);
    let _ = containerd.ctr(arguments).ok();
}

fn status(containerd: &Containerd, id: &str) -> Option<String> {
    let list = containerd.ctr(["task", "ls"]).ok();
    list.lines().find_map(|line| {
        let mut fields = line.split_whitespace();
        (fields.next() == Some(id)).then(|| fields.nth(1).unwrap_or_default().to_owned())
    })
}

fn wait_until_stopped(containerd: &Containerd, id: &str) {
    while status(containerd, id).as_deref() == Some("RUNNING") {
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Removes a container that has ended, with this exit code.
fn remove(containerd: &Containerd, id: &str, code: u32) {
    let removed = containerd.ctr(["task", "rm", id]);
    let _ = removed.ok();
    // Of success it says nothing.
    let said = format!("exit code {code}\"");
    let expected = code == 0 || removed.stderr().contains(&said);
    assert!(expected, "{}", removed.stderr());
    let _ = containerd.ctr(["containers", "rm", id]).ok();
}

#[test]
fn a_container_runs_on_its_own_kernel_and_leaves_nothing() {
    let containerd = Containerd::new();
    let kernel = containerd.run(&[], "c", &["uname", "-r"]).ok();
    assert!(kernel.trim().ends_with("-hull"), "{kernel}");
    assert_eq!(containerd.run(&[], "c", &["sh", "-c", "exit 7"]).code(), 7);
    containerd.assert_no_pods();
}

#[test]
fn streams_pass_through_whole() {
    let containerd = Containerd::new();
    let mut child = containerd
        .command(run_arguments(&[], "c", &["sh", "-c", "cat; echo done >&2"]))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("ctr starts");
    let input: Vec<u8> = (0..2_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let mut stdin = child.stdin.take().expect("a pipe");
    let bytes = input.clone();
    let feeder = std::thread::spawn(move || stdin.write_all(&bytes));
    let outcome = Outcome(child.wait_with_output().expect("ctr ends"));
    feeder.join().expect("fed").expect("written");
    assert_eq!(outcome.code(), 0, "{}", outcome.stderr());
    assert!(outcome.0.stdout == input);
    assert_eq!(outcome.stderr(), "done\n");
}

#[test]
fn a_container_is_entered_paused_measured_and_ended() {
    let containerd = Containerd::new();
    let script = "trap 'exit 5' TERM; echo ready > /ready; while :; do sleep 0.1; done";
    let limits = ["--memory-limit", "67108864"];
    in_background(&containerd, &limits, "c", script);
    let wait = "until [ -e /ready ]; do sleep 0.05; done; echo in; exit 3";
    let exec = containerd.ctr(["task", "exec", "--exec-id", "e", "c", "sh", "-c", wait]);
    assert_eq!((exec.code(), exec.stdout().as_str()), (3, "in\n"));

    let _ = containerd.ctr(["task", "pause", "c"]).ok();
    assert_eq!(status(&containerd, "c").as_deref(), Some("PAUSED"));
    let _ = containerd.ctr(["task", "resume", "c"]).ok();
    assert_eq!(status(&containerd, "c").as_deref(), Some("RUNNING"));

    let metrics = containerd
        .ctr(["task", "metrics", "--format", "json", "c"])
        .ok();
    let metrics: serde_json::Value = serde_json::from_str(&metrics).expect("JSON");
    assert_eq!(metrics["memory"]["usage_limit"], 67_108_864);
    assert!(metrics["memory"]["usage"].as_u64() > Some(0), "{metrics}");

    let again = containerd.ctr(["task", "start", "c"]);
    assert_ne!(again.code(), 0);
    let running = containerd.ctr(["task", "rm", "c"]);
    assert_ne!(running.code(), 0, "a running container is not removed");

    let _ = containerd.ctr(["task", "kill", "c"]).ok();
    wait_until_stopped(&containerd, "c");
    remove(&containerd, "c", 5);
    containerd.assert_no_pods();
}

#[test]
fn events_come_in_order() {
    let containerd = Containerd::new();
    let mut watcher = containerd
        .command(["events"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("ctr starts");
    let stdout = watcher.stdout.take().expect("a pipe");
    let (sender, lines) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines() {
            let line = line.expect("a line");
            // Date, time, zone, its name, namespace, topic.
            let topic = line.split_whitespace().nth(5).unwrap_or_default();
            if sender.send(topic.to_owned()).is_err() {
                return;
            }
        }
    });
    // Nobody says when the subscription holds: something is made until it is told of.
    let mut made = 0;
    while lines.recv_timeout(Duration::from_millis(200)).is_err() {
        made += 1;
        let label = format!("made={made}");
        let _ = containerd.ctr(["images", "label", BUSYBOX, &label]).ok();
    }
    let run = containerd.run(&[], "c", &["true"]);
    assert_eq!(run.code(), 0, "{}", run.stderr());
    let mut of_tasks = lines
        .into_iter()
        .filter(|topic| topic.starts_with("/tasks/"));
    let seen: Vec<_> = of_tasks.by_ref().take(4).collect();
    watcher.kill().expect("killed");
    watcher.wait().expect("ended");
    reader.join().expect("the reader ends");
    let expected = [
        "/tasks/create",
        "/tasks/start",
        "/tasks/exit",
        "/tasks/delete",
    ];
    assert_eq!(seen, expected);
}

#[test]
fn a_killed_pod_process_is_cleaned_up_after() {
    let containerd = Containerd::new();
    in_background(&containerd, &[], "c", "sleep 1000");
    let root = containerd.hull_root().display().to_string();
    let pods = pids_of("containerd-shim-hull-v2", &root);
    assert_eq!(pods.len(), 1, "{pods:?}");
    let vmm = pods_only(vmm(), &containerd.hull_root());
    kill(Pid::from_raw(pods[0]), Signal::SIGKILL).expect("killed");
    wait_for_end(vmm);
    wait_until_stopped(&containerd, "c");
    // containerd asks for the clean-up by itself, and lets nobody wait for it.
    containerd.wait_until_clean();
    let _ = containerd.ctr(["task", "rm", "c"]);
    let _ = containerd.ctr(["containers", "rm", "c"]).ok();
    containerd.assert_no_pods();
}

#[test]
fn a_killed_vmm_ends_the_container() {
    let containerd = Containerd::new();
    in_background(&containerd, &[], "c", "sleep 1000");
    let vmm = pods_only(vmm(), &containerd.hull_root());
    kill(Pid::from_raw(vmm), Signal::SIGKILL).expect("killed");
    wait_for_end(vmm);
    wait_until_stopped(&containerd, "c");
    assert_eq!(status(&containerd, "c").as_deref(), Some("STOPPED"));
    remove(&containerd, "c", 137);
    containerd.assert_no_pods();
}

#[test]
fn containers_outlive_their_containerd() {
    let mut containerd = Containerd::new();
    let script = "trap 'exit 5' TERM; while :; do sleep 0.1; done";
    in_background(&containerd, &[], "c", script);
    containerd.kill();
    containerd.start();
    assert_eq!(status(&containerd, "c").as_deref(), Some("RUNNING"));
    let exec = containerd.ctr(["task", "exec", "--exec-id", "e", "c", "echo", "in"]);
    assert_eq!(exec.ok(), "in\n");
    let _ = containerd.ctr(["task", "kill", "c"]).ok();
    wait_until_stopped(&containerd, "c");
    remove(&containerd, "c", 5);
    containerd.assert_no_pods();
}

#[test]
fn what_a_guest_cannot_have_is_refused_and_leaves_nothing() {
    let containerd = Containerd::new();
    let host = containerd.run(&["--net-host"], "c", &["true"]);
    assert_ne!(host.code(), 0);
    assert!(
        host.stderr().contains("the host's network"),
        "{}",
        host.stderr()
    );
    let missing = containerd.run(&[], "d", &["/no/such/program"]);
    assert_ne!(missing.code(), 0);
    assert!(
        missing.stderr().contains("/no/such/program"),
        "{}",
        missing.stderr()
    );
    let socket = containerd.socket();
    let bind = format!("type=bind,src={},dst=/s,options=rbind:rw", socket.display());
    let socket = containerd.run(&["--mount", &bind], "e", &["true"]);
    assert_ne!(socket.code(), 0);
    assert!(
        socket.stderr().contains("no sockets"),
        "{}",
        socket.stderr()
    );
    containerd.assert_no_pods();
}

#[test]
fn a_program_takes_the_output() {
    let containerd = Containerd::new();
    let logs = containerd.dir().join("logs");
    fs::create_dir(&logs).expect("a directory");
    let logger = containerd.dir().join("logger");
    let script = "#!/bin/sh\n\
        exec 5>&-\n\
        cat <&3 > $1/out & cat <&4 > $1/err & wait\n\
        echo $CONTAINER_NAMESPACE/$CONTAINER_ID > $1/new; mv $1/new $1/owner\n";
    fs::write(&logger, script).expect("written");
    fs::set_permissions(&logger, Permissions::from_mode(0o755)).expect("executable");
    let uri = format!("binary://{}?{}", logger.display(), logs.display());
    let options = ["--log-uri", &uri];
    in_background(&containerd, &options, "c", "echo to out; echo to err >&2");
    let owner = logs.join("owner");
    while !owner.exists() {
        std::thread::sleep(Duration::from_millis(20));
    }
    let read = |name| fs::read_to_string(logs.join(name)).expect("read");
    assert_eq!(read("owner"), "default/c\n");
    assert_eq!(
        (read("out").as_str(), read("err").as_str()),
        ("to out\n", "to err\n")
    );
    wait_until_stopped(&containerd, "c");
    remove(&containerd, "c", 0);
    containerd.assert_no_pods();
}
