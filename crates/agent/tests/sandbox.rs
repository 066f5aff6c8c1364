//! What the containers of a pod share, and the guest as a whole.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "each test program uses its own part")]
mod support;

use hull_agent_api::agent::*;
use serde_json::json;
use support::{Guest, Setup, container, context, unique};
use ttrpc::Code;

macro_rules! guest {
    ($request:expr) => {
        match Guest::configured($request).await {
            Some(guest) => guest,
            None => return,
        }
    };
}

fn code(error: &ttrpc::Error) -> Code {
    match error {
        ttrpc::Error::RpcStatus(status) => status.code(),
        other => panic!("not a status: {other}"),
    }
}

/// A container's processes on the outside network with the rights to change it.
fn administrator(script: &str) -> Setup {
    let caps = json!(["CAP_NET_ADMIN", "CAP_SYS_ADMIN"]);
    Setup::shell(script).without("network").process(
        "capabilities",
        json!({"bounding": caps, "effective": caps, "permitted": caps}),
    )
}

#[tokio::test]
async fn containers_share_a_pid_namespace() {
    let guest = guest!(ConfigureSandboxRequest::new());
    let (first, second) = (unique("first"), unique("second"));
    let setup = Setup::shell("echo $$; cat").without("pid");
    let (names, one) = guest.streams(false).await;
    guest.create_sharing(&first, &setup, names).await.unwrap();
    guest.start_container(&first).await.unwrap();
    let script = "readlink /proc/1/exe; ls /proc | grep -c '^[0-9]'; kill -9 $(ps | awk '/[c]at$/ {print $1}'); echo $?";
    let (names, two) = guest.streams(false).await;
    let setup = Setup::shell(script);
    guest.create_sharing(&second, &setup, names).await.unwrap();
    guest.start_container(&second).await.unwrap();
    let (out, err) = two.exchange(b"").await;
    assert!(out.ends_with("0\n"), "{out} {err}");
    assert_eq!(guest.wait(&second, "").await.exit_status, 0);
    let (out, _) = one.exchange(b"").await;
    assert_ne!(out, "1\n");
    // Its shell ends with the status of the cat that the other container killed.
    assert_eq!(guest.wait(&first, "").await.exit_status, 137);
    guest.remove(&first).await.unwrap();
    guest.remove(&second).await.unwrap();
}

#[tokio::test]
async fn a_container_joins_the_pid_namespace_of_another() {
    let guest = guest!(ConfigureSandboxRequest::new());
    let target = unique("target");
    let script = "echo $$; read line; exit 3";
    let ends = guest.launch(&target, &Setup::shell(script)).await.unwrap();

    let (looks, sleeps) = (unique("looks"), unique("sleeps"));
    let look = Setup::shell("tr '\\0' ' ' < /proc/1/cmdline");
    let (names, streams) = guest.streams(false).await;
    let made = guest.create_beside(&looks, &target, &look, names).await;
    made.unwrap();
    guest.start_container(&looks).await.unwrap();
    let (out, _) = streams.exchange(b"").await;
    assert!(out.contains(script), "{out}");
    assert_eq!(guest.wait(&looks, "").await.exit_status, 0);

    let sleep = Setup::new(&["sleep", "1000"]);
    let nowhere = Stdio::default;
    let made = guest.create_beside(&sleeps, &target, &sleep, nowhere());
    made.await.unwrap();
    guest.start_container(&sleeps).await.unwrap();
    assert_eq!(ends.exchange(b"\n").await.0, "1\n");
    assert_eq!(guest.wait(&target, "").await.exit_status, 3);
    // The namespace ends with its first process, and all that is in it.
    assert_eq!(guest.wait(&sleeps, "").await.exit_status, 137);
    let late = unique("late");
    let late = guest.create_beside(&late, &target, &sleep, nowhere()).await;
    assert_eq!(code(&late.unwrap_err()), Code::FAILED_PRECONDITION);
    for id in [&looks, &sleeps, &target] {
        guest.remove(id).await.unwrap();
    }
}

