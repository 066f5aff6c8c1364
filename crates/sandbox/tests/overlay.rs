//! Overlays with as many layers as the kernel takes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;

use hull_sandbox::mount::{MountSpec, overlay as options, own_namespace};
use nix::mount::{MsFlags, mount};

/// Lets this thread mount without anybody seeing it.
fn own_mounts() {
    own_namespace().unwrap();
    let none = None::<&str>;
    // An upper directory cannot lie on an overlay, which a container's /tmp may be.
    mount(Some("tmpfs"), "/tmp", Some("tmpfs"), MsFlags::empty(), none).unwrap();
}

/// Makes `count` layers, each with a file of its own and one that all have, uppermost first.
fn layers(dir: &Path, count: usize) -> Vec<String> {
    let layer = |number: usize| {
        // As long as the name of a layer in the store.
        let layer = dir.join(format!("{number:064}"));
        fs::create_dir_all(&layer).unwrap();
        fs::write(layer.join(format!("{number}")), "").unwrap();
        fs::write(layer.join("all"), number.to_string()).unwrap();
        layer.to_str().unwrap().to_owned()
    };
    (0..count).map(layer).collect()
}

fn overlay(dir: &Path, lower: &[String]) -> MountSpec {
    for name in ["upper", "work", "root"] {
        fs::create_dir_all(dir.join(name)).unwrap();
    }
    MountSpec {
        kind: "overlay".to_owned(),
        source: "overlay".to_owned(),
        options: vec![
            options::option("lowerdir", lower),
            options::option("upperdir", &[dir.join("upper")]),
            options::option("workdir", &[dir.join("work")]),
        ],
    }
}

#[test]
fn an_image_may_have_as_many_layers_as_overlayfs_takes() {
    own_mounts();
    let dir = tempfile::tempdir().unwrap();
    let lower = layers(dir.path(), 500);
    let root = dir.path().join("root");
    overlay(dir.path(), &lower).mount(&root).unwrap();
    for number in [0, 250, 499] {
        assert!(root.join(number.to_string()).exists(), "{number}");
    }
    // The uppermost layer's wins.
    assert_eq!(fs::read_to_string(root.join("all")).unwrap(), "0");
    fs::write(root.join("new"), "new").unwrap();
    assert!(dir.path().join("upper/new").exists());
}

#[test]
fn a_path_may_hold_what_has_a_meaning_in_options() {
    own_mounts();
    let dir = tempfile::tempdir().unwrap();
    let strange = dir.path().join(r"a:b,c\d\:e,upperdir=f g");
    let lower = layers(&strange, 2);
    let root = strange.join("root");
    overlay(&strange, &lower).mount(&root).unwrap();
    assert_eq!(fs::read_to_string(root.join("all")).unwrap(), "0");
    fs::write(root.join("new"), "new").unwrap();
    assert!(strange.join("upper/new").exists());
}

#[test]
fn mounting_leaves_the_process_where_it_is() {
    own_mounts();
    let dir = tempfile::tempdir().unwrap();
    let before = std::env::current_dir().unwrap();
    let lower = layers(dir.path(), 2);
    overlay(dir.path(), &lower)
        .mount(&dir.path().join("root"))
        .unwrap();
    assert_eq!(std::env::current_dir().unwrap(), before);
}

#[test]
fn a_missing_layer_is_named() {
    own_mounts();
    let dir = tempfile::tempdir().unwrap();
    let lower = [dir.path().join("gone").to_str().unwrap().to_owned()];
    let error = overlay(dir.path(), &lower)
        .mount(&dir.path().join("root"))
        .unwrap_err();
    assert!(error.to_string().contains("gone"), "{error}");
}
