//! Podman with `hull-runtime`.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use harness::debian;
use harness::engine::{BUSYBOX, is_hull, runtime};
use harness::podman::podman;

mod engine;

engine::tests_of!(podman);

/// What Podman calls a health check's result is what its command ends with; nothing checks by itself here.
#[test]
fn health_is_checked() {
    let Some(podman) = podman() else { return };
    let options = ["--health-cmd", "test -e /healthy", "--health-retries", "1"];
    podman.start("box", &options, "touch /healthy; echo ready; sleep 1000");
    podman.wait_for_output("box", "ready");
    assert_eq!(podman.call(["healthcheck", "run", "box"]).code(), 0);
    assert_eq!(podman.inspect("box", "{{.State.Health.Status}}"), "healthy");
    let _ = podman.exec("box", "rm /healthy").ok();
    assert_ne!(podman.call(["healthcheck", "run", "box"]).code(), 0);
    let health = podman.inspect("box", "{{.State.Health.Status}}");
    assert_eq!(health, "unhealthy");
}

#[test]
fn an_image_is_built() {
    let Some(podman) = podman() else { return };
    let dir = podman.dir().join("context");
    fs::create_dir(&dir).expect("a directory");
    fs::write(dir.join("file"), "of the context\n").expect("written");
    let steps = format!(
        "FROM {BUSYBOX}\nCOPY file /copied\nRUN cat /copied > /ran && uname -r >> /kernel\n\
         USER 1000\nWORKDIR /home/user\nRUN id -u > who\nENTRYPOINT [\"cat\", \"/ran\", \"who\"]\n"
    );
    fs::write(dir.join("Containerfile"), steps).expect("written");
    let dir = dir.display().to_string();
    let build = [
        "build",
        "--network",
        "none",
        "--tag",
        "localhost/built:1",
        &dir,
    ];
    let built = podman.call(build);
    assert_eq!(built.code(), 0, "{}{}", built.stdout(), built.stderr());
    let run = ["run", "--rm", "--network", "none", "localhost/built:1"];
    assert_eq!(podman.call(run).ok(), "of the context\n1000\n");
    if is_hull() {
        let run = ["run", "--rm", "--network", "none", "--entrypoint", "cat"];
        let kernel = podman.call([&run[..], &["localhost/built:1", "/kernel"]].concat());
        assert!(
            kernel.ok().trim().ends_with("-hull"),
            "a step runs in a machine of its own"
        );
    }
    // A step that fails fails the build.
    let steps = format!("FROM {BUSYBOX}\nRUN exit 5\n");
    fs::write(format!("{dir}/Containerfile"), steps).expect("written");
    assert_ne!(podman.call(build).code(), 0);
    podman.assert_nothing_left();
}

#[test]
fn podman_knows_its_runtime() {
    let Some(podman) = podman() else { return };
    let format = "{{.Host.OCIRuntime.Name}} {{.Host.OCIRuntime.Path}}";
    let info = podman.call(["info", "--format", format]).ok();
    assert_eq!(info.trim(), format!("hull {}", runtime().display()));
    podman.start("box", &[], "sleep 1000");
    assert_eq!(podman.inspect("box", "{{.OCIRuntime}}"), "hull");
    // A container that is made and not started yet.
    let create = [
        "create",
        "--name",
        "made",
        "--network",
        "none",
        BUSYBOX,
        "echo",
        "made",
    ];
    let _ = podman.call(create).ok();
    let _ = podman.call(["init", "made"]).ok();
    assert_eq!(podman.inspect("made", "{{.State.Status}}"), "initialized");
    let started = podman.call(["start", "--attach", "made"]).ok();
    assert_eq!(started, "made\n");
}

/// Everything is stopped and started again by one command, as after a restart of the machine.
#[test]
fn a_container_is_renamed_and_replaced() {
    let Some(podman) = podman() else { return };
    podman.start("box", &[], "trap exit TERM; sleep 1000 & wait");
    let _ = podman.call(["rename", "box", "other"]).ok();
    assert_eq!(podman.exec("other", "echo in").ok(), "in\n");
    podman.start("other", &["--replace"], "echo new; sleep 1000");
    podman.wait_for_output("other", "new");
    let _ = podman.call(["stop", "--all", "--time", "0"]).ok();
    assert_eq!(podman.inspect("other", "{{.State.Running}}"), "false");
    podman.assert_nothing_left();
}

/// Who looks after the container hears of it in the container's control group, which is in the guest.
#[test]
fn a_want_of_memory_is_told() {
    let Some(podman) = podman() else { return };
    if !is_hull() {
        eprintln!("skipped: conmon does not always see it in time");
        return;
    }
    if !podman.call(["--version"]).ok().contains(" 4.") {
        eprintln!("skipped: Podman 5 looks for it where only conmon writes");
        return;
    }
    podman.start("box", &["--memory", "32m"], "exec tail /dev/zero");
    assert_eq!(podman.call(["wait", "box"]).ok(), "137\n");
    assert_eq!(podman.inspect("box", "{{.State.OOMKilled}}"), "true");
    let _ = podman.call(["rm", "box"]).ok();
    podman.start("box", &["--memory", "32m"], "sleep 1000");
    let _ = podman.call(["kill", "box"]).ok();
    assert_eq!(podman.call(["wait", "box"]).ok(), "137\n");
    assert_eq!(podman.inspect("box", "{{.State.OOMKilled}}"), "false");
    podman.assert_nothing_left();
}

