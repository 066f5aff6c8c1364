//! Pods as Kubernetes runs them: the CRI of a real containerd, with its CNI plugins.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use harness::containerd::Containerd;
use harness::cri::Cri;
use harness::machine::vmm;
use harness::network::{HOST_V4, fetch};
use harness::stream::{RESIZE, STATUS, STDIN, STDOUT, Stream};
use harness::traces::{pids_of, pods_only};
use k8s_cri::v1::{
    AttachRequest, ExecRequest, Mount, NamespaceMode, NamespaceOption, PodSandboxConfig,
    PortForwardRequest,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

#[tokio::test]
async fn containers_of_a_pod_share_its_machine() {
    let containerd = Containerd::new();
    let mut cri = Cri::connect(&containerd).await;
    let pod = cri.run_pod("shared").await;
    let one = cri.run(&pod, "one", &["sleep", "1000"]).await;
    let two = cri.run(&pod, "two", &["sleep", "1000"]).await;

    let boot = ["cat", "/proc/sys/kernel/random/boot_id"];
    let boot_of_one = cri.exec(&one, &boot).await.ok();
    assert_eq!(boot_of_one, cri.exec(&two, &boot).await.ok());
    assert_eq!(cri.exec(&one, &["hostname"]).await.ok(), "shared\n");
    // Each its own processes.
    let processes = ["sh", "-c", "ls -d /proc/[0-9]* | wc -l"];
    let count: u32 = cri
        .exec(&two, &processes)
        .await
        .ok()
        .trim()
        .parse()
        .expect("a number");
    assert!(count < 6, "{count}");

    let failed = cri
        .exec(&one, &["sh", "-c", "echo out; echo err >&2; exit 3"])
        .await;
    assert_eq!(
        (failed.code, failed.stdout.as_str(), failed.stderr.as_str()),
        (3, "out\n", "err\n")
    );

    cri.stop(&one, 0).await;
    assert_eq!(cri.status(&one).await.exit_code, 137);
    cri.remove(&one).await;
    assert_eq!(cri.exec(&two, &["echo", "still"]).await.ok(), "still\n");
    cri.remove_pod(&pod).await;
    containerd.assert_no_pods();
}

#[tokio::test]
async fn what_a_container_writes_is_logged() {
    let containerd = Containerd::new();
    let mut cri = Cri::connect(&containerd).await;
    let pod = cri.run_pod("logs").await;
    let script = "echo out; echo err >&2; exit 4";
    let id = cri.run(&pod, "talker", &["sh", "-c", script]).await;
    let status = cri.ended(&id).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (4, "Error"));
    let mut log = Cri::log(&pod, "talker");
    log.sort();
    let line = |stream: &str, text: &str| (stream.to_owned(), text.to_owned());
    assert_eq!(log, [line("stderr", "err"), line("stdout", "out")]);
    cri.remove_pod(&pod).await;
    containerd.assert_no_pods();
}

#[tokio::test]
async fn pods_and_the_host_reach_each_other() {
    let containerd = Containerd::new();
    let mut cri = Cri::connect(&containerd).await;
    let server = cri.run_pod("server").await;
    let client = cri.run_pod("client").await;
    assert_eq!(server.addresses.len(), 2, "{server:?}");
    let script = "exec nc -ll -p 80 -e echo hello";
    let serving = cri.run(&server, "serve", &["sh", "-c", script]).await;
    let asking = cri.run(&client, "ask", &["sleep", "1000"]).await;
    for address in &server.addresses {
        let ask = format!("until nc {address} 80 < /dev/null | grep hello; do sleep 0.1; done");
        assert_eq!(cri.exec(&asking, &["sh", "-c", &ask]).await.ok(), "hello\n");
    }
    let gateway = "ip route | grep -o 'default via [0-9.]*'";
    let gateway = cri.exec(&asking, &["sh", "-c", gateway]).await.ok();
    let gateway = gateway
        .trim()
        .rsplit(' ')
        .next()
        .expect("an address")
        .to_owned();
    // The bridge, and through it the host's other addresses.
    for host in [gateway.parse().expect("an address"), HOST_V4] {
        let port = containerd.network().serve(host, "from the host\n");
        let script = fetch(host, port);
        assert_eq!(
            cri.exec(&asking, &["sh", "-c", &script]).await.ok(),
            "from the host\n"
        );
    }
    let from_host = TcpStream::connect((server.addresses[0].as_str(), 80)).expect("it listens");
    let mut said = String::new();
    BufReader::new(from_host)
        .read_line(&mut said)
        .expect("a line");
    assert_eq!(said, "hello\n");
    let mtu = cri
        .exec(&serving, &["cat", "/sys/class/net/eth0/mtu"])
        .await
        .ok();
    assert_eq!(mtu, "1400\n");
    cri.remove_pod(&client).await;
    cri.remove_pod(&server).await;
    containerd.assert_no_pods();
}

