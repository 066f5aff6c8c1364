//! Pods as Kubernetes runs them: the CRI of a real containerd, with its CNI plugins.

use std::io::{BufRead, BufReader};
use std::net::TcpStream;

use harness::containerd::Containerd;
use harness::cri::Cri;
use harness::network::{HOST_V4, fetch};
use k8s_cri::v1::NamespaceOption;

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
    let script = "while :; do echo hello | nc -l -p 80; done";
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
