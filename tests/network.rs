//! `--network`: what a container reaches, what reaches it, and what it must not reach.

use std::net::{IpAddr, Ipv4Addr};

use harness::network::{HOST_V4, HOST_V6, Network, fetch};
use harness::{Hull, Outcome, busybox};

/// Where systemd-resolved listens.
const LOOPBACK_SERVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 53);

/// `hull run` with the network `nat`, in the network that the test is in.
fn run(hull: &Hull, script: &str) -> Outcome {
    hull.hull(["run", "--rm", &busybox(), "sh", "-c", script])
}

#[test]
fn a_container_reaches_servers_by_both_families() {
    let network = Network::enter();
    let hull = Hull::new();
    for host in [IpAddr::from(HOST_V4), IpAddr::from(HOST_V6)] {
        let port = network.serve(host, "hello from a server\n");
        let outcome = run(&hull, &fetch(host, port));
        assert_eq!(outcome.ok(), "hello from a server\n", "{host}");
    }
}

#[test]
fn names_are_resolved_by_the_hosts_name_server() {
    let network = Network::enter();
    let hull = Hull::new();
    // One on the loopback is asked from elsewhere than one that the pod reaches by its own address.
    for (server, address) in [(HOST_V4, "192.0.2.77"), (LOOPBACK_SERVER, "192.0.2.78")] {
        network.resolve(server, address.parse().expect("an address"));
        network.use_name_server(server);
        let found = run(&hull, "nslookup service.test").ok();
        assert!(found.contains(address), "{server}: {found}");
    }
}

#[test]
fn the_hosts_loopback_is_out_of_reach() {
    let network = Network::enter();
    let port = network.serve(Ipv4Addr::LOCALHOST, "a secret\n");
    let hull = Hull::new();
    // Its own loopback, the gateway, the resolver, and addresses that a host's kernel takes for its own.
    for host in [
        [127, 0, 0, 1],
        [10, 72, 85, 1],
        [10, 72, 85, 3],
        [0, 0, 0, 0],
    ] {
        let host = Ipv4Addr::from(host);
        // What is let through answers at once; what is dropped never does.
        let script = fetch(host, port).replace("nc ", "nc -w 3 ");
        let outcome = run(&hull, &script);
        assert_eq!(outcome.stdout(), "", "{host}");
    }
}

#[test]
fn a_published_port_reaches_the_container() {
    let _network = Network::enter();
    let hull = Hull::new();
    let image = busybox();
    // httpd goes into the background when it listens.
    let script =
        "mkdir /www; echo published > /www/index.html; httpd -p 80 -h /www; echo ready; sleep 1000";
    let options = ["run", "--rm", "-p", "127.0.0.1:8080:80"];
    let mut child = hull.spawn(options.into_iter().chain([&*image, "sh", "-c", script]));
    harness::expect_line(&mut child, "ready");
    let answer = harness::network::get(8080);
    assert!(answer.ends_with("published\n"), "{answer}");

    let options = ["run", "--rm", "-p", "127.0.0.1:8080:80", &image, "true"];
    let line = hull.hull(options).one_error(125);
    assert!(line.contains("8080"), "{line}");
    child.kill().expect("killed");
    child.wait().expect("ended");
    harness::traces::wait_for_all(hull.root());
}

#[test]
fn none_is_a_loopback_and_nothing_else() {
    let hull = Hull::new();
    let interfaces = hull.run(&[], &["ls", "/sys/class/net"]).ok();
    assert_eq!(interfaces, "lo\n");
}
