//! Keeping, sharing and removing images, with processes that die.

#![allow(clippy::unwrap_used, reason = "a test program")]

mod support;

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::mpsc;

use hull_image::{
    ErrorKind, Event, Image, ImageError, Progress, Reference, Removal, Silent, Store, StoreOptions,
};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
use support::{ImageParts, Layer, LayerBuilder, TestStore, child, write_layout};

fn layer(name: &str) -> Layer {
    Layer::gzip(&LayerBuilder::new().file(name, b"content").bytes())
}

fn load(store: &Store, layout: &Path, tag: &str) -> Result<Image, ImageError> {
    let reference: Reference = format!("oci:{}:{tag}", layout.display()).parse().unwrap();
    store.load(&reference, &Silent)
}

/// A store with a layout of two images that share their lower layer.
fn with_two_images() -> (TestStore, Image, Image) {
    let test = TestStore::new();
    let a = ImageParts::new(vec![layer("base"), layer("a")]);
    let b = ImageParts::new(vec![layer("base"), layer("b")]);
    let layout = test.path("layout");
    write_layout(&layout, &[("a", &a), ("b", &b)]);
    let a = load(&test.store, &layout, "a").unwrap();
    let b = load(&test.store, &layout, "b").unwrap();
    (test, a, b)
}

fn assert_no_images(test: &TestStore) {
    assert_eq!(test.content(), ["images.json"]);
    assert!(test.store.list().unwrap().is_empty());
}

#[test]
fn removal_keeps_what_other_images_need() {
    let (test, a, b) = with_two_images();
    assert_eq!(a.layers[1], b.layers[1]);
    let reclaimed = test.store.remove(&a.reference, Removal::IfUnused).unwrap();
    // Manifest, configuration and the layer's blob.
    assert_eq!((reclaimed.layers, reclaimed.blobs), (1, 3));
    assert!(reclaimed.bytes > 0);
    assert!(!a.layers[0].exists() && b.layers[0].exists() && b.layers[1].exists());
    assert!(matches!(
        test.store.get(&a.reference),
        Err(ImageError::NotFound(_))
    ));
    test.store
        .remove(&b.id.hex()[..8], Removal::IfUnused)
        .unwrap();
    assert_no_images(&test);
    let none = test
        .store
        .remove(&b.reference, Removal::IfUnused)
        .unwrap_err();
    assert_eq!(none.kind(), ErrorKind::NotFound);
}

#[test]
fn an_image_with_two_names_stays_until_both_are_gone() {
    let test = TestStore::new();
    let image = ImageParts::new(vec![layer("x")]);
    write_layout(&test.path("layout"), &[("a", &image), ("b", &image)]);
    let a = load(&test.store, &test.path("layout"), "a").unwrap();
    let b = load(&test.store, &test.path("layout"), "b").unwrap();
    let lease = a.lease().unwrap();
    // In use, but only a name is removed.
    test.store.remove(&a.reference, Removal::IfUnused).unwrap();
    assert_eq!(test.store.get(&b.reference).unwrap().id, b.id);
    let error = test
        .store
        .remove(&b.id.to_string(), Removal::IfUnused)
        .unwrap_err();
    assert!(matches!(error, ImageError::InUse { .. }), "{error}");
    drop(lease);
    test.store
        .remove(&b.id.to_string(), Removal::IfUnused)
        .unwrap();
    assert_no_images(&test);
}

#[test]
fn leased_layers_stay() {
    let (test, a, _) = with_two_images();
    let lease = a.lease().unwrap();
    let error = test
        .store
        .remove(&a.reference, Removal::IfUnused)
        .unwrap_err();
    assert!(
        matches!(&error, ImageError::InUse { holders, .. } if holders.is_empty()),
        "{error}"
    );
    test.store.get(&a.reference).unwrap();
    test.store.remove(&a.reference, Removal::Force).unwrap();
    assert!(a.layers.iter().all(|layer| layer.exists()));
    drop(lease);
    test.store.collect().unwrap();
    assert!(!a.layers[0].exists());
    assert!(matches!(a.lease(), Err(ImageError::NotFound(_))));
}

#[test]
fn held_layers_stay_over_a_restart() {
    let (test, a, b) = with_two_images();
    test.store.hold("container-1", &a).unwrap();
    let store = Store::open(test.store.root(), StoreOptions::default()).unwrap();
    let error = store.remove(&a.reference, Removal::IfUnused).unwrap_err();
    assert!(
        matches!(&error, ImageError::InUse { holders, .. } if holders == &["container-1"]),
        "{error}"
    );
    store.remove(&a.reference, Removal::Force).unwrap();
    store.remove(&b.reference, Removal::Force).unwrap();
    assert!(a.layers.iter().all(|layer| layer.exists()) && !b.layers[0].exists());
    store.release("container-1").unwrap();
    store.release("container-1").unwrap();
    assert_no_images(&test);
    assert!(matches!(
        store.hold("container-2", &a),
        Err(ImageError::NotFound(_))
    ));
    for name in ["", ".", "../x", "a/b"] {
        assert!(matches!(
            store.hold(name, &a),
            Err(ImageError::Unsupported(_))
        ));
    }
}