#[tokio::test]
async fn processes_and_memory_are_shared_when_asked_for() {
    let containerd = Containerd::new();
    let mut cri = Cri::connect(&containerd).await;
    let pod = cri.run_pod("share").await;
    let shared = |name| {
        let mut config = Cri::container_config(name, &["sleep", "1000"]);
        let linux = config.linux.as_mut().expect("for Linux");
        let context = linux.security_context.as_mut().expect("a context");
        context.namespace_options = Some(NamespaceOption::default());
        config
    };
    let one = cri.start(&pod, shared("one")).await;
    let two = cri.start(&pod, shared("two")).await;
    let sleeping = "ps -o args | grep -c '^sleep 1000'";
    assert_eq!(cri.exec(&one, &["sh", "-c", sleeping]).await.ok(), "2\n");
    let write = ["sh", "-c", "echo hello > /dev/shm/file"];
    let _ = cri.exec(&one, &write).await.ok();
    assert_eq!(
        cri.exec(&two, &["cat", "/dev/shm/file"]).await.ok(),
        "hello\n"
    );
    let kind = cri
        .exec(&two, &["sh", "-c", "grep ' /dev/shm ' /proc/mounts"])
        .await
        .ok();
    assert!(
        kind.contains("tmpfs") && kind.contains("size=65536k"),
        "{kind}"
    );
    cri.remove_pod(&pod).await;
    containerd.assert_no_pods();
}

#[tokio::test]
async fn a_pod_has_no_namespace_of_the_host() {
    let containerd = Containerd::new();
    let mut cri = Cri::connect(&containerd).await;
    let own = NamespaceOption::default;
    let node = NamespaceMode::Node.into();
    let network = NamespaceOption {
        network: node,
        ..own()
    };
    let pid = NamespaceOption { pid: node, ..own() };
    let ipc = NamespaceOption { ipc: node, ..own() };
    for (why, options) in [("network", network), ("processes", pid), ("IPC", ipc)] {
        // Without a network namespace, containerd 2.1 makes the bundle of its sandboxer `shim` from a null
        // pointer, and ends.
        if why == "network" && harness::containerd::is_sandboxer() {
            continue;
        }
        let mut config = cri.pod_config("host");
        let linux = config.linux.as_mut().expect("for Linux");
        let context = linux.security_context.as_mut().expect("a context");
        context.namespace_options = Some(options);
        let refused = cri.try_run_pod(config).await.expect_err(why);
        let said = refused.message();
        assert!(
            said.contains(&format!("not supported: the host's {why}")),
            "{said}"
        );
    }
    containerd.assert_no_pods();
}

#[tokio::test]
async fn a_container_is_debugged_from_another() {
    let containerd = Containerd::new();
    let mut cri = Cri::connect(&containerd).await;
    let pod = cri.run_pod("debugged").await;
    let target = cri.run(&pod, "target", &["sleep", "1234"]).await;
    let other = cri.run(&pod, "other", &["sleep", "1000"]).await;
    // As `kubectl debug --target` asks for it.
    let mut config = Cri::container_config("debugger", &["sleep", "5678"]);
    let linux = config.linux.as_mut().expect("for Linux");
    let context = linux.security_context.as_mut().expect("a context");
    context.namespace_options = Some(NamespaceOption {
        pid: NamespaceMode::Target.into(),
        target_id: target.clone(),
        ..Default::default()
    });
    let debugger = cri.start(&pod, config).await;
    let processes = ["ps", "-o", "args"];
    let seen = cri.exec(&debugger, &processes).await.ok();
    assert!(
        seen.contains("sleep 1234") && seen.contains("sleep 5678"),
        "{seen}"
    );
    assert!(!seen.contains("sleep 1000"), "{seen}");
    assert!(!cri.exec(&other, &processes).await.ok().contains("1234"));

    // On the host each container has an id of its own, in the pod's network.
    let pids: BTreeSet<u32> = [&pod.id, &target, &other, &debugger]
        .map(|id| containerd.pid("k8s.io", id))
        .into();
    assert_eq!(pids.len(), 4, "{pids:?}");
    let networks = fs::read_dir("/run/netns")
        .expect("namespaces")
        .map(|entry| entry.expect("one").path());
    let networks: Vec<u64> = networks
        .map(|path| fs::metadata(path).expect("it").ino())
        .collect();
    for pid in pids {
        let network = fs::metadata(format!("/proc/{pid}/ns/net")).expect("its network");
        assert_eq!(networks, [network.ino()]);
    }
    cri.remove_pod(&pod).await;
    containerd.assert_no_pods();
}

