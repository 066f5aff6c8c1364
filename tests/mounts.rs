//! Options of bind mounts that hold for what is mounted below as well, on a real containerd.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use harness::Outcome;
use harness::containerd::Containerd;
use nix::mount::{MsFlags, mount};

/// A directory with a file system of its own below it, as the only thing in which `sub` is writable, or not.
fn tree(dir: &Path, sub_flags: MsFlags) {
    let sub = dir.join("sub");
    fs::create_dir_all(&sub).expect("a directory");
    let none = None::<&str>;
    let tmpfs = Some("tmpfs");
    mount(tmpfs, &sub, tmpfs, MsFlags::empty(), none).expect("tmpfs");
    let again = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | sub_flags;
    mount(none, &sub, none, again, none).expect("mounted again");
}

/// Runs a script in a container that has `dir` at `/v`.
fn run(containerd: &Containerd, dir: &Path, options: &str, script: &str) -> Outcome {
    let bind = format!("type=bind,src={},dst=/v,options={options}", dir.display());
    let mount = ["--mount", &bind];
    containerd.run(&mount, "c", &["sh", "-c", script])
}

/// Which of the two can be written to.
const WRITE: &str =
    "for dir in /v /v/sub; do ( : > $dir/x ) 2> /x && echo $dir || grep -o Read-only /x; done";

#[test]
fn read_only_is_for_one_mount_or_for_all_below() {
    let containerd = Containerd::new();
    let dir = containerd.dir().join("volume");
    tree(&dir, MsFlags::empty());
    for (options, expected) in [
        ("rbind:rw", "/v\n/v/sub\n"),
        ("rbind:ro", "Read-only\n/v/sub\n"),
        ("rbind:rro", "Read-only\nRead-only\n"),
    ] {
        let said = run(&containerd, &dir, options, WRITE).ok();
        assert_eq!(said, expected, "{options}");
    }
    containerd.assert_no_pods();
}

#[test]
fn what_is_read_only_below_may_be_made_writable() {
    let containerd = Containerd::new();
    let dir = containerd.dir().join("volume");
    tree(&dir, MsFlags::MS_RDONLY);
    for (options, expected) in [
        ("rbind:rw", "/v\nRead-only\n"),
        ("rbind:rrw", "/v\n/v/sub\n"),
    ] {
        let said = run(&containerd, &dir, options, WRITE).ok();
        assert_eq!(said, expected, "{options}");
    }
    containerd.assert_no_pods();
}

#[test]
fn a_container_that_may_mount_writes_no_more_than_others() {
    let containerd = Containerd::new();
    let dir = containerd.dir().join("volume");
    tree(&dir, MsFlags::empty());
    let script = format!("mount -o remount,bind,rw /v && {WRITE}");
    for (options, expected) in [
        ("rbind:rro", "Read-only\nRead-only\n"),
        ("rbind:ro", "Read-only\n/v/sub\n"),
    ] {
        let bind = format!("type=bind,src={},dst=/v,options={options}", dir.display());
        let options = ["--privileged", "--mount", &bind];
        let said = containerd.run(&options, "c", &["sh", "-c", &script]);
        assert_eq!(said.ok(), expected);
    }
    containerd.assert_no_pods();
}

#[test]
fn programs_below_are_not_run_where_that_is_said() {
    let containerd = Containerd::new();
    let dir = containerd.dir().join("volume");
    tree(&dir, MsFlags::empty());
    for place in [&dir, &dir.join("sub")] {
        let program = place.join("program");
        fs::write(&program, "#!/bin/sh\necho runs\n").expect("written");
        fs::set_permissions(program, Permissions::from_mode(0o755)).expect("executable");
    }
    let script = "for dir in /v /v/sub; do $dir/program || true; done";
    let runs = run(&containerd, &dir, "rbind:rw", script).ok();
    assert_eq!(runs, "runs\nruns\n");
    let denied = run(&containerd, &dir, "rbind:rnoexec:rnosuid:rnodev", script);
    assert_eq!(denied.ok(), "");
    containerd.assert_no_pods();
}