#[tokio::test]
async fn nothing_outlives_the_first_process() {
    let guest = guest!(ConfigureSandboxRequest::new());
    let id = unique("leftover");
    // In the guest's PID namespace the kernel kills nobody when the first process ends.
    let setup = Setup::shell("sleep 1000 & sleep 1000 & echo started").without("pid");
    let ends = guest.launch(&id, &setup).await.unwrap();
    // The stream ends only when the sleepers are gone.
    assert_eq!(ends.exchange(b"").await.0, "started\n");
    guest.wait(&id, "").await;
    guest.remove(&id).await.unwrap();
}

#[tokio::test]
async fn orphans_are_reaped() {
    let guest = guest!(ConfigureSandboxRequest::new());
    let id = unique("orphans");
    let setup = Setup::shell(
        "for i in 1 2 3 4 5; do sh -c 'sh -c \"exit 1\" & :' ; done; \
         while ps -o stat | grep -q Z; do :; done; echo none left",
    )
    .without("pid");
    let ends = guest.launch(&id, &setup).await.unwrap();
    assert_eq!(ends.exchange(b"").await.0, "none left\n");
    guest.wait(&id, "").await;
    guest.remove(&id).await.unwrap();
}

#[tokio::test]
async fn a_second_configuration_is_refused() {
    let guest = guest!(ConfigureSandboxRequest::new());
    let request = ConfigureSandboxRequest::new();
    let error = guest.client.configure_sandbox(context(), &request).await;
    assert_eq!(code(&error.unwrap_err()), Code::FAILED_PRECONDITION);
}

#[tokio::test]
async fn the_host_name_is_seen_by_containers_without_their_own() {
    let mut request = ConfigureSandboxRequest::new();
    request.hostname = "podname".to_owned();
    let guest = guest!(request);
    if guest.is_elsewhere() {
        return;
    }
    let outcome = guest.run(&Setup::new(&["hostname"]).without("uts")).await;
    assert_eq!(outcome.stdout, "podname\n");
}

/// Makes an interface and returns its hardware address.
async fn an_interface(guest: &Guest) -> Option<Vec<u8>> {
    let make = "(ip link add dum0 type dummy || ip link add dum0 type bridge) 2>/dev/null; \
         cat /sys/class/net/dum0/address";
    let made = guest.run(&administrator(make)).await;
    let address = made.stdout.trim().to_owned();
    if address.is_empty() {
        eprintln!("skipped: this machine's kernel has neither dummy interfaces nor bridges");
        return None;
    }
    let bytes = address
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16).unwrap());
    Some(bytes.collect())
}