#[test]
fn ids_must_be_unambiguous() {
    let (test, a, b) = with_two_images();
    assert_eq!(test.store.get(&a.id.hex()).unwrap().id, a.id);
    assert!(matches!(
        test.store.get("abc"),
        Err(ImageError::NotFound(_))
    ));
    assert!(matches!(
        test.store.get("0000"),
        Err(ImageError::NotFound(_))
    ));
    assert!(matches!(
        test.store.get("UPPER"),
        Err(ImageError::Reference(_))
    ));
    assert_ne!(a.id, b.id);
}

#[test]
fn what_the_dead_left_is_removed_and_what_the_living_make_is_not() {
    let test = TestStore::new();
    let tmp = test.store.root().join("tmp");
    fs::create_dir_all(tmp.join("1-0/fs/deep/er")).unwrap();
    fs::write(tmp.join("1-1"), "half a blob").unwrap();
    fs::create_dir(tmp.join("2-0")).unwrap();
    let living = fs::File::open(tmp.join("2-0")).unwrap();
    living.lock().unwrap();
    Store::open(test.store.root(), StoreOptions::default()).unwrap();
    assert_eq!(test.content(), ["tmp/2-0"]);
}

#[test]
fn a_failed_load_leaves_nothing() {
    let test = TestStore::new();
    let mut bad = ImageParts::new(vec![layer("a"), layer("b"), layer("c")]);
    let layout = test.path("layout");
    write_layout(&layout, &[("a", &bad)]);
    let blob = layout
        .join("blobs/sha256")
        .join(hull_image::Digest::of(&bad.layers[2].blob).hex());
    let mut bytes = fs::read(&blob).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&blob, bytes).unwrap();
    let error = load(&test.store, &layout, "a").unwrap_err();
    assert!(
        matches!(error, ImageError::DigestMismatch { .. }),
        "{error}"
    );
    assert_eq!(test.content(), Vec::<String>::new());

    let escape = LayerBuilder::new().file("../x", b"x").bytes();
    bad = ImageParts::new(vec![layer("a"), Layer::gzip(&escape)]);
    fs::remove_dir_all(&layout).unwrap();
    write_layout(&layout, &[("a", &bad)]);
    let error = load(&test.store, &layout, "a").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    assert_eq!(test.content(), Vec::<String>::new());
}

#[test]
fn many_at_once_make_each_layer_once() {
    let test = TestStore::new();
    let image = ImageParts::new(vec![layer("a"), layer("b"), layer("c")]);
    let layout = test.path("layout");
    write_layout(&layout, &[("x", &image)]);
    let made = Mutex::new(Vec::new());
    struct Count<'a>(&'a Mutex<Vec<usize>>);
    impl Progress for Count<'_> {
        fn event(&self, event: Event<'_>) {
            if let Event::Unpacked { layer } = event {
                self.0.lock().unwrap().push(layer);
            }
        }
    }
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let store = Store::open(test.store.root(), StoreOptions::default()).unwrap();
                let reference: Reference = format!("oci:{}", layout.display()).parse().unwrap();
                let image = store.load(&reference, &Count(&made)).unwrap();
                assert!(image.layers[0].join("c").exists());
                image.lease().unwrap();
            });
        }
    });
    let mut made = made.into_inner().unwrap();
    made.sort_unstable();
    assert_eq!(made, [0, 1, 2]);
}

#[test]
fn images_come_and_go_at_once() {
    let test = TestStore::new();
    let parts: Vec<ImageParts> = (0..4)
        .map(|n| ImageParts::new(vec![layer("base"), layer(&format!("top{n}"))]))
        .collect();
    let tags = ["t0", "t1", "t2", "t3"];
    let images: Vec<(&str, &ImageParts)> = tags.into_iter().zip(&parts).collect();
    let layout = test.path("layout");
    write_layout(&layout, &images);
    std::thread::scope(|scope| {
        for tag in tags {
            let layout = &layout;
            let root = test.store.root();
            scope.spawn(move || {
                let store = Store::open(root, StoreOptions::default()).unwrap();
                for _ in 0..5 {
                    let image = load(&store, layout, tag).unwrap();
                    let lease = image.lease().unwrap();
                    assert!(image.layers[1].join("base").exists());
                    drop(lease);
                    store.remove(&image.reference, Removal::Force).unwrap();
                }
            });
        }
    });
    test.store.collect().unwrap();
    assert_no_images(&test);
}

