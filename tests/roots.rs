//! Containers whose roots are images (`root.kind`).

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use harness::traces::tree;
use harness::{Hull, busybox, program};

fn hull() -> Hull {
    Hull::new().with_settings("root.kind = \"image\"\n")
}

/// The images in the cache, each by name and inode.
fn images(hull: &Hull) -> Vec<(PathBuf, u64)> {
    let entries = fs::read_dir(hull.root().join("root-images")).expect("a cache");
    let entries = entries.map(|entry| entry.expect("an entry"));
    let found = entries.map(|entry| (entry.path(), entry.metadata().expect("a file").ino()));
    found.collect()
}

#[test]
fn what_is_written_is_in_the_guest_and_ends_with_the_container() {
    let hull = hull();
    let script = "[ ! -e /new ] && echo content > /new && cat /new && rm /etc/passwd && ls /etc";
    let image = busybox();
    let create = ["create", "--name", "again", "--network", "none", &image];
    let _ = hull
        .hull([&create[..], &["sh", "-c", script]].concat())
        .ok();
    let first = hull.hull(["start", "--attach", "again"]).ok();
    assert!(first.starts_with("content\ngroup\n"), "{first}");
    assert!(!first.contains("passwd"), "{first}");
    assert_eq!(hull.hull(["start", "--attach", "again"]).ok(), first);
    let written = tree(hull.root(), &|path: &Path| path.ends_with("new"));
    assert!(written.is_empty(), "{written:?}");

    let _ = hull.run_in_background(&["sleep", "1000"]).ok();
    let exec = |command: &[&str]| hull.hull([&["exec", "c"], command].concat()).ok();
    let _ = exec(&["sh", "-c", "echo written > /new"]);
    assert_eq!(exec(&["cat", "/new"]), "written\n");
    for copy in [["cp", "c:/new", "/tmp"], ["cp", "/etc/passwd", "c:/etc"]] {
        let refused = hull.hull(copy).one_error(1);
        let says = refused.contains("not supported") && refused.contains("root.kind");
        assert!(says, "{refused}");
    }
    let _ = hull.hull(["rm", "-f", "c"]).ok();
}

#[test]
fn containers_share_one_image_until_a_layer_is_changed_on_disk() {
    let hull = hull();
    let sum = |hull: &Hull| {
        hull.run(&[], &["sha256sum", "/bin/busybox", "/etc/group"])
            .ok()
    };
    let first = sum(&hull);
    let one = images(&hull);
    assert_eq!(one.len(), 1, "{one:?}");
    assert_eq!(sum(&hull), first);
    assert_eq!(images(&hull), one);
    // What is copied into a container before its start is its own.
    let create = [
        "create",
        "--name",
        "c",
        "--network",
        "none",
        &busybox(),
        "cat",
        "/name",
    ];
    let _ = hull.hull(create).ok();
    let file = hull.root().join("name");
    fs::write(&file, "copied\n").expect("written");
    let _ = hull
        .hull(["cp", file.to_str().expect("text"), "c:/name"])
        .ok();
    assert_eq!(hull.hull(["start", "--attach", "c"]).ok(), "copied\n");
    assert_eq!(images(&hull).len(), 2);

    let groups = tree(&hull.root().join("layers"), &|path: &Path| {
        path.ends_with("etc/group")
    });
    let group = groups.first().expect("the layer");
    let text = fs::read_to_string(group).expect("text");
    fs::write(group, text.replace("root", "toor")).expect("written");
    assert!(
        hull.run(&[], &["cat", "/etc/group"])
            .ok()
            .starts_with("toor")
    );
    assert_eq!(images(&hull).len(), 3);
}

