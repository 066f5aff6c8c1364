//! Images that umoci and skopeo made, compared with what they make of them. Skipped where they are
//! not installed.

#![allow(clippy::unwrap_used, reason = "a test program")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use hull_image::Silent;
use support::TestStore;

fn is_installed(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok();
    if !found {
        eprintln!("skipped: {program} is not installed");
    }
    found
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
}

/// A directory with some of everything.
fn make_tree(root: &Path) {
    fs::create_dir_all(root.join("usr/lib/deep")).unwrap();
    fs::write(root.join("usr/lib/file"), "content").unwrap();
    fs::hard_link(root.join("usr/lib/file"), root.join("usr/lib/deep/other")).unwrap();
    symlink("usr/lib", root.join("lib")).unwrap();
    symlink("/nowhere", root.join("dangling")).unwrap();
    let long = "n".repeat(200);
    fs::create_dir(root.join(&long)).unwrap();
    fs::write(root.join(&long).join(&long), "long").unwrap();
    fs::write(root.join("setuid"), "x").unwrap();
    fs::set_permissions(root.join("setuid"), fs::Permissions::from_mode(0o4711)).unwrap();
    fs::create_dir(root.join("tmp")).unwrap();
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    let sparse = fs::File::create(root.join("sparse")).unwrap();
    std::os::unix::fs::FileExt::write_at(&sparse, b"end", 1 << 20).unwrap();
}

/// An image layout with that tree as its one layer.
fn make_layout(test: &TestStore) -> PathBuf {
    let (tree, tar, layout) = (
        test.path("tree"),
        test.path("tree.tar"),
        test.path("layout"),
    );
    fs::create_dir(&tree).unwrap();
    make_tree(&tree);
    let (tree, tar) = (tree.to_str().unwrap(), tar.to_str().unwrap());
    run(
        "tar",
        &["--sparse", "--format=pax", "-C", tree, "-cf", tar, "."],
    );
    let image = format!("{}:v1", layout.display());
    run("umoci", &["init", "--layout", layout.to_str().unwrap()]);
    run("umoci", &["new", "--image", &image]);
    run("umoci", &["raw", "add-layer", "--image", &image, tar]);
    run(
        "umoci",
        &["config", "--image", &image, "--config.cmd", "/bin/x"],
    );
    layout
}

/// What can be seen of every file, by path.
fn describe(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut paths = vec![PathBuf::new()];
    while let Some(path) = paths.pop() {
        let full = root.join(&path);
        let stat = fs::symlink_metadata(&full).unwrap();
        let content = if stat.is_symlink() {
            fs::read_link(&full)
                .unwrap()
                .into_os_string()
                .into_encoded_bytes()
        } else if stat.is_file() {
            fs::read(&full).unwrap()
        } else {
            Vec::new()
        };
        let digest = hull_image::Digest::of(&content);
        let (mode, uid, gid) = (stat.mode(), stat.uid(), stat.gid());
        let links = if stat.is_file() { stat.nlink() } else { 0 };
        let line = format!("{mode:o} {uid} {gid} {} {links} {digest}", stat.mtime());
        found.insert(path.clone(), line);
        if stat.is_dir() {
            let entries = fs::read_dir(&full).unwrap();
            paths.extend(entries.map(|entry| path.join(entry.unwrap().file_name())));
        }
    }
    found
}

#[test]
fn umoci_unpacks_the_same_files() {
    // Without root umoci gives the files other owners.
    if !rustix::process::geteuid().is_root() || !is_installed("umoci") {
        return;
    }
    let test = TestStore::new();
    let layout = make_layout(&test);
    let image = format!("{}:v1", layout.display());
    let loaded = test
        .store
        .load(&format!("oci:{image}").parse().unwrap(), &Silent)
        .unwrap();
    let command = loaded.config.config().as_ref().unwrap().cmd().clone();
    assert_eq!(command, Some(vec!["/bin/x".to_owned()]));
    let bundle = test.path("bundle");
    run(
        "umoci",
        &["unpack", "--image", &image, bundle.to_str().unwrap()],
    );
    let ours = describe(&loaded.layers[0]);
    assert_eq!(ours, describe(&bundle.join("rootfs")));
    assert_eq!(ours, describe(&test.path("tree")));
    let sparse = fs::metadata(loaded.layers[0].join("sparse")).unwrap();
    assert!(sparse.blocks() * 512 < sparse.len());
}

#[test]
fn skopeos_copies_are_the_same_image() {
    if !is_installed("umoci") || !is_installed("skopeo") {
        return;
    }
    let test = TestStore::new();
    let layout = make_layout(&test);
    let load = |reference: &str| {
        test.store
            .load(&reference.parse().unwrap(), &Silent)
            .unwrap()
    };
    let source = format!("oci:{}:v1", layout.display());
    let original = load(&source);
    let at = |transport: &str, name: &str| format!("{transport}:{}", test.path(name).display());
    let copies = [
        (
            at("docker-archive", "docker.tar") + ":example.org/app:v1",
            &[][..],
        ),
        (at("oci-archive", "oci.tar") + ":v1", &[]),
        (
            at("oci", "zstd") + ":v1",
            &["--dest-compress", "--dest-compress-format", "zstd"],
        ),
    ];
    for (destination, options) in copies {
        let policy = ["--insecure-policy", "copy", "--quiet"];
        run(
            "skopeo",
            &[&policy, options, &[&source, &destination]].concat(),
        );
        let copy = load(&destination);
        assert_eq!(
            (copy.id, &copy.layers),
            (original.id, &original.layers),
            "{destination}"
        );
        assert!(test.store.verify(&destination).unwrap().is_empty());
    }
    // Each of them can be unpacked, not only recognised.
    for reference in test
        .store
        .list()
        .unwrap()
        .into_iter()
        .map(|image| image.reference)
    {
        let fresh = TestStore::new();
        let image = fresh
            .store
            .load(&reference.parse().unwrap(), &Silent)
            .unwrap();
        assert_eq!(
            describe(&image.layers[0]),
            describe(&original.layers[0]),
            "{reference}"
        );
    }
}
