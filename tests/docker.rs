//! Docker with `hull-runtime`.

use std::fs;

use harness::docker::{compose, docker, kill_and_start_again};
use harness::engine::{BUSYBOX, is_hull};
use harness::machine::POD_PROCESS;
use harness::network::HOST_V4;

mod engine;

use engine::network::answer_at;

engine::tests_of!(docker);

#[test]
fn health_is_checked() {
    let Some(docker) = docker() else { return };
    let check = ["--health-cmd", "test -e /healthy", "--health-retries", "1"];
    let options = [&check[..], &["--health-interval", "1s"]].concat();
    docker.start("box", &options, "touch /healthy; sleep 1000");
    docker.wait_until("box", "{{.State.Health.Status}}", "healthy");
    let _ = docker.exec("box", "rm /healthy").ok();
    docker.wait_until("box", "{{.State.Health.Status}}", "unhealthy");
    docker.assert_nothing_left();
}

#[test]
fn an_image_is_built() {
    let Some(docker) = docker() else { return };
    let dir = docker.dir().join("context");
    fs::create_dir(&dir).expect("a directory");
    fs::write(dir.join("file"), "of the context\n").expect("written");
    let steps = format!(
        "FROM {BUSYBOX}\nCOPY file /copied\nRUN cat /copied > /ran && uname -r >> /kernel\n\
         USER 1000\nWORKDIR /home/user\nRUN id -u > /tmp/who\nENTRYPOINT [\"cat\", \"/ran\", \"/tmp/who\"]\n"
    );
    fs::write(dir.join("Dockerfile"), steps).expect("written");
    let dir = dir.display().to_string();
    let build = ["build", "--network", "none", "--tag", "built:1", &dir];
    let built = docker.call(build);
    assert_eq!(built.code(), 0, "{}{}", built.stdout(), built.stderr());
    let run = ["run", "--rm", "--network", "none", "built:1"];
    assert_eq!(docker.call(run).ok(), "of the context\n1000\n");
    if is_hull() {
        let run = ["run", "--rm", "--network", "none", "--entrypoint", "cat"];
        let kernel = docker.call([&run[..], &["built:1", "/kernel"]].concat());
        assert!(
            kernel.ok().trim().ends_with("-hull"),
            "a step runs in a machine of its own"
        );
    }
    let steps = format!("FROM {BUSYBOX}\nRUN exit 5\n");
    fs::write(format!("{dir}/Dockerfile"), steps).expect("written");
    assert_ne!(docker.call(build).code(), 0);
    docker.assert_nothing_left();
}

#[test]
fn containers_outlive_the_daemon() {
    let Some(mut docker) = docker() else { return };
    let script = "echo ready; until [ -e /go ]; do sleep 0.05; done; exit 6";
    docker.start("box", &[], script);
    docker.wait_for_output("box", "ready");
    kill_and_start_again(&mut docker);
    assert_eq!(docker.inspect("box", "{{.State.Running}}"), "true");
    let _ = docker.exec("box", "touch /go").ok();
    assert_eq!(docker.wait("box"), 6);
    docker.assert_nothing_left();
}

/// A question for the address of `server` in bytes of `printf`, with its length before it (RFC 1035, 4.2.2).
const QUESTION: &str = r"\0\x18\x12\x34\1\0\0\1\0\0\0\0\0\0\6server\0\0\1\0\1";

