//! What a pod uses as a whole.

use containerd_shim_protos::cgroups_v2::metrics::Metrics;
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::sandbox_api::SandboxMetricsRequest;
use containerd_shim_protos::sandbox_async::SandboxClient;
use harness::containerd::{Containerd, is_sandboxer};
use harness::cri::{Cri, Pod};
use serde_json::Value;

/// Figures of a control group.
#[derive(Debug)]
struct Used {
    memory: u64,
    memory_limit: u64,
    cpu_us: u64,
    processes: u64,
}

/// Of a container of the CRI, or of the one that stands for a pod.
fn of_task(containerd: &Containerd, id: &str) -> Used {
    let arguments = [
        "--namespace",
        "k8s.io",
        "task",
        "metrics",
        "--format",
        "json",
        id,
    ];
    let metrics: Value = serde_json::from_str(&containerd.ctr(arguments).ok()).expect("JSON");
    let field = |path: &str| {
        let value = metrics.pointer(path).and_then(Value::as_u64);
        value.unwrap_or_else(|| panic!("no {path}: {metrics}"))
    };
    Used {
        memory: field("/memory/usage"),
        memory_limit: field("/memory/usage_limit"),
        cpu_us: field("/cpu/usage_usec"),
        processes: field("/pids/current"),
    }
}

/// Of a pod that is Hull's as a whole: containerd's own Sandbox API has nobody in it who would ask.
async fn of_sandbox(containerd: &Containerd, pod: &Pod) -> Used {
    let socket = containerd.only_state_dir().join("task.sock");
    let address = format!("unix://{}", socket.display());
    let client = ttrpc::asynchronous::Client::connect(&address).await;
    let request = SandboxMetricsRequest {
        sandbox_id: pod.id.clone(),
        ..Default::default()
    };
    let answer = SandboxClient::new(client.expect("it listens"))
        .sandbox_metrics(ttrpc::context::with_timeout(0), &request)
        .await;
    let metric = answer.expect("figures").metrics;
    assert_eq!(metric.id, pod.id);
    assert!(metric.timestamp.seconds > 0);
    assert_eq!(metric.data.type_url, "io.containerd.cgroups.v2.Metrics");
    let metrics = Metrics::parse_from_bytes(&metric.data.value).expect("figures");
    Used {
        memory: metrics.memory.usage,
        memory_limit: metrics.memory.usage_limit,
        cpu_us: metrics.cpu.usage_usec,
        processes: metrics.pids.current,
    }
}

#[tokio::test]
async fn the_figures_of_a_pod_are_those_of_its_machine() {
    let containerd = Containerd::new();
    let mut cri = Cri::connect(&containerd).await;
    let pod = cri.run_pod("figures").await;
    let container = cri.run(&pod, "c", &["sleep", "1000"]).await;
    let total = cri.memory_kib(&container).await;

    let own = of_task(&containerd, &container);
    let all = match is_sandboxer() {
        true => of_sandbox(&containerd, &pod).await,
        false => of_task(&containerd, &pod.id),
    };
    assert_eq!(all.memory_limit, total << 10, "{all:?}");
    // The kernel and the agent are in it as well.
    assert!(all.memory > own.memory, "{all:?} {own:?}");
    assert!(all.memory < all.memory_limit, "{all:?}");
    assert!(all.cpu_us > own.cpu_us, "{all:?} {own:?}");
    assert!(all.processes >= own.processes, "{all:?} {own:?}");
    cri.remove_pod(&pod).await;
    containerd.assert_no_pods();
}