const DEBIAN: &str = "localhost/debian:1";

/// A script that waits for `/go` and then says that it is ready.
const READY_AT_GO: &str = "until [ -e /go ]; do sleep 0.1; done
    perl -MSocket -e 'socket(S, AF_UNIX, SOCK_DGRAM, 0) or die $!;
        send(S, \"READY=1\\nSTATUS=up\\n\", 0, sockaddr_un($ENV{NOTIFY_SOCKET})) or die $!'
    echo told; sleep 1000";

/// A service manager hears that a container is ready when its program says so, and not before.
#[test]
fn readiness_is_told() {
    let Some(mut podman) = podman() else { return };
    podman.add_image(&debian(), DEBIAN);
    let path = podman.dir().join("manager");
    let manager = UnixDatagram::bind(&path).expect("a socket");
    let limit = Some(Duration::from_secs(60));
    manager.set_read_timeout(limit).expect("a limit");
    podman.always(&[], &[("NOTIFY_SOCKET", path.display().to_string())]);
    let run = ["run", "-d", "--name", "box", "--network", "none"];
    let what = ["--sdnotify", "container", DEBIAN, "sh", "-c", READY_AT_GO];
    let _ = podman.call([run, what].concat()).ok();
    let mut buffer = [0; 4096];
    let mut next = || {
        let length = manager.recv(&mut buffer)?;
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&buffer[..length]).into_owned())
    };
    manager.set_nonblocking(true).expect("a mode");
    while let Ok(told) = next() {
        assert!(!told.contains("READY=1"), "{told}");
    }
    manager.set_nonblocking(false).expect("a mode");
    let _ = podman.exec("box", "touch /go").ok();
    while !next().expect("a notification").contains("READY=1") {}
    podman.wait_for_output("box", "told");
    podman.assert_nothing_left();
}

/// The same without Podman, for a service of which the runtime is the program: `start` waits with it.
#[test]
fn the_runtime_tells_of_readiness() {
    let Some(podman) = podman() else { return };
    podman.add_image(&debian(), DEBIAN);
    let dir = podman.dir();
    let (bundle, archive) = (dir.join("bundle"), dir.join("root.tar"));
    let root = bundle.join("rootfs");
    fs::create_dir_all(&root).expect("a directory");
    let _ = podman.call(["create", "--name", "box", DEBIAN]).ok();
    let archive = archive.display().to_string();
    let _ = podman.call(["export", "--output", &archive, "box"]).ok();
    let path = dir.join("manager");
    let manager = UnixDatagram::bind(&path).expect("a socket");
    let limit = Some(Duration::from_secs(60));
    manager.set_read_timeout(limit).expect("a limit");
    let run = |program: &Path, arguments: &[&str]| {
        let mut command = Command::new(program);
        let command = command.current_dir(&bundle).env("NOTIFY_SOCKET", &path);
        let command = command.args(arguments).stdin(Stdio::null());
        command.stdout(Stdio::null()).spawn().expect("it starts")
    };
    let runs = |program: &Path, arguments: &[&str]| {
        let status = run(program, arguments).wait().expect("an end");
        assert!(status.success(), "{arguments:?}");
    };
    runs(Path::new("tar"), &["-xf", &archive, "-C", "rootfs"]);
    runs(&runtime(), &["spec"]);
    let file = bundle.join("config.json");
    let text = fs::read_to_string(&file).expect("a specification");
    let mut spec: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    spec["process"]["terminal"] = false.into();
    spec["process"]["args"] = serde_json::json!(["sh", "-c", READY_AT_GO]);
    fs::write(&file, spec.to_string()).expect("written");

    let state = dir.join("state").display().to_string();
    let command = |rest: &[&'static str]| [&["--root", &*state], rest].concat();
    runs(
        &runtime(),
        &command(&["create", "--pid-file", "pid", "service"]),
    );
    let mut start = run(&runtime(), &command(&["start", "service"]));
    fs::write(root.join("go"), "").expect("written");
    let mut message = [0; 4096];
    let mut told = String::new();
    while !told.contains("MAINPID=") {
        let length = manager.recv(&mut message).expect("a notification");
        told += &String::from_utf8_lossy(&message[..length]);
        told += "\n";
    }
    let pid = fs::read_to_string(bundle.join("pid")).expect("a process id");
    let lines: Vec<_> = told.split_whitespace().collect();
    assert_eq!(lines, ["READY=1", &format!("MAINPID={pid}")]);
    assert!(start.wait().expect("an end").success());
    runs(&runtime(), &command(&["delete", "--force", "service"]));
    podman.assert_nothing_left();
}
