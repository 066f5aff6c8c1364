//! Pods that go on from a template (`vm.start`), with a VMM that takes snapshots, and what the others say.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use harness::containerd::Containerd;
use harness::cri::Cri;
use harness::machine::{POD_PROCESS, takes_snapshots};
use harness::network::Network;
use harness::traces::{pids_of, wait_for_end};
use harness::{Hull, Outcome, busybox};
use k8s_cri::v1::LinuxContainerResources;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn hull() -> Hull {
    Hull::new().with_settings("vm.start = \"template\"\n")
}

/// Whether this run's VMM takes snapshots. The test says so where it does not.
fn can() -> bool {
    if !takes_snapshots() {
        eprintln!("skipped: this VMM takes no snapshots");
    }
    takes_snapshots()
}

/// The templates in a directory, without those that are not whole.
fn whole(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).expect("there are templates");
    let dirs = entries.map(|entry| entry.expect("an entry").path());
    dirs.filter(|dir| dir.join("snapshot.json").exists())
        .collect()
}

fn templates(hull: &Hull) -> Vec<PathBuf> {
    whole(&hull.root().join("templates"))
}

fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.expect("it is later than 1970").as_secs()
}

#[test]
fn a_vmm_without_snapshots_says_so() {
    if takes_snapshots() {
        eprintln!("skipped: this VMM takes snapshots");
        return;
    }
    let hull = hull();
    let error = hull.run(&[], &["true"]).one_error(125);
    assert!(
        error.contains("cannot do this: start a machine from a snapshot"),
        "{error}"
    );
    assert!(!hull.root().join("templates").exists());
    harness::traces::wait_for_all(hull.root());
}

#[test]
fn guests_of_one_template_have_nothing_of_each_other() {
    if !can() {
        return;
    }
    let hull = hull();
    let script = "cat /proc/sys/kernel/random/uuid /proc/sys/kernel/random/boot_id; hostname; \
                  head -c 32 /dev/urandom | sha256sum; date +%s";
    let run = |name: &str| {
        let before = now();
        let said = hull.run(&["--hostname", name], &["sh", "-c", script]).ok();
        let lines: Vec<_> = said.lines().map(str::to_owned).collect();
        let [uuid, boot, host, bytes, date] = lines.try_into().expect("five lines");
        assert_eq!(host, name);
        let date: u64 = date.parse().expect("seconds");
        // The guest's clock is set to that of the host, which may be at the end of a second.
        assert!(
            (before.saturating_sub(1)..=now() + 1).contains(&date),
            "{date}"
        );
        [uuid, boot, bytes]
    };
    let (first, second) = (run("one"), run("two"));
    for (first, second) in first.iter().zip(&second) {
        assert_ne!(first, second);
    }
    assert_eq!(templates(&hull).len(), 1);
    // Another machine has another template.
    let _ = hull.run(&["--memory", "96m"], &["true"]).ok();
    assert_eq!(templates(&hull).len(), 2);
}

#[test]
fn virtio_fs_is_refused() {
    if !can() {
        return;
    }
    let settings = "vm.start = \"template\"\nvm.file_sharing = \"virtio-fs\"\n";
    let hull = Hull::new().with_settings(settings);
    let error = hull.run(&[], &["true"]).one_error(125);
    assert!(error.contains("not supported: virtio-fs"), "{error}");
    harness::traces::wait_for_all(hull.root());
}

#[test]
fn they_run_at_once_and_are_reached() {
    if !can() {
        return;
    }
    let _network = Network::enter();
    let hull = hull();
    let image = busybox();
    let serve = |word: &str, port: u16| {
        let script = format!(
            "mkdir /www; echo {word} > /www/index.html; httpd -p 80 -h /www; echo ready; sleep 1000"
        );
        let publish = format!("127.0.0.1:{port}:80");
        let arguments = ["run", "--rm", "-p", &publish, &image, "sh", "-c", &script];
        hull.spawn(arguments)
    };
    // Both want a template that is not there yet.
    let mut children = [serve("one", 8080), serve("two", 8081)];
    for child in &mut children {
        harness::expect_line(child, "ready");
    }
    assert_eq!(templates(&hull).len(), 1);
    for (port, word) in [(8080, "one\n"), (8081, "two\n")] {
        let answer = harness::network::get(port);
        assert!(answer.ends_with(word), "{answer}");
    }
    for mut child in children {
        child.kill().expect("killed");
        child.wait().expect("ended");
    }
    harness::traces::wait_for_all(hull.root());
}

