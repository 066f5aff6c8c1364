//! Interfaces that come to a pod's network namespace after its start, change, and go.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use harness::containerd::{Containerd, is_sandboxer};
use harness::cri::{Cri, Pod};
use harness::network::{fetch, ip};
use harness::program;
use harness::traces::{pids_of, wait_for_end};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Longest time that a warning has to appear.
const PATIENCE: Duration = Duration::from_secs(60);

/// The name of the network namespace of the only pod.
fn namespace() -> String {
    let entries = fs::read_dir("/run/netns").expect("namespaces");
    let names: Vec<_> = entries
        .map(|entry| entry.expect("one").file_name())
        .collect();
    assert_eq!(names.len(), 1, "{names:?}");
    names[0].to_string_lossy().into_owned()
}

/// Gives the pod an interface with the address 198.18.`net`.2; its other end has 198.18.`net`.1.
fn plug(name: &str, net: u8) {
    let (far, namespace) = (far(name), namespace());
    ip(&format!(
        "link add {far} type veth peer name {name} netns {namespace}"
    ));
    ip(&format!("address add 198.18.{net}.1/24 dev {far}"));
    ip(&format!("link set {far} up"));
    inside(&format!(
        "link set {name} mtu 1300 address 02:00:00:00:00:{net:02}"
    ));
    inside(&format!("address add 198.18.{net}.2/24 dev {name}"));
    inside(&format!("link set {name} up"));
    inside(&format!("route add 198.19.{net}.0/24 via 198.18.{net}.1"));
}

fn far(name: &str) -> String {
    format!("far-{name}")
}

/// `ip` in the pod's namespace.
fn inside(arguments: &str) {
    ip(&format!("-n {} {arguments}", namespace()));
}

/// Waits in a container until a condition holds.
async fn until(cri: &mut Cri, container: &str, condition: &str) {
    let script = format!("until {condition}; do sleep 0.1; done");
    let waited = cri.try_exec(container, &["sh", "-c", &script], 60).await;
    if let Ok(waited) = waited
        && waited.code == 0
    {
        return;
    }
    let look = ["sh", "-c", "ip address; ip route; ip -6 route"];
    let seen = cri.exec(container, &look).await.stdout;
    panic!("not so: {condition}\n{seen}");
}

/// A pod with one spare interface, and a container in it that sends back what it is sent at port 80.
async fn echo(cri: &mut Cri, name: &str) -> (Pod, String) {
    let pod = cri.run_pod(name).await;
    let server = ["nc", "-ll", "-p", "80", "-e", "cat"];
    let container = cri.run(&pod, "echo", &server).await;
    let listens = "netstat -ltn | grep -q ':80 '";
    until(cri, &container, listens).await;
    (pod, container)
}

fn exchange(connection: &mut TcpStream) {
    connection.write_all(b"hello\n").expect("sent");
    let mut answer = [0; 6];
    connection.read_exact(&mut answer).expect("an answer");
    assert_eq!(&answer, b"hello\n");
}

fn talk_to(address: &str) -> TcpStream {
    let mut connection = TcpStream::connect((address, 80)).expect("it listens");
    exchange(&mut connection);
    connection
}

#[tokio::test]
async fn an_interface_that_comes_later_is_the_pods() {
    let containerd = Containerd::new();
    containerd.set("network.spare_interfaces = 1");
    let mut cri = Cri::connect(&containerd).await;
    let (pod, id) = echo(&mut cri, "later").await;
    let list = ["ls", "/sys/class/net"];
    assert_eq!(cri.exec(&id, &list).await.ok(), "eth0\nlo\nspare0\n");
    let state = ["cat", "/sys/class/net/spare0/operstate"];
    assert_eq!(cri.exec(&id, &state).await.ok(), "down\n");
    let mut before = talk_to(&pod.addresses[0]);

    plug("net1", 7);
    until(
        &mut cri,
        &id,
        "ip route | grep '^198.19.7.0/24 via 198.18.7.1 dev net1'",
    )
    .await;
    let shown = cri.exec(&id, &["ip", "address", "show", "net1"]).await.ok();
    for part in ["mtu 1300", "02:00:00:00:00:07", "198.18.7.2/24", "UP"] {
        assert!(shown.contains(part), "{part} is not in {shown}");
    }
    assert_eq!(cri.exec(&id, &list).await.ok(), "eth0\nlo\nnet1\n");
    drop(talk_to("198.18.7.2"));
    let host = [198, 18, 7, 1];
    let port = containerd.network().serve(host, "from the other end\n");
    let script = fetch(host, port);
    let answer = cri.exec(&id, &["sh", "-c", &script]).await.ok();
    assert_eq!(answer, "from the other end\n");
    // The others go on as if nothing had happened.
    exchange(&mut before);
    drop(talk_to(&pod.addresses[0]));

    cri.remove_pod(&pod).await;
    containerd.assert_no_pods();
}

