//! A guest whose first process ends: by itself, which the agent never does, so that another program takes its
//! place; or because somebody who is root in the guest, and not only in a container, has killed it.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use harness::traces::processes_with;
use harness::{Hull, Outcome, guest, run_arguments};

/// The guest with `script` for the agent.
fn guest_with(script: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let root = dir.path().join("root");
    std::fs::create_dir_all(root.join("bin")).expect("a directory");
    let shell = Command::new("sh")
        .args(["-c", "command -v busybox"])
        .output();
    let shell = String::from_utf8(shell.expect("a shell").stdout).expect("a path");
    std::fs::copy(shell.trim(), root.join("bin/busybox")).expect("busybox");
    let init = root.join("init");
    std::fs::write(&init, format!("#!/bin/busybox sh\n{script}\n")).expect("written");
    let executable = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(&init, executable).expect("executable");
    let image = dir.path().join("initramfs.img");
    let pack = "find . | cpio --create --format=newc --owner=0:0 --quiet > \"$0\"";
    let packed = Command::new("sh")
        .args(["-c", pack])
        .arg(&image)
        .current_dir(&root)
        .status();
    assert!(packed.expect("cpio").success());
    let kernel = guest().join("vmlinux");
    std::fs::copy(&kernel, dir.path().join("vmlinux")).expect("the kernel");
    dir
}

fn run(hull: &Hull, guest: &Path) -> Outcome {
    let mut command = hull.command(run_arguments(&[], &["true"]));
    Outcome(command.env("HULL_GUEST", guest).output().expect("hull"))
}

/// Checks that a guest's end was reported with `clues`, and that nothing is left of it.
fn assert_reported(hull: &Hull, outcome: &Outcome, clues: &[&str]) {
    let said = outcome.stderr();
    assert_eq!(outcome.code(), 125, "{said}");
    for clue in clues {
        assert!(said.contains(clue), "{clue:?} is not in {said}");
    }
    let left = processes_with(&hull.root().display().to_string());
    assert!(left.is_empty(), "{left:#?}");
    assert_eq!(hull.hull(["ps", "-a", "-q"]).ok(), "");
}

#[test]
fn an_agent_that_ends_is_reported_with_the_guests_last_words() {
    let hull = Hull::new();
    // Changing the terminal's settings waits until all is printed, as the kernel does not.
    let guest = guest_with("echo this agent gives up; /bin/busybox stty sane; exit 3");
    let clues = [
        "this agent gives up",
        "Attempted to kill init! exitcode=0x00000300",
    ];
    assert_reported(&hull, &run(&hull, guest.path()), &clues);
}

/// Lets the guest's kernel start a program outside of the container: the one that takes core dumps. PID 1 gets
/// no signal that would end it, so its code is overwritten. The container's end wakes it.
const KILL_THE_AGENT: &str = r#"
cat > /kill << 'END'
busybox=/proc/$1/root/bin/busybox
start=$($busybox sed -n '/ r-xp /{s/-.*//p;q}' /proc/1/maps)
$busybox dd if=/dev/zero of=/proc/1/mem bs=4096 seek=$((0x$start / 4096)) conv=notrunc
END
echo '|/proc/%P/root/bin/busybox sh /proc/%P/root/kill %P' > /proc/sys/kernel/core_pattern
echo 1 > /proc/sys/kernel/core_pipe_limit
sh -c 'kill -SEGV $$'
exit
"#;

#[test]
fn an_agent_that_is_killed_in_a_running_guest_is_reported() {
    let hull = Hull::new();
    let script = ["sh", "-c", KILL_THE_AGENT];
    let outcome = hull.run(&["--privileged"], &script);
    assert_reported(
        &hull,
        &outcome,
        &["Attempted to kill init! exitcode=0x0000000"],
    );
}