/// Says when the second layer is being unpacked, and stops there.
struct StopAtSecondLayer;

impl Progress for StopAtSecondLayer {
    fn event(&self, event: Event<'_>) {
        if matches!(event, Event::Unpacking { layer: 1, .. }) {
            println!("unpacking");
            loop {
                std::thread::park();
            }
        }
    }
}

#[test]
#[ignore = "run by the tests that kill it"]
fn child_that_is_killed() {
    let Some(directory) = child::directory() else {
        return;
    };
    let options = StoreOptions {
        parallel_layers: 1,
        ..StoreOptions::default()
    };
    let store = Store::open(&directory.join("store"), options).unwrap();
    let reference = format!("oci:{}", directory.join("layout").display())
        .parse()
        .unwrap();
    store.load(&reference, &StopAtSecondLayer).unwrap();
}

#[test]
fn what_a_killed_process_had_finished_is_removed_too() {
    let test = TestStore::new();
    let image = ImageParts::new(vec![layer("a"), layer("b")]);
    write_layout(&test.path("layout"), &[("x", &image)]);
    let command = child::command(&[], "child_that_is_killed", test.temp.path());
    let mut child = child::start_until(command, "unpacking");
    let has_blobs = || test.content().iter().any(|path| path.starts_with("blobs/"));
    assert!(has_blobs());
    // Its work is left alone while it lives.
    Store::open(test.store.root(), StoreOptions::default()).unwrap();
    assert!(has_blobs());
    child.kill().unwrap();
    child.wait().unwrap();
    Store::open(test.store.root(), StoreOptions::default()).unwrap();
    assert_eq!(test.content(), Vec::<String>::new());
}

#[test]
fn a_killed_process_leaves_nothing_that_stays() {
    let test = TestStore::new();
    let layout = test.path("layout");
    write_layout(
        &layout,
        &[("x", &ImageParts::new(vec![layer("a"), layer("b")]))],
    );
    let command = child::command(&[], "child_that_is_killed", test.temp.path());
    let mut child = child::start_until(command, "unpacking");
    assert!(test.content().iter().any(|path| path.starts_with("tmp/")));
    // Another process waits for the layers that the child has claimed, and gets them.
    let (sender, waits) = mpsc::channel();
    struct Tell(Mutex<mpsc::Sender<()>>);
    impl Progress for Tell {
        fn event(&self, event: Event<'_>) {
            if event == Event::Waiting {
                self.0.lock().unwrap().send(()).unwrap();
            }
        }
    }
    let store = test.store.clone();
    let reference: Reference = format!("oci:{}", layout.display()).parse().unwrap();
    let waiting = std::thread::spawn(move || store.load(&reference, &Tell(Mutex::new(sender))));
    waits.recv().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let image = waiting.join().unwrap().unwrap();
    assert!(image.layers[0].join("b").exists());
    Store::open(test.store.root(), StoreOptions::default()).unwrap();
    assert!(!test.content().iter().any(|path| path.starts_with("tmp/")));
}

/// A file system in memory that no process sees in a directory; its path ends with the handle.
fn small_disk(size: &str) -> (OwnedFd, PathBuf) {
    let fs = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
    rustix::mount::fsconfig_set_string(&fs, "size", size).unwrap();
    rustix::mount::fsconfig_create(&fs).unwrap();
    let flags = FsMountFlags::FSMOUNT_CLOEXEC;
    let mount = rustix::mount::fsmount(&fs, flags, MountAttrFlags::empty()).unwrap();
    let path = format!("/proc/self/fd/{}", mount.as_raw_fd());
    (mount, path.into())
}

#[test]
fn a_full_disk_is_said_and_leaves_nothing() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let (_mount, root) = small_disk("1m");
    let temp = tempfile::tempdir().unwrap();
    let store = Store::open(&root.join("store"), StoreOptions::default()).unwrap();
    // One does not fit when it is unpacked, the other not even compressed.
    let zeros = Layer::gzip(&LayerBuilder::new().file("zeros", &vec![0; 4 << 20]).bytes());
    let plain = Layer::plain(&LayerBuilder::new().file("zeros", &vec![0; 4 << 20]).bytes());
    let layout = temp.path().join("layout");
    let images = [zeros, plain].map(|big| ImageParts::new(vec![layer("small"), big]));
    write_layout(&layout, &[("zeros", &images[0]), ("plain", &images[1])]);
    let test = TestStore { temp, store };
    for tag in ["zeros", "plain"] {
        let error = load(&test.store, &layout, tag).unwrap_err();
        assert!(matches!(error, ImageError::NoSpace { .. }), "{error:?}");
        assert_eq!(error.kind(), ErrorKind::NoSpace);
        assert_eq!(test.content(), Vec::<String>::new());
    }
}

