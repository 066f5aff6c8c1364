//! A guest whose first process ends. Nothing in a running guest can bring the agent to that, so another
//! program takes its place.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use harness::traces::processes_with;
use harness::{Hull, program, run_arguments};

/// The directory with the guest that the build made.
fn guest() -> PathBuf {
    let built = program("hull").with_file_name("../guest");
    std::env::var_os("HULL_GUEST").map_or(built, PathBuf::from)
}

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

fn run(hull: &Hull, guest: &Path) -> harness::Outcome {
    let mut command = hull.command(run_arguments(&[], &["true"]));
    harness::Outcome(command.env("HULL_GUEST", guest).output().expect("hull"))
}

#[test]
fn an_agent_that_ends_is_reported_with_the_guests_last_words() {
    let hull = Hull::new();
    // Changing the terminal's settings waits until all is printed, as the kernel does not.
    let guest = guest_with("echo this agent gives up; /bin/busybox stty sane; exit 3");
    let outcome = run(&hull, guest.path());
    let said = outcome.stderr();
    assert_eq!(outcome.code(), 125, "{said}");
    assert!(said.contains("this agent gives up"), "{said}");
    assert!(
        said.contains("Attempted to kill init! exitcode=0x00000300"),
        "{said}"
    );
    let left = processes_with(&hull.root().display().to_string());
    assert!(left.is_empty(), "{left:#?}");
    assert_eq!(hull.hull(["ps", "-a", "-q"]).ok(), "");
}