#[tokio::test]
async fn a_terminal_is_attached_to_and_resized() {
    let containerd = Containerd::new();
    let mut cri = Cri::connect(&containerd).await;
    let pod = cri.run_pod("terminal").await;
    let id = cri.run(&pod, "c", &["sleep", "1000"]).await;
    let request = ExecRequest {
        container_id: id,
        cmd: vec!["sh".to_owned()],
        tty: true,
        stdin: true,
        stdout: true,
        stderr: false,
    };
    let answer = cri.runtime().exec(request).await.expect("it may be");
    let mut stream = Stream::open(&answer.into_inner().url);
    stream.send(RESIZE, br#"{"Width":99,"Height":33}"#);
    stream.send(
        STDIN,
        b"until stty size | grep '33 99'; do sleep 0.1; done; exit 6\n",
    );
    stream.until(STDOUT, "\n33 99");
    let status = stream.rest(STATUS);
    let status: serde_json::Value = serde_json::from_slice(&status).expect("JSON");
    assert_eq!(status["details"]["causes"][0]["message"], "6", "{status}");
    cri.remove_pod(&pod).await;
    containerd.assert_no_pods();
}

#[tokio::test]
async fn a_running_container_is_attached_to() {
    let containerd = Containerd::new();
    let mut cri = Cri::connect(&containerd).await;
    let pod = cri.run_pod("attach").await;
    let mut config = Cri::container_config("c", &["sh", "-c", "read line; echo got $line"]);
    config.stdin = true;
    config.stdin_once = true;
    let id = cri.start(&pod, config).await;
    let request = AttachRequest {
        container_id: id.clone(),
        stdin: true,
        stdout: true,
        stderr: true,
        tty: false,
    };
    let answer = cri.runtime().attach(request).await.expect("it may be");
    let mut stream = Stream::open(&answer.into_inner().url);
    stream.send(STDIN, b"hello\n");
    assert_eq!(stream.until(STDOUT, "\n"), "got hello\n");
    assert_eq!(cri.ended(&id).await.exit_code, 0);
    cri.remove_pod(&pod).await;
    containerd.assert_no_pods();
}

#[tokio::test]
async fn a_port_is_forwarded_to_the_loopback_of_a_pod() {
    let containerd = Containerd::new();
    let mut cri = Cri::connect(&containerd).await;
    let pod = cri.run_pod("forward").await;
    // It listens on the loopback only: nobody outside could reach it.
    let serve = "mkdir /www; echo hello > /www/index.html; httpd -f -p 127.0.0.1:7000 -h /www";
    let id = cri.run(&pod, "c", &["sh", "-c", serve]).await;
    let listens = "until netstat -ltn | grep -q 127.0.0.1:7000; do sleep 0.1; done";
    let _ = cri.exec(&id, &["sh", "-c", listens]).await.ok();
    let request = PortForwardRequest {
        pod_sandbox_id: pod.id.clone(),
        port: vec![7000],
    };
    let answer = cri
        .runtime()
        .port_forward(request)
        .await
        .expect("it may be");
    let url = format!("{}?port=7000", answer.into_inner().url);
    let mut stream = Stream::open(&url);
    // Either channel of a port says first which one it is for.
    let mut announced = [
        stream.read().expect("a port"),
        stream.read().expect("a port"),
    ];
    announced.sort();
    let port = 7000_u16.to_le_bytes().to_vec();
    assert_eq!(announced, [(0, port.clone()), (1, port)]);
    stream.send(0, b"GET / HTTP/1.0\r\n\r\n");
    let answer = stream.until(0, "hello\n");
    assert!(answer.contains(" 200 OK"), "{answer}");
    cri.remove_pod(&pod).await;
    containerd.assert_no_pods();
}

#[tokio::test]
async fn kernel_parameters_and_annotations_are_the_pods() {
    let containerd = Containerd::new();
    let mut cri = Cri::connect(&containerd).await;
    let mut config = cri.pod_config("parameters");
    let linux = config.linux.as_mut().expect("for Linux");
    linux.sysctls = [("fs.mqueue.msg_max", "100"), ("net.ipv4.ip_forward", "1")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    let annotate = |config: &mut PodSandboxConfig, name: &str, value: &str| {
        config.annotations.insert(name.to_owned(), value.to_owned());
    };
    annotate(&mut config, "dev.hull.vm.vcpus", "1");
    let kata = "io.katacontainers.config.hypervisor.default_memory";
    annotate(&mut config, kata, "192");
    let pod = cri.run_pod_of(config).await;
    let id = cri.run(&pod, "c", &["sleep", "1000"]).await;
    let mut shell = async |script: &str| cri.exec(&id, &["sh", "-c", script]).await.ok();
    let parameters = "cat /proc/sys/fs/mqueue/msg_max /proc/sys/net/ipv4/ip_forward; nproc";
    assert_eq!(shell(parameters).await, "100\n1\n1\n");
    let total = cri.memory_kib(&id).await / 1024;
    assert!((128..=192).contains(&total), "{total}");
    cri.remove_pod(&pod).await;

    let mut config = cri.pod_config("refused");
    annotate(&mut config, "dev.hull.vm.memroy", "1GiB");
    let refused = cri.try_run_pod(config).await.expect_err("refused");
    let message = refused.message();
    assert!(message.contains("did you mean"), "{message}");
    let mut config = cri.pod_config("not-allowed");
    annotate(&mut config, "dev.hull.guest.kernel", "/vmlinux");
    let refused = cri.try_run_pod(config).await.expect_err("refused");
    let message = refused.message();
    assert!(message.contains("annotations.allow"), "{message}");
    containerd.assert_no_pods();
}

#[tokio::test]
async fn pods_outlive_their_containerd() {
    let mut containerd = Containerd::new();
    let mut cri = Cri::connect(&containerd).await;
    let pod = cri.run_pod("outlives").await;
    let stays = cri.run(&pod, "stays", &["sleep", "1000"]).await;
    let volume = containerd.dir().join("volume");
    fs::create_dir(&volume).expect("a directory");
    let script = "until [ -e /volume/go ]; do sleep 0.1; done; exit 9";
    let mut config = Cri::container_config("goes", &["sh", "-c", script]);
    config.mounts = vec![Mount {
        host_path: volume.display().to_string(),
        container_path: "/volume".to_owned(),
        ..Default::default()
    }];
    let goes = cri.start(&pod, config).await;
    containerd.kill();
    fs::write(volume.join("go"), "").expect("written");
    // containerd 1.6 loses an end that comes while it recovers what runs, so it has to be over by then.
    while !containerd.has_recorded_exit(9) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    containerd.start();
    let mut cri = Cri::connect(&containerd).await;
    assert_eq!(cri.ended(&goes).await.exit_code, 9);
    assert_eq!(cri.exec(&stays, &["echo", "in"]).await.ok(), "in\n");
    cri.remove(&goes).await;
    let again = cri.run(&pod, "again", &["sleep", "1000"]).await;
    assert_eq!(cri.exec(&again, &["echo", "in"]).await.ok(), "in\n");
    cri.remove_pod(&pod).await;
    containerd.assert_no_pods();
}

#[tokio::test]
async fn a_pod_whose_machine_died_can_be_removed() {
    let containerd = Containerd::new();
    let mut cri = Cri::connect(&containerd).await;
    let pod = cri.run_pod("dies").await;
    let id = cri.run(&pod, "c", &["sleep", "1000"]).await;
    let vmm = pods_only(vmm(), &containerd.hull_root());
    kill(Pid::from_raw(vmm), Signal::SIGKILL).expect("killed");
    assert_eq!(cri.ended(&id).await.exit_code, 137);
    cri.remove_pod(&pod).await;
    containerd.assert_no_pods();

    let pod = cri.run_pod("dies-too").await;
    let id = cri.run(&pod, "c", &["sleep", "1000"]).await;
    let root = containerd.hull_root().display().to_string();
    let process = pids_of("containerd-shim-hull-v2", &root);
    assert_eq!(process.len(), 1, "{process:?}");
    kill(Pid::from_raw(process[0]), Signal::SIGKILL).expect("killed");
    assert_ne!(cri.ended(&id).await.exit_code, 0);
    cri.remove_pod(&pod).await;
    containerd.assert_no_pods();
}