#[test]
fn images_can_be_removed_from_a_full_disk() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let (_mount, root) = small_disk("1m");
    let temp = tempfile::tempdir().unwrap();
    let layout = temp.path().join("layout");
    // Two names for one image: the removal of the first gives no room for the second.
    let image = ImageParts::new(vec![layer("one")]);
    write_layout(&layout, &[("one", &image), ("two", &image)]);
    let store = Store::open(&root.join("store"), StoreOptions::default()).unwrap();
    let references = ["one", "two"].map(|tag| load(&store, &layout, tag).unwrap().reference);
    let filler = fs::File::create(root.join("filler")).unwrap();
    let full = std::io::copy(&mut std::io::repeat(0), &mut &filler).unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    for reference in references {
        store.remove(&reference, Removal::IfUnused).unwrap();
    }
    let test = TestStore { temp, store };
    assert_no_images(&test);
}

#[test]
fn a_store_of_the_future_is_left_alone() {
    let test = TestStore::new();
    fs::write(test.store.root().join("version"), "2\n").unwrap();
    let error = Store::open(test.store.root(), StoreOptions::default()).unwrap_err();
    assert!(
        matches!(error, ImageError::StoreVersion { version: 2, .. }),
        "{error}"
    );
}

#[test]
fn a_damaged_image_is_said_and_mended_by_loading_it_again() {
    let (test, a, _) = with_two_images();
    fs::remove_dir_all(a.layers[0].parent().unwrap()).unwrap();
    let error = test.store.get(&a.reference).unwrap_err();
    assert!(matches!(error, ImageError::Damaged { .. }), "{error}");
    assert_eq!(test.store.list().unwrap().len(), 1);
    load(&test.store, &test.path("layout"), "a").unwrap();
    assert!(
        test.store.get(&a.reference).unwrap().layers[0]
            .join("a")
            .exists()
    );
}

#[test]
fn only_its_owner_may_look_into_a_store() {
    use std::os::unix::fs::PermissionsExt;
    let test = TestStore::new();
    let mode = fs::metadata(test.store.root())
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn verification_finds_what_has_changed() {
    let test = TestStore::new();
    let lower = LayerBuilder::new()
        .dir("d/", 0o700)
        .file("d/x", b"x")
        .file("f", b"f");
    // A directory without an entry takes its attributes from below, also when it is verified.
    let upper = LayerBuilder::new()
        .file("d/y", b"y")
        .file(".wh.f", b"")
        .symlink("l", "f");
    let image = ImageParts::new(vec![
        Layer::gzip(&lower.bytes()),
        Layer::gzip(&upper.bytes()),
    ]);
    write_layout(&test.path("layout"), &[("x", &image)]);
    let image = load(&test.store, &test.path("layout"), "x").unwrap();
    let verify = || -> Vec<String> {
        let problems = test.store.verify(&image.id.to_string()).unwrap();
        problems.iter().map(ToString::to_string).collect()
    };
    assert_eq!(verify(), Vec::<String>::new());
    let layer = image.layers[0].display();
    fs::write(image.layers[0].join("d/y"), "z").unwrap();
    assert_eq!(verify(), [format!("{layer}/d/y: its content differs")]);
    fs::remove_file(image.layers[0].join("d/y")).unwrap();
    fs::write(image.layers[0].join("new"), "").unwrap();
    let problems = verify();
    assert!(
        problems
            .iter()
            .any(|line| line.ends_with("modification time differs"))
    );
    fs::remove_dir_all(image.layers[1].parent().unwrap()).unwrap();
    let chain_id = image.layers[1]
        .parent()
        .unwrap()
        .file_name()
        .unwrap()
        .to_str()
        .unwrap();
    assert_eq!(
        verify(),
        [format!("unpacked layer sha256:{chain_id} is missing")]
    );

    let image = load(&test.store, &test.path("layout"), "x").unwrap();
    let blobs = test.store.root().join("blobs/sha256");
    fs::write(blobs.join(image.id.hex()), "{}").unwrap();
    let problems = verify();
    assert!(
        problems[0].starts_with(&format!("blob {} has the digest", image.id)),
        "{problems:?}"
    );
    fs::remove_file(blobs.join(image.id.hex())).unwrap();
    assert_eq!(verify()[0], format!("blob {} is missing", image.id));
}
