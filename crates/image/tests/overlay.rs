//! What a container sees: the layers as an overlay mount, as root and in a user namespace.

#![allow(clippy::unwrap_used, reason = "a test program")]

mod support;

use std::fs;
use std::os::unix::fs::MetadataExt;

use hull_image::{Event, Note, Progress, Store, StoreOptions};
use rustix::mount::MountFlags;
use std::sync::Mutex;
use support::{ImageParts, Layer, LayerBuilder, child, write_layout};
use tar::EntryType;

#[derive(Default)]
struct Notes(Mutex<Vec<Note>>);

impl Progress for Notes {
    fn event(&self, event: Event<'_>) {
        if let Event::Note { note, .. } = event {
            self.0.lock().unwrap().push(note.clone());
        }
    }
}

fn image() -> ImageParts {
    let lower = LayerBuilder::new()
        .dir("etc/", 0o755)
        .file("etc/kept", b"lower")
        .file("etc/removed", b"lower")
        .file("etc/changed", b"lower")
        .file("opaque/old", b"lower")
        .file("replaced/old", b"lower")
        .dir("tmp/", 0o1777)
        .bytes();
    let mut upper = tar::Builder::new(Vec::new());
    let mut owned = LayerBuilder::header(EntryType::Regular, 0o4755, 0);
    owned.set_uid(1234);
    owned.as_gnu_mut().unwrap().name[..5].copy_from_slice(b"owned");
    owned.set_cksum();
    upper.append(&owned, &b""[..]).unwrap();
    let mut device = LayerBuilder::header(EntryType::Char, 0o666, 0);
    device.set_device_major(1).unwrap();
    device.set_device_minor(3).unwrap();
    device.as_gnu_mut().unwrap().name[..4].copy_from_slice(b"null");
    device.set_cksum();
    upper.append(&device, &b""[..]).unwrap();
    let owned = upper.into_inner().unwrap();
    let upper = LayerBuilder::new()
        .file("etc/.wh.removed", b"")
        .file("etc/changed", b"upper")
        .file("opaque/.wh..wh..opq", b"")
        .file("opaque/new", b"upper")
        .file(".wh.replaced", b"")
        .file("replaced/new", b"upper")
        .entry("tmp/x", EntryType::Regular, 0o644, b"")
        .bytes();
    ImageParts::new(vec![
        Layer::gzip(&lower),
        Layer::gzip(&upper),
        Layer::gzip(&owned),
    ])
}

#[test]
#[ignore = "run by the others in namespaces of its own"]
fn child_that_mounts() {
    let Some(directory) = child::directory() else {
        return;
    };
    let store = Store::open(&directory.join("store"), StoreOptions::default()).unwrap();
    let reference = format!("oci:{}", directory.join("layout").display())
        .parse()
        .unwrap();
    let notes = Notes::default();
    let image = store.load(&reference, &notes).unwrap();
    let root = directory.join("root");
    let lower: Vec<&str> = image
        .layers
        .iter()
        .map(|layer| layer.to_str().unwrap())
        .collect();
    let mut options = format!("lowerdir={}", lower.join(":"));
    if let Some(option) = image.overlay_xattr.mount_option() {
        options = format!("{options},{option}");
    }
    let options = std::ffi::CString::new(options).unwrap();
    rustix::mount::mount(
        "overlay",
        &root,
        "overlay",
        MountFlags::empty(),
        options.as_c_str(),
    )
    .unwrap();

    let names = |dir: &str| {
        let entries = fs::read_dir(root.join(dir)).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names("etc"), ["changed", "kept"]);
    assert_eq!(fs::read(root.join("etc/changed")).unwrap(), b"upper");
    assert_eq!(names("opaque"), ["new"]);
    assert_eq!(names("replaced"), ["new"]);
    assert_eq!(
        fs::metadata(root.join("tmp")).unwrap().mode() & 0o7777,
        0o1777
    );
    let owned = fs::metadata(root.join("owned")).unwrap();
    let notes = notes.0.into_inner().unwrap();
    if owned.uid() == 1234 {
        assert_eq!(owned.mode() & 0o7777, 0o4755);
        assert_eq!(notes, []);
        assert_eq!(image.overlay_xattr.mount_option(), None);
    } else {
        // Without the owner the set-user-id bit would mean somebody else.
        assert_eq!((owned.uid(), owned.mode() & 0o7777), (0, 0o755));
        let expected = [
            Note::OwnerDropped {
                path: "owned".to_owned(),
                uid: 1234,
                gid: 0,
            },
            Note::DeviceSkipped {
                path: "null".to_owned(),
                major: 1,
                minor: 3,
            },
        ];
        assert_eq!(notes, expected);
        assert_eq!(image.overlay_xattr.mount_option(), Some("userxattr"));
    }
    println!("seen");
}

fn run(unshare: &[&str]) {
    let temp = tempfile::tempdir().unwrap();
    let works = std::process::Command::new("unshare")
        .args(unshare)
        .arg("true")
        .status();
    if !works.is_ok_and(|status| status.success()) {
        eprintln!("skipped: unshare {unshare:?} is not permitted here");
        return;
    }
    write_layout(&temp.path().join("layout"), &[("x", &image())]);
    fs::create_dir(temp.path().join("root")).unwrap();
    let wrapper = [&["unshare"], unshare].concat();
    let output = child::command(&wrapper, "child_that_mounts", temp.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && text.contains("seen"),
        "{text}{errors}"
    );
}

#[test]
fn root_sees_the_image() {
    if rustix::process::geteuid().is_root() {
        run(&["--mount"]);
    }
}

#[test]
fn a_user_with_one_id_sees_the_image() {
    run(&["--user", "--map-root-user", "--mount"]);
}
