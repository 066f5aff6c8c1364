//! Roots that are file systems in files.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;
use std::process::Command;

use hull_sandbox::mount::{MountSpec, own_namespace};
use nix::mount::{MntFlags, umount2};

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program}: {output:?}");
}

/// The files behind this machine's loop devices.
fn backing_files() -> Vec<String> {
    let devices = fs::read_dir("/sys/block").unwrap();
    let files = devices.filter_map(|device| {
        fs::read_to_string(device.ok()?.path().join("loop/backing_file")).ok()
    });
    files.map(|name| name.trim().to_owned()).collect()
}

fn image(kind: &str, file: &Path, options: &[&str]) -> MountSpec {
    MountSpec {
        kind: kind.to_owned(),
        source: file.to_str().unwrap().to_owned(),
        options: options.iter().map(|option| (*option).to_owned()).collect(),
    }
}

#[test]
fn a_layer_of_erofs_and_a_writable_file_are_mounted_and_let_go() {
    own_namespace().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir(at("tree")).unwrap();
    fs::write(at("tree/file"), "from the image").unwrap();
    fs::create_dir(at("root")).unwrap();
    let text = |name: &str| at(name).to_str().unwrap().to_owned();

    run(
        "mkfs.erofs",
        &["--quiet", &text("layer.erofs"), &text("tree")],
    );
    image("erofs", &at("layer.erofs"), &["ro", "loop"])
        .mount(&at("root"))
        .unwrap();
    assert_eq!(
        fs::read_to_string(at("root/file")).unwrap(),
        "from the image"
    );
    umount2(&at("root"), MntFlags::empty()).unwrap();

    fs::File::create(at("root.ext4"))
        .unwrap()
        .set_len(8 << 20)
        .unwrap();
    run(
        "mkfs.ext4",
        &["-q", "-d", &text("tree"), &text("root.ext4")],
    );
    let root = image("ext4", &at("root.ext4"), &["loop"]);
    root.mount(&at("root")).unwrap();
    fs::write(at("root/file"), "changed").unwrap();
    umount2(&at("root"), MntFlags::empty()).unwrap();
    root.mount(&at("root")).unwrap();
    assert_eq!(fs::read_to_string(at("root/file")).unwrap(), "changed");
    umount2(&at("root"), MntFlags::empty()).unwrap();

    let own = dir.path().to_str().unwrap();
    let left: Vec<_> = backing_files()
        .into_iter()
        .filter(|file| file.starts_with(own))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_file_that_is_missing_is_named() {
    let error = image("erofs", Path::new("/no/such/layer"), &["ro", "loop"])
        .mount(Path::new("/"))
        .unwrap_err();
    assert!(error.to_string().contains("/no/such/layer"), "{error}");
}
