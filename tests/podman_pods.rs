//! Podman's pods with `hull-runtime`.

use std::fs;

use harness::engine::{BUSYBOX, Engine};
use harness::podman::podman_with_pods;

/// Starts a container of a pod.
fn start_in_pod(podman: &Engine, pod: &str, name: &str, script: &str) {
    let first = ["run", "-d", "--pod", pod, "--name", name];
    let _ = podman
        .call([&first[..], &[BUSYBOX, "sh", "-c", script]].concat())
        .ok();
}

#[test]
fn containers_of_a_pod_share_a_network() {
    let Some(podman) = podman_with_pods() else {
        return;
    };
    let create = [
        "pod",
        "create",
        "--name",
        "pod",
        "--publish",
        "8080:80",
        "--hostname",
        "together",
    ];
    let _ = podman.call(create).ok();
    start_in_pod(&podman, "pod", "server", "exec nc -ll -p 80 -e hostname");
    start_in_pod(&podman, "pod", "client", "sleep 1000");
    let ask = "until nc 127.0.0.1 80 < /dev/null; do sleep 0.1; done";
    assert_eq!(podman.exec("client", ask).ok(), "together\n");
    let shared = podman.exec(
        "server",
        "echo shared > /dev/shm/file; ls -l /proc/self/ns/ipc",
    );
    let _ = shared.ok();
    assert_eq!(podman.exec("client", "cat /dev/shm/file").ok(), "shared\n");
    // Their processes and files are their own.
    assert_eq!(
        podman.exec("client", "ps | grep -c 'nc -l[l]'").stdout(),
        "0\n"
    );
    assert_eq!(podman.inspect("server", "{{.State.Running}}"), "true");
    let _ = podman.call(["kill", "server"]).ok();
    assert_eq!(podman.wait("server"), 137);
    assert_eq!(podman.exec("client", "echo goes on").ok(), "goes on\n");
    // One that ended is started again in the pod that still runs.
    let _ = podman.call(["start", "server"]).ok();
    assert_eq!(podman.exec("client", ask).ok(), "together\n");
    podman.assert_nothing_left();
}

#[test]
fn a_pod_is_stopped_and_started() {
    let Some(podman) = podman_with_pods() else {
        return;
    };
    let _ = podman.call(["pod", "create", "--name", "pod"]).ok();
    let script = "trap 'echo stopping; exit 0' TERM; echo ready; while :; do sleep 0.05; done";
    start_in_pod(&podman, "pod", "box", script);
    podman.wait_for_output("box", "ready");
    let state = |expected: &str| {
        let format = ["pod", "inspect", "--format", "{{.State}}", "pod"];
        assert_eq!(podman.call(format).ok().trim(), expected);
    };
    state("Running");
    let _ = podman.call(["pod", "pause", "pod"]).ok();
    assert_eq!(podman.inspect("box", "{{.State.Status}}"), "paused");
    let _ = podman.call(["pod", "unpause", "pod"]).ok();
    let _ = podman.call(["pod", "stop", "pod"]).ok();
    state("Exited");
    assert!(podman.call(["logs", "box"]).ok().contains("stopping"));
    let _ = podman.call(["pod", "start", "pod"]).ok();
    assert_eq!(podman.exec("box", "echo again").ok(), "again\n");
    assert!(podman.call(["pod", "top", "pod"]).ok().lines().count() >= 2);
    let _ = podman.call(["pod", "rm", "--force", "pod"]).ok();
    assert_eq!(podman.call(["ps", "--all", "--quiet"]).ok(), "");
    podman.assert_nothing_left();
}

#[test]
fn processes_of_a_pod_are_shared_when_asked_for() {
    let Some(podman) = podman_with_pods() else {
        return;
    };
    let create = ["pod", "create", "--name", "pod", "--share", "+pid"];
    let _ = podman.call(create).ok();
    start_in_pod(&podman, "pod", "one", "sleep 12345");
    start_in_pod(&podman, "pod", "two", "sleep 1000");
    let seen = podman.exec("two", "ps").ok();
    assert!(seen.contains("sleep 12345"), "{seen}");
}

#[test]
fn a_kubernetes_manifest_is_played() {
    let Some(podman) = podman_with_pods() else {
        return;
    };
    let data = podman.dir().join("data");
    fs::create_dir(&data).expect("a directory");
    fs::write(data.join("first"), "prepared\n").expect("written");
    let manifest = format!(
        r#"
apiVersion: v1
kind: ConfigMap
metadata:
  name: settings
data:
  word: of the map
---
apiVersion: v1
kind: Pod
metadata:
  name: played
spec:
  containers:
  - name: server
    image: {BUSYBOX}
    command: ["sh", "-c", "trap exit TERM; nc -ll -p 80 -e cat /data/first & wait"]
    resources: {{limits: {{memory: 64Mi}}}}
    volumeMounts: [{{name: data, mountPath: /data}}]
  - name: client
    image: {BUSYBOX}
    command: ["sh", "-c", "trap exit TERM; sleep 1000 & wait"]
    env:
    - name: WORD
      valueFrom: {{configMapKeyRef: {{name: settings, key: word}}}}
    securityContext: {{runAsUser: 1000}}
  volumes:
  - name: data
    hostPath: {{path: {data}}}
"#,
        data = data.display()
    );
    let file = podman.dir().join("pod.yaml");
    fs::write(&file, manifest).expect("written");
    let file = file.display().to_string();
    let _ = podman.call(["play", "kube", &file]).ok();
    let script = "echo $WORD; id -u; until nc 127.0.0.1 80 < /dev/null; do sleep 0.1; done";
    let seen = podman.exec("played-client", script).ok();
    assert_eq!(seen, "of the map\n1000\nprepared\n");
    let _ = podman.call(["play", "kube", "--down", &file]).ok();
    assert_eq!(podman.call(["pod", "ps", "--quiet"]).ok(), "");
    podman.assert_nothing_left();
}
