//! Podman of an ordinary user's, with `hull-runtime`.

use std::fs;
use std::os::unix::fs::MetadataExt;

use harness::engine::{BUSYBOX, is_hull};
use harness::machine::POD_PROCESS;
use harness::podman::rootless_podman;

#[expect(
    dead_code,
    reason = "what does not depend on who the user is is tried as root"
)]
mod engine;

use engine::network::{answer_at, server};

engine::tests_of! { rootless_podman;
    processes:
        a_program_ends_with_its_code, a_container_has_its_own_kernel, a_container_is_entered,
        signals_reach_a_container, a_running_container_is_removed;
    streams: output_is_kept, a_terminal_is_passed_through, a_running_container_is_attached_to;
    files: containers_share_a_volume;
    limits: a_container_is_confined, capabilities_are_given_and_taken;
    network:
        a_port_is_published, containers_find_each_other_by_name, a_container_joins_anothers_network;
}

/// The first ids of the user and of the range that the user has besides.
const OWN: u32 = 54_321;
const FIRST: u32 = 600_000;

#[test]
fn files_have_owners_among_the_users_ids() {
    let Some(podman) = rootless_podman() else {
        return;
    };
    let user = podman.user().expect("an ordinary user");
    let volume = user.make("home/volume");
    user.give(&volume);
    let bind = format!("{}:/volume", volume.display());
    let options = ["--rm", "--volume", &bind];
    let script =
        "touch /volume/roots /volume/others; chown 5:6 /volume/others; stat -c %u:%g /volume/*";
    assert_eq!(podman.run(&options, script).ok(), "5:6\n0:0\n");
    let owner = |name: &str| {
        let found = fs::metadata(volume.join(name)).expect("it is there");
        (found.uid(), found.gid())
    };
    assert_eq!(owner("roots"), (OWN, OWN));
    assert_eq!(owner("others"), (FIRST + 4, FIRST + 5));

    // The user under their own number.
    let options = [&options[..], &["--userns", "keep-id"]].concat();
    let said = podman.run(&options, "id -u; touch /volume/own; stat -c %u /volume/own");
    assert_eq!(said.ok(), format!("{OWN}\n{OWN}\n"));
    assert_eq!(owner("own"), (OWN, OWN));
    podman.assert_nothing_left();
}

#[test]
fn devices_are_the_guests() {
    let Some(podman) = rootless_podman() else {
        return;
    };
    let run = |option: &[&str], script: &str| {
        let options = [&["--rm"], option].concat();
        podman.run(&options, script)
    };
    let open = "exec 3<> /dev/fuse && echo open";
    assert_eq!(run(&["--device", "/dev/fuse"], open).ok(), "open\n");
    let mount = "mkdir /m && mount -t tmpfs tmpfs /m && echo mounted";
    assert_eq!(run(&["--privileged"], mount).ok(), "mounted\n");
    assert_ne!(run(&[], mount).code(), 0);
    podman.assert_nothing_left();
}

#[test]
fn a_port_in_a_network_of_ones_own_is_published() {
    let Some(podman) = rootless_podman() else {
        return;
    };
    let _ = podman.call(["network", "create", "net"]).ok();
    let options = ["--network", "net", "--publish", "8080:80"];
    podman.start_in_network("box", &options, &server(80, "the container"));
    assert_eq!(answer_at(8080), "the container\n");
    podman.assert_nothing_left();
}

#[test]
fn a_pod_is_one_machine() {
    let Some(podman) = rootless_podman() else {
        return;
    };
    let infra = ["--infra-image", BUSYBOX, "--infra-command", "sleep 1000000"];
    let create = [&["pod", "create", "--name", "pod"], &infra[..]].concat();
    let _ = podman.call(create).ok();
    podman.start_in_network(
        "first",
        &["--pod", "pod"],
        "exec nc -l -p 80 -e echo from the first",
    );
    let ask = "until nc 127.0.0.1 80 < /dev/null 2> /dev/null; do sleep 0.1; done";
    let said = podman.call(["run", "--rm", "--pod", "pod", BUSYBOX, "sh", "-c", ask]);
    assert_eq!(said.ok(), "from the first\n");
    podman.assert_nothing_left();
}

#[test]
fn a_container_ends_with_its_pod_process() {
    let Some(podman) = rootless_podman() else {
        return;
    };
    if !is_hull() {
        eprintln!("skipped: these are processes of Hull");
        return;
    }
    podman.start("box", &[], "echo started; sleep 1000");
    podman.wait_for_output("box", "started");
    let _ = podman.kill_processes(POD_PROCESS);
    assert_eq!(podman.wait("box"), 137);
    podman.assert_nothing_left();
}