/// Docker's name server listens on the loopback of a container's namespace on the host.
#[test]
fn names_are_resolved() {
    let Some(docker) = docker() else { return };
    let outside = "192.0.2.80".parse().expect("an address");
    docker.network().resolve(HOST_V4, outside);
    for network in ["net", "later"] {
        let _ = docker.call(["network", "create", network]).ok();
    }
    let aliased = ["--network", "net", "--network-alias", "alias"];
    docker.start_in_network("server", &aliased, "sleep 1000");
    docker.start_in_network("client", &["--network", "net"], "sleep 1000");
    let format = "{{.NetworkSettings.Networks.net.IPAddress}}";
    let address = docker.inspect("server", format);
    let look_up = |name: &str| docker.exec("client", &format!("nslookup {name}."));
    for name in ["server", "alias"] {
        let found = look_up(name).ok();
        assert!(found.contains(&address), "{name}: {found}");
    }
    let over_tcp =
        format!("printf '{QUESTION}' | nc 127.0.0.11 53 | od -An -v -tx1 | tr -d ' \\n'");
    let answer = docker.exec("client", &over_tcp).ok();
    let address_bytes = address.split('.').map(|byte| byte.parse().expect("a byte"));
    let address_bytes: String = address_bytes
        .map(|byte: u8| format!("{byte:02x}"))
        .collect();
    assert!(answer.ends_with(&address_bytes), "{address}: {answer}");
    let found = look_up("outside.example").ok();
    assert!(found.contains(&outside.to_string()), "{found}");
    // Started again, a pod process goes on.
    let _ = docker.kill_processes(POD_PROCESS);
    for (name, address) in [
        ("server", &address),
        ("outside.example", &outside.to_string()),
    ] {
        let found = look_up(name).ok();
        assert!(found.contains(address), "{name}: {found}");
    }
    let joined = ["run", "--rm", "--network", "container:client", BUSYBOX];
    let found = docker.call([&joined[..], &["nslookup", "server."]].concat());
    assert!(found.ok().contains(&address));

    // While they run, by a name that is new, and for one whose first network has no names.
    docker.start_in_network("late", &[], "sleep 1000");
    let connect = ["network", "connect", "--alias", "another", "later"];
    for name in ["server", "client", "late"] {
        let _ = docker.call([&connect[..], &[name]].concat()).ok();
    }
    let format = "{{.NetworkSettings.Networks.later.IPAddress}}";
    let address = docker.inspect("server", format);
    for name in ["client", "late"] {
        let find = format!("until nslookup another. | grep -F {address}; do sleep 0.1; done");
        let _ = docker.exec(name, &find).ok();
    }
    docker.assert_nothing_left();
}

/// Two services: the second one is started once the first is healthy, whose file it has in a volume, and knows it by name.
const SET: &str = "
services:
  store:
    image: localhost/busybox:1
    command: [sh, -c, 'echo of the store > /data/file; exec nc -ll -p 5000 -e cat /data/file']
    volumes: [data:/data]
    healthcheck: {test: [CMD, test, -s, /data/file], interval: 1s, retries: 60}
  web:
    image: localhost/busybox:1
    command: [sh, -c, 'cp /data/file /seen; exec nc -ll -p 80 -e nc store 5000']
    volumes: [data:/data:ro]
    ports: ['8080:80']
    depends_on: {store: {condition: service_healthy}}
volumes: {data: {}}
";

#[test]
fn compose_sets_run() {
    let Some(docker) = docker() else { return };
    let Some(compose) = compose(&docker, SET) else {
        return;
    };
    let _ = compose(&["up", "--detach"]).ok();
    assert_eq!(answer_at(8080), "of the store\n");
    let seen = compose(&["exec", "-T", "web", "cat", "/seen"]);
    assert_eq!(seen.ok(), "of the store\n");
    let running = compose(&["ps", "--quiet"]).ok();
    assert_eq!(running.lines().count(), 2);
    if is_hull() {
        let kernel = compose(&["exec", "-T", "store", "uname", "-r"]).ok();
        assert!(kernel.trim().ends_with("-hull"), "{kernel}");
    }

    // As a file that has not changed says, nothing is to be done.
    let _ = compose(&["up", "--detach"]).ok();
    assert_eq!(compose(&["ps", "--quiet"]).ok(), running);
    let _ = compose(&["restart", "--timeout", "0", "web"]).ok();
    assert_eq!(answer_at(8080), "of the store\n");
    let _ = compose(&["down", "--volumes", "--timeout", "0"]).ok();
    for what in [
        &["ps", "--all", "--quiet"][..],
        &["volume", "ls", "--quiet"],
    ] {
        assert_eq!(docker.call(what).ok(), "");
    }
    docker.assert_nothing_left();
}

/// Docker's other way to a runtime: the shim that containerd runs, for containers without a network.
#[test]
fn the_shim_is_a_runtime_too() {
    let Some(docker) = docker() else { return };
    let version = docker
        .call(["version", "--format", "{{.Server.Version}}"])
        .ok();
    let major = version
        .split('.')
        .next()
        .and_then(|major| major.parse().ok());
    if major.is_none_or(|major: u32| major < 23) {
        eprintln!("skipped: Docker takes a shim from version 23 on, this is {version}");
        return;
    }
    let shim = ["--runtime", "io.containerd.hull.v2"];
    let kernel = docker.run(&shim, "uname -r").ok();
    assert!(kernel.trim().ends_with("-hull"), "{kernel}");
    // Docker's networks want a process in a network namespace of its own, which a pod of the shim does not have.
    docker.start("box", &shim, "sleep 1000");
    assert_eq!(docker.exec("box", "echo in").ok(), "in\n");
    docker.assert_nothing_left();
}