#[tokio::test]
async fn a_network_is_brought_to_the_given_state() {
    let guest = guest!(ConfigureSandboxRequest::new());
    let Some(hardware) = an_interface(&guest).await else {
        return;
    };
    let mut network = Network::new();
    let mut interface = Interface::new();
    interface.name = "eth7".to_owned();
    interface.hardware_address = hardware;
    interface.mtu = 1400;
    interface.addresses = vec!["10.7.0.2/24".to_owned(), "fd07::2/64".to_owned()];
    network.interfaces.push(interface);
    let route = |destination: &str, gateway: &str| {
        let mut route = Route::new();
        route.destination = destination.to_owned();
        route.gateway = gateway.to_owned();
        route.interface = "eth7".to_owned();
        route
    };
    network.routes = vec![
        route("", "10.7.0.1"),
        route("", "fd07::1"),
        route("192.168.77.0/24", ""),
    ];
    let mut neighbor = Neighbor::new();
    neighbor.address = "10.7.0.1".to_owned();
    neighbor.hardware_address = vec![2, 0, 0, 0, 0, 1];
    neighbor.interface = "eth7".to_owned();
    network.neighbors.push(neighbor);
    guest
        .client
        .configure_network(context(), &network)
        .await
        .unwrap();
    let show = "ip addr show eth7; ip route; ip -6 route; ip neigh";
    let text = guest.run(&administrator(show)).await.stdout;
    for part in [
        "mtu 1400",
        "inet 10.7.0.2/24 brd 10.7.0.255",
        "inet6 fd07::2/64",
        "default via 10.7.0.1 dev eth7",
        "default via fd07::1 dev eth7",
        "192.168.77.0/24 dev eth7 scope link",
        "10.7.0.1 dev eth7 lladdr 02:00:00:00:00:01",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    // Again, with less.
    network.interfaces[0].addresses = vec!["10.8.0.2/24".to_owned()];
    network.routes = vec![route("", "10.8.0.1")];
    network.neighbors.clear();
    guest
        .client
        .configure_network(context(), &network)
        .await
        .unwrap();
    let text = guest.run(&administrator(show)).await.stdout;
    assert!(text.contains("default via 10.8.0.1"), "{text}");
    for part in ["10.7.0.2", "fd07::2", "192.168.77.0", "via fd07::1"] {
        assert!(!text.contains(part), "{part} in {text}");
    }
    guest.run(&administrator("ip link del eth7")).await;
    let error = guest.client.configure_network(context(), &network).await;
    assert_eq!(code(&error.unwrap_err()), Code::NOT_FOUND);
}

#[tokio::test]
async fn what_containers_change_by_themselves_stays() {
    let guest = guest!(ConfigureSandboxRequest::new());
    let Some(hardware) = an_interface(&guest).await else {
        return;
    };
    let mut interface = Interface::new();
    interface.name = "eth7".to_owned();
    interface.hardware_address = hardware.clone();
    interface.addresses = vec!["10.7.0.2/24".to_owned(), "10.7.0.3/24".to_owned()];
    interface.no_prefix_routes = true;
    let mut route = Route::new();
    route.destination = "10.7.0.0/24".to_owned();
    route.interface = "eth7".to_owned();
    let mut via = route.clone();
    via.destination = String::new();
    via.gateway = "10.7.0.1".to_owned();
    let mut network = Network::new();
    network.interfaces = vec![interface];
    network.routes = vec![route, via];
    let configure = async |network: &Network| {
        let configured = guest.client.configure_network(context(), network).await;
        configured.unwrap();
    };
    configure(&network).await;
    let own = "ip addr add 10.9.0.9/32 dev eth7; ip route add 192.168.99.0/24 dev eth7; \
         ip route del default";
    guest.run(&administrator(own)).await;

    network.interfaces[0]
        .addresses
        .push("10.8.0.2/24".to_owned());
    configure(&network).await;
    let show = administrator("ip addr show eth7; ip route");
    let text = guest.run(&show).await.stdout;
    for part in ["10.7.0.2", "10.8.0.2", "10.9.0.9", "192.168.99.0/24"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(!text.contains("default"), "{text}");
    // The kernel takes the other addresses of the network along, but the host has only taken one.
    network.interfaces[0].addresses.remove(0);
    configure(&network).await;
    let text = guest.run(&show).await.stdout;
    for part in ["10.7.0.3", "10.8.0.2", "10.9.0.9", "10.7.0.0/24 dev eth7"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(!text.contains("10.7.0.2/24"), "{text}");

    let mut none = Network::new();
    none.spare_devices = vec![hardware.clone()];
    configure(&none).await;
    let show = administrator("ip addr show spare0; ip route; ip link show eth7 || echo gone");
    let text = guest.run(&show).await.stdout;
    for part in ["inet", "via", "dev", "UP"] {
        assert!(!text.contains(part), "{part} in {text}");
    }
    assert!(text.contains("gone"), "{text}");
    configure(&network).await;
    guest.run(&administrator("ip link del eth7")).await;
}

#[tokio::test]
async fn storages_are_mounted_and_unmounted() {
    let guest = guest!(ConfigureSandboxRequest::new());
    let base = format!("/run/hull/{}", unique("storage"));
    let mut tmpfs = Storage::new();
    tmpfs.driver = storage::Driver::TMPFS.into();
    tmpfs.target = format!("{base}/tmpfs");
    tmpfs.options = vec!["size=1m".to_owned(), "mode=0755".to_owned()];
    let mut bind = Storage::new();
    bind.driver = storage::Driver::BIND.into();
    bind.source = guest.root.join("data/text").display().to_string();
    bind.target = format!("{base}/tmpfs/bound");
    bind.options = vec!["ro".to_owned()];
    let id = unique("storages");
    let setup = Setup::shell("cat /mnt/bound; echo x > /mnt/bound || echo denied; cat")
        .mount(json!({"destination": "/mnt", "source": tmpfs.target, "options": ["rbind"]}));
    let (names, ends) = guest.streams(false).await;
    let mut request = guest.create_request(&id, &setup, names);
    request.storages = vec![tmpfs, bind];
    guest
        .client
        .create_container(context(), &request)
        .await
        .unwrap();
    guest.start_container(&id).await.unwrap();
    let (out, _) = ends.exchange(b"").await;
    assert_eq!(out, "not a program\ndenied\n");
    guest.wait(&id, "").await;
    guest.remove(&id).await.unwrap();
    // Neither the file system is there any more nor the directory on which it was mounted.
    let look = Setup::shell("ls /mnt | wc -l")
        .mount(json!({"destination": "/mnt", "source": base, "options": ["rbind"]}));
    assert_eq!(guest.run(&look).await.stdout, "0\n");
}

#[tokio::test]
async fn a_storage_that_cannot_be_mounted_fails_the_creation() {
    let guest = guest!(ConfigureSandboxRequest::new());
    let id = unique("no-storage");
    let setup = Setup::shell("true");
    let mut request = guest.create_request(&id, &setup, Stdio::new());
    let mut missing = Storage::new();
    missing.driver = storage::Driver::BIND.into();
    missing.source = "/no/such/thing".to_owned();
    missing.target = format!("/run/hull/{id}");
    request.storages.push(missing);
    let error = guest.client.create_container(context(), &request).await;
    let error = error.unwrap_err();
    assert_eq!(code(&error), Code::INTERNAL);
    assert!(error.to_string().contains("/no/such/thing"), "{error}");
    request.storages[0].driver = storage::Driver::UNSPECIFIED.into();
    let error = guest.client.create_container(context(), &request).await;
    assert_eq!(code(&error.unwrap_err()), Code::INVALID_ARGUMENT);
}

#[tokio::test]
async fn the_guest_gives_its_figures() {
    let guest = guest!(ConfigureSandboxRequest::new());
    let info = guest
        .client
        .guest_info(context(), &Empty::new())
        .await
        .unwrap();
    assert_eq!(info.agent_version, env!("CARGO_PKG_VERSION"));
    assert!(!info.kernel_release.is_empty());
    assert!(info.memory_total_bytes > info.memory_available_bytes);
    assert!(info.cpus_online > 0 && info.agent_rss_bytes > 0);
    let mut request = ReseedRandomRequest::new();
    request.entropy = vec![7; 64];
    guest
        .client
        .reseed_random(context(), &request)
        .await
        .unwrap();
}

#[tokio::test]
async fn limits_are_updated_and_counted() {
    let guest = guest!(ConfigureSandboxRequest::new());
    // Without the controllers, which belong to the first version's hierarchies on some machines.
    if !guest.has_controllers().await {
        return;
    }
    let resources = json!({
        "memory": {"limit": 64 << 20, "swap": 64 << 20, "reservation": 32 << 20},
        "cpu": {"shares": 1024, "quota": 50000, "period": 100_000, "cpus": "0"},
        "pids": {"limit": 50},
    });
    let cgroup = json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup"});
    let files = "cd /sys/fs/cgroup; for f in memory.max memory.swap.max memory.low cpu.weight \
         cpu.max cpuset.cpus pids.max; do test -e $f && cat $f || echo none; done";
    let setup = Setup::shell("cat")
        .linux("resources", resources)
        .mount(cgroup);
    let id = unique("limits");
    let ends = guest.launch(&id, &setup).await.unwrap();
    let seen = guest
        .run_exec(&id, &Setup::shell(files))
        .await
        .unwrap()
        .stdout;
    let lines: Vec<_> = seen.lines().collect();
    assert_eq!(lines[0], "67108864");
    assert!(["0", "none"].contains(&lines[1]), "{seen}");
    assert_eq!(lines[2..], ["33554432", "39", "50000 100000", "0", "50"]);
    let mut request = UpdateContainerRequest::new();
    request.container_id = id.clone();
    let update = json!({"memory": {"limit": 128 << 20}, "pids": {"limit": -1}});
    request.resources = serde_json::to_vec(&update).unwrap();
    guest
        .client
        .update_container(context(), &request)
        .await
        .unwrap();
    let seen = guest
        .run_exec(&id, &Setup::shell(files))
        .await
        .unwrap()
        .stdout;
    assert!(
        seen.starts_with("134217728\n") && seen.ends_with("max\n"),
        "{seen}"
    );
    let stats = guest
        .client
        .container_stats(context(), &container(&id))
        .await
        .unwrap();
    assert!(stats.metrics.len() > 100);
    ends.exchange(b"").await;
    guest.wait(&id, "").await;
    guest.remove(&id).await.unwrap();
}

#[tokio::test]
async fn the_number_of_processes_is_limited() {
    let guest = guest!(ConfigureSandboxRequest::new());
    if !guest.has_controllers().await {
        return;
    }
    let setup = Setup::shell("for i in 1 2 3 4 5 6 7 8; do sleep 1000 & done; echo unlimited")
        .linux("resources", json!({"pids": {"limit": 5}}));
    let outcome = guest.run(&setup).await;
    assert!(outcome.stderr.contains("fork"), "{outcome:?}");
    assert!(!outcome.stdout.contains("unlimited"), "{outcome:?}");
}

#[tokio::test]
async fn a_lack_of_memory_is_reported() {
    let guest = guest!(ConfigureSandboxRequest::new());
    if !guest.has_controllers().await {
        return;
    }
    // tail holds everything, for want of a line's end.
    let setup = Setup::new(&["/bin/sh", "-c", "exec tail -n 1 /dev/zero"]).linux(
        "resources",
        json!({"memory": {"limit": 16 << 20, "swap": 16 << 20}}),
    );
    let id = unique("oom");
    let before = 0;
    let ends = guest.launch(&id, &setup).await.unwrap();
    ends.exchange(b"").await;
    let end = guest.wait(&id, "").await;
    assert_eq!(end.exit_status, 137);
    assert!(end.oom_killed);
    let mut request = NextEventsRequest::new();
    request.after_sequence = before;
    loop {
        let response = guest.client.next_events(context(), &request).await.unwrap();
        let last = response.events.last().unwrap().sequence;
        if response
            .events
            .iter()
            .any(|event| event.oom().container_id == id)
        {
            break;
        }
        request.after_sequence = last;
    }
    guest.remove(&id).await.unwrap();
}

#[tokio::test]
async fn a_shutdown_ends_everything() {
    let mut guest = guest!(ConfigureSandboxRequest::new());
    if guest.is_elsewhere() {
        return;
    }
    let ends = guest
        .launch(&unique("last"), &Setup::new(&["/bin/sleep", "1000"]))
        .await
        .unwrap();
    guest
        .client
        .shutdown(context(), &Empty::new())
        .await
        .unwrap();
    // The container is gone, and then the agent.
    assert_eq!(ends.exchange(b"").await.0, "");
    assert!(guest.end().success());
}