#[test]
fn a_broken_template_is_told_and_made_anew() {
    if !can() {
        return;
    }
    let hull = hull();
    let _ = hull.run(&[], &["true"]).ok();
    let found = templates(&hull);
    for entry in fs::read_dir(&found[0]).expect("a template") {
        let path = entry.expect("an entry").path();
        if path.file_name().expect("a name") != "snapshot.json" {
            fs::write(path, "nothing").expect("written");
        }
    }
    let error = hull.run(&[], &["true"]).one_error(125);
    eprintln!("{error}");
    assert_eq!(hull.run(&[], &["echo", "again"]).ok(), "again\n");
    harness::traces::wait_for_all(hull.root());
}

#[test]
fn a_pod_process_that_is_killed_while_it_makes_one_leaves_nothing() {
    if !can() {
        return;
    }
    let hull = hull();
    let image = busybox();
    let arguments = ["run", "--rm", "--network", "none", &image, "echo", "done"];
    let child = hull.spawn(arguments);
    let record = loop {
        let runs = fs::read_dir(hull.root().join("run")).into_iter().flatten();
        let records = runs.map(|entry| entry.expect("an entry").path().join("t/vm.json"));
        let mut written = records.filter_map(|record| fs::read(record).ok());
        if let Some(Ok(record)) = written.next().map(|text| serde_json::from_slice(&text)) {
            let record: serde_json::Value = record;
            break record;
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    // Its guest gets no further.
    let vmm = record["vmm"]["pid"].as_i64().expect("a process id");
    let vmm = i32::try_from(vmm).expect("a process id");
    kill(Pid::from_raw(vmm), Signal::SIGSTOP).expect("stopped");
    for pod in pids_of(POD_PROCESS, &hull.root().display().to_string()) {
        kill(Pid::from_raw(pod), Signal::SIGKILL).expect("killed");
    }
    let outcome = Outcome(child.wait_with_output().expect("hull ends"));
    assert_eq!(outcome.code(), 125, "{}", outcome.stderr());
    wait_for_end(vmm);
    harness::traces::wait_for_all(hull.root());
    assert_eq!(templates(&hull), Vec::<PathBuf>::new());
    assert_eq!(hull.run(&[], &["echo", "again"]).ok(), "again\n");
}

#[tokio::test]
async fn pods_of_an_engine_have_networks_of_their_own_and_grow() {
    if !can() {
        return;
    }
    let containerd = Containerd::new();
    let dir = containerd.templates();
    let settings = [
        "vm.start = \"template\"",
        &format!("vm.template_dir = {:?}", dir.display().to_string()),
        "vm.memory = \"192MiB\"",
        "vm.max_memory = \"1GiB\"",
        "vm.vcpus = 1",
        "vm.max_vcpus = 2",
    ];
    containerd.set(&settings.join("\n"));
    let mut cri = Cri::connect(&containerd).await;
    let script = "mkdir /www; hostname > /www/name; exec httpd -f -p 80 -h /www";
    let mut pods = Vec::new();
    for name in ["first", "second"] {
        let pod = cri.run_pod(name).await;
        let config = Cri::container_config("serves", &["sh", "-c", script]);
        let id = cri.start(&pod, config).await;
        pods.push((pod, id));
        assert_eq!(whole(&dir).len(), 1);
    }
    let addresses: Vec<_> = pods
        .iter()
        .map(|(pod, _)| pod.addresses[0].clone())
        .collect();
    assert_ne!(addresses[0], addresses[1]);
    for (own, (_, id)) in pods.iter().enumerate() {
        let shown = cri.exec(id, &["ip", "address", "show", "eth0"]).await.ok();
        assert!(shown.contains(&addresses[own]), "{shown}");
        for (address, name) in addresses.iter().zip(["first", "second"]) {
            let get = format!("until wget -q -O - http://{address}/name; do sleep 0.1; done");
            let said = cri.exec(id, &["sh", "-c", &get]).await.ok();
            assert_eq!(said.trim(), name);
        }
    }

    let (second, id) = &pods[1];
    let at_first = cri.memory_kib(id).await;
    let mut config = Cri::container_config("large", &["sleep", "1000"]);
    let resources = LinuxContainerResources {
        memory_limit_in_bytes: 512 << 20,
        cpu_quota: 200_000,
        cpu_period: 100_000,
        ..Default::default()
    };
    config.linux.get_or_insert_default().resources = Some(resources);
    let large = cri.start(second, config).await;
    let grown = cri.memory_kib(id).await;
    assert!(
        grown > at_first + (256 << 10),
        "{at_first} KiB, then {grown} KiB"
    );
    assert_eq!(cri.exec(&large, &["nproc"]).await.ok(), "2\n");
    // Of all that its guest may grow to, only what was touched takes the disk.
    let sizes = fs::read_dir(&whole(&dir)[0]).expect("files").map(|file| {
        let found = file.expect("a file").metadata().expect("its size");
        found.blocks() * 512
    });
    let size: u64 = sizes.sum();
    assert!(size < 128 << 20, "{size} bytes");
    for (pod, _) in &pods {
        cri.remove_pod(pod).await;
    }
    containerd.assert_no_pods();
}