#[tokio::test]
async fn changes_of_interfaces_are_followed() {
    let containerd = Containerd::new();
    containerd.set("network.spare_interfaces = 1");
    let mut cri = Cri::connect(&containerd).await;
    let (pod, id) = echo(&mut cri, "changes").await;
    // The ones that the pod had at its start, and those that came later.
    plug("net1", 7);
    for name in ["eth0", "net1"] {
        inside(&format!("address add 198.18.9.2/24 dev {name}"));
        inside(&format!("address add 2001:db8:9::2/64 dev {name} nodad"));
        inside("route add 203.0.113.0/24 via 198.18.9.1");
        let all = "ip -6 address show dev NAME | grep 2001:db8:9::2 && ip route | grep '203.0.113.0/24 via 198.18.9.1 dev NAME'";
        until(&mut cri, &id, &all.replace("NAME", name)).await;
        inside("route del 203.0.113.0/24");
        until(&mut cri, &id, "! ip route | grep 203.0.113.0/24").await;
        inside(&format!("address del 198.18.9.2/24 dev {name}"));
        inside(&format!("address del 2001:db8:9::2/64 dev {name}"));
        until(
            &mut cri,
            &id,
            "! ip address | grep -e 198.18.9.2 -e 2001:db8:9",
        )
        .await;
        for mtu in [1290, 1450] {
            inside(&format!("link set {name} mtu {mtu}"));
            until(
                &mut cri,
                &id,
                &format!("grep {mtu} /sys/class/net/{name}/mtu"),
            )
            .await;
        }
    }
    inside("link set net1 down");
    until(&mut cri, &id, "[ ! -e /sys/class/net/net1 ]").await;
    inside("link set net1 name other address 02:00:00:00:00:99 up");
    until(&mut cri, &id, "ip address show other | grep 198.18.7.2/24").await;
    let address = ["cat", "/sys/class/net/other/address"];
    assert_eq!(cri.exec(&id, &address).await.ok(), "02:00:00:00:00:99\n");
    drop(talk_to("198.18.7.2"));
    drop(talk_to(&pod.addresses[0]));
    cri.remove_pod(&pod).await;
    containerd.assert_no_pods();
}

#[tokio::test]
async fn an_interface_that_goes_makes_room_for_another() {
    let containerd = Containerd::new();
    containerd.set("network.spare_interfaces = 1");
    let mut cri = Cri::connect(&containerd).await;
    let (pod, id) = echo(&mut cri, "room").await;
    plug("net1", 7);
    until(&mut cri, &id, "ip address show net1 | grep 198.18.7.2/24").await;
    ip(&format!("link del {}", far("net1")));
    until(&mut cri, &id, "[ -e /sys/class/net/spare0 ]").await;
    let left = cri.exec(&id, &["ip", "address"]).await.ok();
    assert!(
        !left.contains("net1") && !left.contains("198.18.7.2"),
        "{left}"
    );

    plug("net2", 8);
    until(&mut cri, &id, "ip address show net2 | grep 198.18.8.2/24").await;
    drop(talk_to("198.18.8.2"));
    // One more than there is room for.
    plug("net3", 9);
    let started = Instant::now();
    while !containerd
        .log()
        .contains("the pod does not get the interface net3")
    {
        assert!(started.elapsed() < PATIENCE, "{}", containerd.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(containerd.log().contains("network.spare_interfaces"));
    let list = ["ls", "/sys/class/net"];
    assert_eq!(cri.exec(&id, &list).await.ok(), "eth0\nlo\nnet2\n");
    drop(talk_to("198.18.8.2"));
    drop(talk_to(&pod.addresses[0]));
    // It is the pod's as soon as there is.
    inside("link del net2");
    until(&mut cri, &id, "ip address show net3 | grep 198.18.9.2/24").await;
    drop(talk_to("198.18.9.2"));
    cri.remove_pod(&pod).await;
    containerd.assert_no_pods();
}

/// Starts a pod process over a guest that runs, as `hull` does for its own containers.
fn attach(containerd: &Containerd) -> Child {
    let state = containerd.only_state_dir();
    let socket = state.join("task.sock");
    fs::remove_file(&socket).expect("removed");
    let listener = UnixListener::bind(&socket).expect("a socket");
    fcntl(&listener, FcntlArg::F_SETFD(FdFlag::empty())).expect("inherited");
    let log = fs::File::create(containerd.dir().join("attached.log")).expect("a log");
    Command::new(program("containerd-shim-hull-v2"))
        .args(["pod", "--attach", "--state-dir"])
        .arg(&state)
        .args(["--socket-fd", &listener.as_raw_fd().to_string()])
        .env("HULL_ROOT", containerd.hull_root())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("it starts")
}

#[tokio::test]
async fn a_pod_process_that_is_started_again_goes_on_following() {
    if is_sandboxer() {
        eprintln!(
            "not run: a pod process waits for containerd to describe such a sandbox, which it does once"
        );
        return;
    }
    let mut containerd = Containerd::new();
    containerd.set("network.spare_interfaces = 2");
    let mut cri = Cri::connect(&containerd).await;
    let (pod, id) = echo(&mut cri, "again").await;
    plug("net1", 7);
    until(&mut cri, &id, "ip address show net1 | grep 198.18.7.2/24").await;
    // containerd would take the pod for dead.
    containerd.kill();
    let root = containerd.hull_root().display().to_string();
    let process = pids_of("containerd-shim-hull-v2", &root);
    assert_eq!(process.len(), 1, "{process:?}");
    kill(Pid::from_raw(process[0]), Signal::SIGKILL).expect("killed");
    wait_for_end(process[0]);
    // While nobody follows, one comes and one changes.
    plug("net2", 8);
    inside("address add 198.18.10.2/24 dev net1");
    drop(talk_to("198.18.7.2"));
    let mut process = attach(&containerd);
    containerd.start();
    let mut cri = Cri::connect(&containerd).await;
    until(&mut cri, &id, "ip address show net2 | grep 198.18.8.2/24").await;
    until(&mut cri, &id, "ip address show net1 | grep 198.18.10.2/24").await;
    drop(talk_to("198.18.8.2"));
    // And from now on.
    inside("link del net1");
    until(&mut cri, &id, "[ ! -e /sys/class/net/net1 ]").await;
    plug("net3", 9);
    until(&mut cri, &id, "ip address show net3 | grep 198.18.9.2/24").await;
    drop(talk_to("198.18.9.2"));
    drop(talk_to(&pod.addresses[0]));
    cri.remove_pod(&pod).await;
    process.wait().expect("ended");
    containerd.assert_no_pods();
}