#[test]
fn the_hosts_files_are_shared_beside_an_image_over_vsock_as_well() {
    let shared = tempfile::tempdir().expect("a directory");
    fs::write(shared.path().join("there"), "from the host\n").expect("written");
    let volume = format!("{}:/shared", shared.path().display());
    for transport in ["auto", "vsock"] {
        let settings = format!("root.kind = \"image\"\nvm.file_sharing = \"{transport}\"\n");
        let hull = Hull::new().with_settings(&settings);
        let script =
            "cat /shared/there && sha256sum < /bin/busybox && cat /etc/hostname > /shared/back";
        let options = ["--volume", &volume, "--read-only"];
        let output = hull.run(&options, &["sh", "-c", script]).ok();
        assert!(output.starts_with("from the host\n"), "{output}");
        let back = fs::read_to_string(shared.path().join("back")).expect("written by the guest");
        assert!(!back.trim().is_empty());
        fs::remove_file(shared.path().join("back")).expect("removed");
    }
}

#[test]
fn a_disk_takes_what_is_written_as_far_as_it_goes_and_ends_with_the_container() {
    let settings = "root.kind = \"image\"\nroot.disk_size = \"64MiB\"\nvm.file_sharing = ";
    for transport in ["auto", "vsock"] {
        let hull = Hull::new().with_settings(&format!("{settings}{transport:?}\n"));
        // Zeros are written as any other bytes are.
        let script = "[ ! -e /a ] && head -c 40000000 /dev/zero > /a && rm /etc/passwd && sync && \
                      ! dd if=/dev/zero of=/b bs=1M count=40 && wc -c < /a && ls /etc | grep -v -e host -e resolv";
        let image = busybox();
        let create = ["create", "--name", "again", "--network", "none", &image];
        let _ = hull
            .hull([&create[..], &["sh", "-c", script]].concat())
            .ok();
        for _ in 0..2 {
            let outcome = hull.hull(["start", "--attach", "again"]);
            let errors = outcome.stderr();
            assert!(errors.contains("No space left on device"), "{errors}");
            assert_eq!(outcome.stdout(), "40000000\ngroup\n", "{errors}");
        }
        assert_eq!(images(&hull).len(), 1);
    }
}

/// Lets `dir` have a program, if there is one.
fn link(dir: &Path, program: &str) {
    if let Some(found) = hull_vm::process::find_program(program) {
        std::os::unix::fs::symlink(found, dir.join(program)).expect("linked");
    }
}

#[test]
fn a_cache_that_cannot_be_used_is_named_and_nothing_is_left() {
    let settings = "root.kind = \"image\"\nroot.disk_size = \"64MiB\"\n";
    let hull = Hull::new().with_settings(settings);
    assert_eq!(hull.run(&[], &["echo", "ready"]).ok(), "ready\n");
    let cache = hull.root().join("root-images");
    fs::remove_dir_all(&cache).expect("removed");
    fs::write(&cache, "no directory").expect("written");
    let error = hull.run(&[], &["true"]).one_error(125);
    assert!(error.contains("root-images"), "{error}");

    // And where there is nothing that makes images.
    fs::remove_file(&cache).expect("removed");
    let tools = tempfile::tempdir().expect("a directory");
    for tool in [
        "passt",
        "qemu-system-x86_64",
        "cloud-hypervisor",
        "firecracker",
    ] {
        link(tools.path(), tool);
    }
    let mut command = hull.command(harness::run_arguments(&[], &["true"]));
    let own = program("hull");
    let own = own.parent().expect("a directory").display();
    command.env("PATH", format!("{}:{own}", tools.path().display()));
    let mut error = || harness::Outcome(command.output().expect("hull starts")).one_error(125);
    let text = error();
    assert!(
        text.contains("mkfs.erofs") && text.contains("erofs-utils"),
        "{text}"
    );
    link(tools.path(), "mkfs.erofs");
    let text = error();
    assert!(
        text.contains("mkfs.ext4") && text.contains("e2fsprogs"),
        "{text}"
    );
    let left = fs::read_dir(hull.root().join("containers")).expect("a directory");
    assert_eq!(left.count(), 0);
}
