//! Networks of containers.

use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use harness::engine::Engine;
use harness::network::HOST_V4;

/// A script that answers each connection to a port with a line.
pub(crate) fn server(port: u16, line: &str) -> String {
    format!(
        "echo 'echo {line}' > /tmp/answer; chmod +x /tmp/answer
        exec nc -ll -p {port} -e sh /tmp/answer"
    )
}

/// A script that prints what the server at `host` says, as soon as it listens.
fn ask(host: &str, port: u16) -> String {
    format!("until nc {host} {port} < /dev/null 2> /dev/null; do sleep 0.1; done")
}

/// What the server at a published port says, as soon as it listens.
pub(crate) fn answer_at(port: u16) -> String {
    let started = Instant::now();
    loop {
        let mut answer = String::new();
        // The engine's proxy accepts before the container does.
        let read = TcpStream::connect(SocketAddr::from((HOST_V4, port)))
            .and_then(|mut peer| peer.read_to_string(&mut answer));
        if read.is_ok() && !answer.is_empty() {
            return answer;
        }
        assert!(started.elapsed() < Duration::from_secs(60), "{read:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

pub(crate) fn a_port_is_published(engine: &Engine) {
    let host = engine.network().serve(HOST_V4, "the host\n");
    engine.start_in_network(
        "box",
        &["--publish", "8080:80"],
        &server(80, "the container"),
    );
    assert_eq!(answer_at(8080), "the container\n");
    // With pasta, the container has the host's own address, and the host another.
    let own = engine.exec("box", "ip -4 address").ok();
    let has_hosts = own.contains(&format!(" {HOST_V4}/"));
    let address = match has_hosts {
        true => "169.254.1.2".to_owned(),
        false => HOST_V4.to_string(),
    };
    assert_eq!(engine.exec("box", &ask(&address, host)).ok(), "the host\n");
    assert!(engine.call(["port", "box"]).ok().contains(":8080"));
    let address = engine.inspect("box", "{{.NetworkSettings.IPAddress}}");
    assert!(
        engine.exec("box", "ip -4 address").ok().contains(&address),
        "{address}"
    );
    engine.assert_nothing_left();
}

pub(crate) fn containers_find_each_other_by_name(engine: &Engine) {
    let _ = engine.call(["network", "create", "net"]).ok();
    engine.start_in_network("server", &["--network", "net"], &server(80, "by name"));
    engine.start_in_network("client", &["--network", "net"], "sleep 1000");
    assert_eq!(engine.exec("client", &ask("server", 80)).ok(), "by name\n");

    // A second network, while they run.
    let _ = engine.call(["network", "create", "later"]).ok();
    for name in ["server", "client"] {
        let _ = engine.call(["network", "connect", "later", name]).ok();
    }
    let format = "{{(index .NetworkSettings.Networks \"later\").IPAddress}}";
    let (address, own) = (
        engine.inspect("server", format),
        engine.inspect("client", format),
    );
    assert_eq!(engine.exec("client", &ask(&address, 80)).ok(), "by name\n");
    let _ = engine
        .call(["network", "disconnect", "later", "client"])
        .ok();
    let gone = format!("while ip -4 address | grep -q ' {own}/'; do sleep 0.1; done");
    let _ = engine.exec("client", &gone).ok();
}

pub(crate) fn a_container_joins_anothers_network(engine: &Engine) {
    engine.start_in_network("one", &[], &server(80, "nearby"));
    let joined = [
        "run",
        "--rm",
        "--network",
        "container:one",
        harness::engine::BUSYBOX,
    ];
    let joined = engine.call([&joined[..], &["sh", "-c", &ask("127.0.0.1", 80)]].concat());
    assert_eq!(joined.ok(), "nearby\n");
}

/// What `compose up` does for a service that needs another.
pub(crate) fn services_work_together(engine: &Engine) {
    let _ = engine
        .call(["network", "create", "--label", "project=p", "p_default"])
        .ok();
    let _ = engine
        .call(["volume", "create", "--label", "project=p", "p_data"])
        .ok();
    let common = [
        "--network",
        "p_default",
        "--volume",
        "p_data:/data",
        "--label",
        "project=p",
    ];
    let script = "echo of the store > /data/file; exec nc -ll -p 5000 -e cat /data/file";
    let of_store = [&common[..], &["--network-alias", "store"]].concat();
    engine.start_in_network("p_store_1", &of_store, script);
    let of_web = ["--network-alias", "web", "--publish", "8080:80"];
    let script = "echo 'nc store 5000 < /dev/null' > /tmp/a; exec nc -ll -p 80 -e sh /tmp/a";
    engine.start_in_network("p_web_1", &[&common[..], &of_web].concat(), script);
    assert_eq!(answer_at(8080), "of the store\n");
    let filter = ["ps", "--quiet", "--filter", "label=project=p"];
    assert_eq!(engine.call(filter).ok().lines().count(), 2);
    engine.remove(&["p_web_1", "p_store_1"]);
    let _ = engine.call(["network", "rm", "p_default"]).ok();
    let _ = engine.call(["volume", "rm", "p_data"]).ok();
    engine.assert_nothing_left();
}
