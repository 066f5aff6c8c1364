//! How large a pod's machine is, and what each of its containers may use of it.

use std::fs;

use harness::containerd::Containerd;
use harness::cri::Cri;
use harness::machine::vmm;
use harness::traces::pods_only;
use k8s_cri::v1::{
    ContainerConfig, ContainerStatsRequest, LinuxContainerResources,
    UpdateContainerResourcesRequest,
};

/// Limits of memory, MiB, and of CPUs.
fn limits(memory: i64, cpus: i64) -> LinuxContainerResources {
    LinuxContainerResources {
        memory_limit_in_bytes: memory << 20,
        cpu_period: 100_000,
        cpu_quota: cpus * 100_000,
        ..Default::default()
    }
}

/// A container that waits, with limits.
fn limited(name: &str, limits: LinuxContainerResources) -> ContainerConfig {
    let mut config = Cri::container_config(name, &["sleep", "1000"]);
    let linux = config.linux.as_mut().expect("for Linux");
    linux.resources = Some(limits);
    config
}

async fn update(cri: &mut Cri, id: &str, limits: LinuxContainerResources) {
    let update = UpdateContainerResourcesRequest {
        container_id: id.to_owned(),
        linux: Some(limits),
        ..Default::default()
    };
    let updated = cri.runtime().update_container_resources(update).await;
    updated.expect("updated");
}

async fn memory_mib(cri: &mut Cri, id: &str) -> u64 {
    cri.memory_kib(id).await / 1024
}

#[tokio::test]
async fn limits_size_the_machine_and_bound_each_container() {
    let containerd = Containerd::new();
    let mut cri = Cri::connect(&containerd).await;
    let mut config = cri.pod_config("limits");
    let linux = config.linux.as_mut().expect("for Linux");
    linux.resources = Some(limits(160, 3));
    let pod = cri.run_pod_of(config).await;
    let mut config = Cri::container_config("c", &["sleep", "1000"]);
    let linux = config.linux.as_mut().expect("for Linux");
    linux.resources = Some(limits(32, 1));
    let id = cri.start(&pod, config).await;

    let vmm = pods_only(vmm(), &containerd.hull_root());
    let groups = fs::read_to_string(format!("/proc/{vmm}/cgroup")).expect("read");
    let own = format!("{}/{}", containerd.cgroup(), pod.id);
    assert!(groups.contains(&own), "{own} is not among {groups}");
    assert_eq!(cri.exec(&id, &["nproc"]).await.ok(), "3\n");
    let total = memory_mib(&mut cri, &id).await;
    assert!((160..=224).contains(&total), "{total}");
    let read = "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max";
    let own = cri.exec(&id, &["sh", "-c", read]).await.ok();
    assert_eq!(own, "33554432\n100000 100000\n");

    update(&mut cri, &id, limits(48, 2)).await;
    let own = cri.exec(&id, &["sh", "-c", read]).await.ok();
    assert_eq!(own, "50331648\n200000 100000\n");

    let request = ContainerStatsRequest {
        container_id: id.clone(),
    };
    let stats = cri.runtime().container_stats(request).await;
    let stats = stats.expect("figures").into_inner().stats.expect("figures");
    let used = stats
        .memory
        .expect("memory")
        .working_set_bytes
        .expect("bytes");
    assert!(used.value > 0 && used.value < 32 << 20, "{used:?}");

    let hog = cri.exec(&id, &["tail", "/dev/zero"]).await;
    assert_eq!(hog.code, 137);
    cri.stop(&id, 0).await;
    cri.remove_pod(&pod).await;
    containerd.assert_no_pods();
}

#[tokio::test]
async fn a_container_that_ran_out_of_memory_says_so() {
    let containerd = Containerd::new();
    let mut cri = Cri::connect(&containerd).await;
    let pod = cri.run_pod("oom").await;
    let mut config = Cri::container_config("c", &["tail", "/dev/zero"]);
    let linux = config.linux.as_mut().expect("for Linux");
    linux.resources = Some(LinuxContainerResources {
        memory_limit_in_bytes: 32 << 20,
        ..Default::default()
    });
    let id = cri.start(&pod, config).await;
    let status = cri.ended(&id).await;
    assert_eq!(
        (status.reason.as_str(), status.exit_code),
        ("OOMKilled", 137)
    );
    cri.remove_pod(&pod).await;
    containerd.assert_no_pods();
}

#[tokio::test]
async fn a_machine_grows_for_the_containers_that_are_added() {
    let containerd = Containerd::new();
    let mut cri = Cri::connect(&containerd).await;
    let mut config = cri.pod_config("grows");
    for (name, value) in [
        ("vcpus", "1"),
        ("memory", "192MiB"),
        ("max_vcpus", "2"),
        ("max_memory", "1GiB"),
    ] {
        let name = format!("dev.hull.vm.{name}");
        config.annotations.insert(name, value.to_owned());
    }
    let pod = cri.run_pod_of(config).await;
    let small = cri.run(&pod, "small", &["sleep", "1000"]).await;
    assert_eq!(cri.exec(&small, &["nproc"]).await.ok(), "1\n");
    let at_first = memory_mib(&mut cri, &small).await;
    assert!(at_first < 192, "{at_first}");

    // 64 MiB for the guest itself, and what there is more is added in blocks of 128 MiB.
    let large = cri.start(&pod, limited("large", limits(256, 2))).await;
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let expected = format!("{}\n", cpus.min(2));
    assert_eq!(cri.exec(&small, &["nproc"]).await.ok(), expected);
    let grown = memory_mib(&mut cri, &small).await;
    assert!(
        (at_first + 120..=at_first + 128).contains(&grown),
        "{grown}"
    );
    let use_it = "BEGIN {s = sprintf(\"%1048576s\", \"x\"); for (i = 0; i < 220; i++) a[i] = s i; print length(a)}";
    assert_eq!(cri.exec(&large, &["awk", use_it]).await.ok(), "220\n");

    update(&mut cri, &large, limits(600, 2)).await;
    let grown = memory_mib(&mut cri, &small).await;
    assert!(
        (at_first + 490..=at_first + 512).contains(&grown),
        "{grown}"
    );
    // As far as the operator lets it; the container has its limit in any case.
    update(&mut cri, &large, limits(4096, 2)).await;
    let grown = memory_mib(&mut cri, &small).await;
    assert!(
        (at_first + 800..=at_first + 896).contains(&grown),
        "{grown}"
    );
    let limit = cri
        .exec(&large, &["cat", "/sys/fs/cgroup/memory.max"])
        .await;
    assert_eq!(limit.ok(), "4294967296\n");
    // It does not become smaller.
    update(&mut cri, &large, limits(32, 1)).await;
    assert_eq!(memory_mib(&mut cri, &small).await, grown);
    cri.remove_pod(&pod).await;
    containerd.assert_no_pods();
}
