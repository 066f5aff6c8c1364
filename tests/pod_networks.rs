//! Networks that CNI plug-ins other than a bridge give to pods.

use std::io::{Read, Write};
use std::net::{IpAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use harness::Outcome;
use harness::containerd::Containerd;
use harness::cri::{Cri, Pod};
use harness::network::{HOST_V4, fetch, ip};
use k8s_cri::v1::{Capability, ContainerConfig};
use serde_json::json;

fn run(program: &str, arguments: &str) -> Outcome {
    let output = Command::new(program)
        .args(arguments.split(' '))
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    Outcome(output)
}

/// Serves a file of this many bytes at port 80.
fn server(bytes: usize) -> ContainerConfig {
    let script = format!("mkdir /www; head -c {bytes} /dev/zero > /www/x; httpd -p 80 -h /www");
    let script = format!("{script}; touch /serves; exec sleep 1000");
    Cri::container_config("serves", &["sh", "-c", &script])
}

async fn wait_until_it_serves(cri: &mut Cri, server: &str) {
    let waits = "until [ -e /serves ]; do sleep 0.1; done";
    let _ = cri.exec(server, &["sh", "-c", waits]).await.ok();
}

/// Gets the file from the server at an address of a pod.
fn get(address: &str) -> usize {
    let mut stream = TcpStream::connect((address, 80)).expect("it listens");
    stream.write_all(b"GET /x HTTP/1.0\r\n\r\n").expect("sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer");
    let header = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n");
    answer.len() - header.expect("a header") - 4
}

#[tokio::test]
async fn bandwidth_is_limited_both_ways() {
    const BYTES: usize = 3_000_000;
    const BITS_PER_SECOND: u32 = 8_000_000;
    let mut containerd = Containerd::new();
    let limits = json!({
        "type": "bandwidth",
        "ingressRate": BITS_PER_SECOND,
        "ingressBurst": BITS_PER_SECOND / 10,
        "egressRate": BITS_PER_SECOND,
        "egressBurst": BITS_PER_SECOND / 10,
    });
    containerd.use_network(&[containerd.bridge(), limits]);
    let mut cri = Cri::connect(&containerd).await;
    let pod = cri.run_pod("limited").await;
    let id = cri.start(&pod, server(BYTES)).await;
    wait_until_it_serves(&mut cri, &id).await;
    // A second is a megabyte, and the first tenth of one is let through at once.
    let least = Duration::from_secs(2);

    let started = Instant::now();
    assert_eq!(get(&pod.addresses[0]), BYTES);
    let out = started.elapsed();
    assert!(out > least, "out of the pod: {out:?}");

    let content = "x".repeat(BYTES).leak();
    let port = containerd.network().serve(HOST_V4, content);
    let count = format!("{} | wc -c", fetch(HOST_V4, port));
    let started = Instant::now();
    let counted = cri.exec(&id, &["sh", "-c", &count]).await.ok();
    let into = started.elapsed();
    assert_eq!(counted.trim(), BYTES.to_string());
    assert!(into > least, "into the pod: {into:?}");
    cri.remove_pod(&pod).await;
    containerd.assert_no_pods();
}

#[tokio::test]
async fn bandwidth_limits_are_a_pods_own() {
    let mut containerd = Containerd::new();
    let limits = json!({"type": "bandwidth", "capabilities": {"bandwidth": true}});
    containerd.use_network(&[containerd.bridge(), limits]);
    let mut cri = Cri::connect(&containerd).await;
    let mut config = cri.pod_config("limited");
    for (direction, limit) in [("ingress", "3M"), ("egress", "5M")] {
        let name = format!("kubernetes.io/{direction}-bandwidth");
        config.annotations.insert(name, limit.to_owned());
    }
    let limited = cri.run_pod_of(config).await;
    let free = cri.run_pod("free").await;
    let disciplines = run("tc", "qdisc show").ok();
    let limits = disciplines.lines().filter(|line| line.contains(" tbf "));
    assert_eq!(limits.count(), 2, "{disciplines}");
    for rate in ["rate 3Mbit", "rate 5Mbit"] {
        assert!(disciplines.contains(rate), "{rate}: {disciplines}");
    }
    let server_id = cri.start(&limited, server(1000)).await;
    wait_until_it_serves(&mut cri, &server_id).await;
    assert_eq!(get(&limited.addresses[0]), 1000);
    for pod in [&limited, &free] {
        cri.remove_pod(pod).await;
    }
    let disciplines = run("tc", "qdisc show").ok();
    assert!(!disciplines.contains(" tbf "), "{disciplines}");
    containerd.assert_no_pods();
}

/// The subnets of interfaces on top of the host's own.
const SUBNETS: [&str; 2] = ["203.0.113.0/24", "2001:db8:2::/64"];

/// Gives the host an address in those, on an interface beside the pods'. False where this kernel has no
/// interfaces of the kind.
fn join(kind: &str) -> bool {
    let add = format!("link add link uplink name beside type {kind}");
    if run("ip", &add).code() != 0 {
        eprintln!("this kernel has no {kind}: nothing is tested");
        return false;
    }
    for arguments in [
        "address add 203.0.113.250/24 dev beside",
        "address add 2001:db8:2::250/64 dev beside nodad",
        "link set beside up",
    ] {
        ip(arguments);
    }
    true
}

/// Two pods that serve a file.
async fn two_servers(cri: &mut Cri) -> [(Pod, String); 2] {
    let mut pods = Vec::new();
    for name in ["one", "two"] {
        let pod = cri.run_pod(name).await;
        let mut config = server(100_000);
        let linux = config.linux.as_mut().expect("for Linux");
        let context = linux.security_context.as_mut().expect("a context");
        context.capabilities = Some(Capability {
            add_capabilities: vec!["NET_ADMIN".to_owned()],
            ..Default::default()
        });
        let id = cri.start(&pod, config).await;
        wait_until_it_serves(cri, &id).await;
        pods.push((pod, id));
    }
    pods.try_into().expect("two")
}

/// They reach the host, are reached and reach each other, by both families.
async fn talk(containerd: &Containerd, cri: &mut Cri, pods: &[(Pod, String); 2]) {
    let [(one, client), (two, _)] = pods;
    for address in one.addresses.iter().chain(&two.addresses) {
        assert_eq!(get(address), 100_000, "{address}");
    }
    for host in ["203.0.113.250", "2001:db8:2::250"] {
        let host: IpAddr = host.parse().expect("an address");
        let port = containerd.network().serve(host, "from the host\n");
        let script = format!("{}; rm /open", fetch(host, port));
        let said = cri.exec(client, &["sh", "-c", &script]).await;
        assert_eq!(said.ok(), "from the host\n");
    }
    for address in &two.addresses {
        let host = match address.contains(':') {
            true => format!("[{address}]"),
            false => address.clone(),
        };
        let get = format!("wget -q -O - http://{host}/x | wc -c");
        let counted = cri.exec(client, &["sh", "-c", &get]).await.ok();
        assert_eq!(counted.trim(), "100000", "{host}");
    }
}

#[tokio::test]
async fn an_interface_may_be_a_macvlan() {
    let mut containerd = Containerd::new();
    let network = json!({
        "type": "macvlan",
        "master": "uplink",
        "mode": "bridge",
        "ipam": containerd.addresses(SUBNETS),
    });
    containerd.use_network(&[network]);
    if !join("macvlan mode bridge") {
        return;
    }
    let mut cri = Cri::connect(&containerd).await;
    let pods = two_servers(&mut cri).await;
    talk(&containerd, &mut cri, &pods).await;
    // A group that only the guest has joined: the one in which neighbours ask for this address.
    let script = "ip address add 2001:db8:2::240/64 dev eth0;
        while ip address show dev eth0 | grep -q tentative; do sleep 0.1; done";
    let _ = cri.exec(&pods[0].1, &["sh", "-c", script]).await.ok();
    assert_eq!(get("2001:db8:2::240"), 100_000);
    for (pod, _) in &pods {
        cri.remove_pod(pod).await;
    }
    containerd.assert_no_pods();
}

/// Pods in a network of ipvlans.
async fn talk_by_ipvlan(mode: &str) {
    let mut containerd = Containerd::new();
    let network = json!({
        "type": "ipvlan",
        "master": "uplink",
        "mode": mode,
        "ipam": containerd.addresses(SUBNETS),
    });
    containerd.use_network(&[network]);
    if !join(&format!("ipvlan mode {mode}")) {
        return;
    }
    let mut cri = Cri::connect(&containerd).await;
    let pods = two_servers(&mut cri).await;
    talk(&containerd, &mut cri, &pods).await;
    for (pod, _) in &pods {
        cri.remove_pod(pod).await;
    }
    containerd.assert_no_pods();
}

#[tokio::test]
async fn an_interface_may_be_an_ipvlan() {
    talk_by_ipvlan("l2").await;
}

#[tokio::test]
async fn an_interface_may_be_an_ipvlan_that_routes() {
    talk_by_ipvlan("l3").await;
}
