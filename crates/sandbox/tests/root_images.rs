//! The cache of root images with the real `mkfs.erofs`, and what can go wrong with it. Run as root.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use hull_sandbox::mount::{MountSpec, overlay, own_namespace};
use hull_sandbox::root_image::{RootImageError, RootImages};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

const UNLIMITED: u64 = u64::MAX;

/// Layers, a cache and a scratch directory.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    /// In a mount namespace of this thread's.
    fn new() -> Self {
        own_namespace().unwrap();
        let place = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        for name in ["low", "high", "upper", "work", "shown"] {
            fs::create_dir(place.at(name)).unwrap();
        }
        fs::write(place.at("low/name"), "one").unwrap();
        place
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn images(&self) -> RootImages {
        RootImages::new(&self.at("cache"), UNLIMITED)
    }

    /// A root of the layers `lower`, the uppermost first.
    fn root(&self, lower: &[&str]) -> Vec<MountSpec> {
        let lower: Vec<_> = lower.iter().map(|name| self.at(name)).collect();
        vec![MountSpec {
            kind: "overlay".to_owned(),
            source: "overlay".to_owned(),
            options: vec![
                overlay::option("lowerdir", &lower),
                overlay::option("upperdir", &[self.at("upper")]),
                overlay::option("workdir", &[self.at("work")]),
            ],
        }]
    }

    fn get(&self, images: &RootImages, lower: &[&str]) -> Result<File, RootImageError> {
        images.get(&self.root(lower), &self.at("scratch"))
    }

    /// Runs `task` where the image is mounted.
    fn shown<T>(&self, image: &File, task: impl FnOnce(&Path) -> T) -> T {
        // By its inode: the name may be gone.
        let copy = self.at("copy.erofs");
        let mut from = image.try_clone().unwrap();
        std::io::Seek::rewind(&mut from).unwrap();
        std::io::copy(&mut from, &mut File::create(&copy).unwrap()).unwrap();
        let spec = MountSpec {
            kind: "erofs".to_owned(),
            source: copy.to_str().unwrap().to_owned(),
            options: vec!["ro".to_owned(), "loop".to_owned()],
        };
        spec.mount(&self.at("shown")).unwrap();
        let result = task(&self.at("shown"));
        umount2(&self.at("shown"), MntFlags::empty()).unwrap();
        result
    }

    fn name_in(&self, image: &File) -> String {
        self.shown(image, |dir| fs::read_to_string(dir.join("name")).unwrap())
    }

    /// What is in the cache.
    fn cached(&self) -> Vec<String> {
        let entries = fs::read_dir(self.at("cache")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.collect()
    }
}

/// A program in place of `mkfs.erofs`.
fn in_place_of_mkfs(program: PathBuf, script: &str) -> PathBuf {
    fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    program
}

fn same(one: &File, other: &File) -> bool {
    one.metadata().unwrap().ino() == other.metadata().unwrap().ino()
}

#[test]
fn an_image_is_what_the_layers_show() {
    let place = Place::new();
    fs::write(place.at("low/hidden"), "").unwrap();
    fs::write(place.at("high/name"), "two").unwrap();
    chown(place.at("high/name"), Some(1000), Some(70000)).unwrap();
    fs::set_permissions(place.at("high/name"), fs::Permissions::from_mode(0o4750)).unwrap();
    let old = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 5);
    let file = File::options()
        .append(true)
        .open(place.at("high/name"))
        .unwrap();
    file.set_modified(old).unwrap();
    fs::hard_link(place.at("high/name"), place.at("high/again")).unwrap();
    symlink("/name", place.at("upper/link")).unwrap();
    // What is not there any more.
    let mode = nix::sys::stat::Mode::empty();
    let whiteout = place.at("high/hidden");
    nix::sys::stat::mknod(&whiteout, nix::sys::stat::SFlag::S_IFCHR, mode, 0).unwrap();

    let image = place.get(&place.images(), &["high", "low"]).unwrap();
    place.shown(&image, |dir| {
        let name = fs::metadata(dir.join("name")).unwrap();
        assert_eq!(
            (name.uid(), name.gid(), name.mode() & 0o7777),
            (1000, 70000, 0o4750)
        );
        assert_eq!(name.modified().unwrap(), old);
        assert_eq!(name.ino(), fs::metadata(dir.join("again")).unwrap().ino());
        assert_eq!(fs::read_link(dir.join("link")).unwrap(), Path::new("/name"));
        assert!(!dir.join("hidden").exists());
        assert_eq!(fs::read_to_string(dir.join("name")).unwrap(), "two");
    });
    assert!(!place.at("scratch").exists());
}

#[test]
fn one_image_serves_all_containers_with_the_same_layers() {
    let place = Place::new();
    let first = place.get(&place.images(), &["high", "low"]).unwrap();
    // Another container has other directories for what it writes.
    fs::rename(place.at("upper"), place.at("first-upper")).unwrap();
    fs::create_dir(place.at("upper")).unwrap();
    let second = place.get(&place.images(), &["high", "low"]).unwrap();
    assert!(same(&first, &second));
    let other = place.get(&place.images(), &["low", "high"]).unwrap();
    assert!(!same(&first, &other));
    fs::write(place.at("upper/name"), "own").unwrap();
    let own = place.get(&place.images(), &["high", "low"]).unwrap();
    assert_eq!(place.name_in(&own), "own");
    assert_eq!(place.name_in(&first), "one");
}

#[test]
fn a_layer_that_was_changed_on_disk_is_never_taken_for_what_it_was() {
    let place = Place::new();
    let images = place.images();
    let file = place.at("low/name");
    let before = fs::metadata(&file).unwrap();
    let first = place.get(&images, &["low"]).unwrap();
    // As long, and with the time that it had.
    fs::write(&file, "ONE").unwrap();
    let opened = File::options().append(true).open(&file).unwrap();
    opened.set_modified(before.modified().unwrap()).unwrap();
    let second = place.get(&images, &["low"]).unwrap();
    assert_eq!(place.name_in(&second), "ONE");
    assert_eq!(place.name_in(&first), "one");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let third = place.get(&images, &["low"]).unwrap();
    let mode = place.shown(&third, |dir| fs::metadata(dir.join("name")).unwrap().mode());
    assert_eq!(mode & 0o7777, 0o600);
}

#[test]
fn layers_that_change_meanwhile_make_no_image() {
    let place = Place::new();
    let layer = place.at("low/name");
    let real = hull_vm::process::find_program("mkfs.erofs").unwrap();
    let script = format!(
        "{} \"$@\" && echo new > {}",
        real.display(),
        layer.display()
    );
    let mkfs = in_place_of_mkfs(place.at("mkfs"), &script);
    let images = place.images().made_by(mkfs);
    let error = place.get(&images, &["low"]).unwrap_err();
    assert!(matches!(error, RootImageError::Changed), "{error}");
    assert!(place.cached().is_empty(), "{:?}", place.cached());
    assert!(!place.at("scratch").exists());
}

#[test]
fn of_several_makers_at_once_one_makes_the_image() {
    let place = Place::new();
    let real = hull_vm::process::find_program("mkfs.erofs").unwrap();
    // The program has the lock, too: it is the file of its standard input.
    let script = format!(
        "[ /proc/self/fd/0 -ef \"$2\" ] && echo made >> {} && exec {} \"$@\"",
        place.at("made").display(),
        real.display()
    );
    let images = place
        .images()
        .made_by(in_place_of_mkfs(place.at("mkfs"), &script));
    let files: Vec<File> = std::thread::scope(|scope| {
        let make = |number: usize| {
            let scratch = place.at(&format!("scratch-{number}"));
            let root = place.root(&["high", "low"]);
            let images = &images;
            scope.spawn(move || images.get(&root, &scratch).unwrap())
        };
        let makers: Vec<_> = (0..8).map(make).collect();
        makers
            .into_iter()
            .map(|maker| maker.join().unwrap())
            .collect()
    });
    assert!(files.iter().all(|file| same(file, &files[0])));
    assert_eq!(fs::read_to_string(place.at("made")).unwrap(), "made\n");
    assert_eq!(place.cached().len(), 1);
}

#[test]
fn what_a_dead_maker_left_is_made_anew_or_removed() {
    let place = Place::new();
    let images = place.images();
    let whole = place.get(&images, &["low"]).unwrap();
    let finished = place.cached().remove(0);
    // It died in the middle of this image, and of another one. A third one is being made.
    let part = place.at("cache").join(finished.replace(".erofs", ".part"));
    fs::rename(place.at("cache").join(&finished), &part).unwrap();
    let length = whole.metadata().unwrap().len();
    drop(whole);
    fs::write(&part, vec![0xa5; usize::try_from(3 * length).unwrap()]).unwrap();
    fs::write(place.at("cache/dead.part"), "beginning").unwrap();
    let alive = File::create(place.at("cache/alive.part")).unwrap();
    alive.lock().unwrap();

    let again = place.get(&images, &["low"]).unwrap();
    assert_eq!(place.name_in(&again), "one");
    let mut left = place.cached();
    left.sort();
    let mut expected = [finished, "alive.part".to_owned()];
    expected.sort();
    assert_eq!(left, expected);
}

#[test]
fn a_full_disk_is_told_and_leaves_nothing() {
    let place = Place::new();
    fs::create_dir(place.at("cache")).unwrap();
    let tmpfs = Some("tmpfs");
    mount(
        tmpfs,
        &place.at("cache"),
        tmpfs,
        MsFlags::empty(),
        Some("size=64k"),
    )
    .unwrap();
    fs::write(place.at("low/large"), vec![7; 1 << 20]).unwrap();
    let error = place.get(&place.images(), &["low"]).unwrap_err();
    let RootImageError::Make { said, .. } = &error else {
        panic!("{error}");
    };
    assert!(!said.is_empty());
    assert!(place.cached().is_empty(), "{:?}", place.cached());
    fs::remove_file(place.at("low/large")).unwrap();
    let image = place.get(&place.images(), &["low"]).unwrap();
    assert_eq!(place.name_in(&image), "one");
    umount2(&place.at("cache"), MntFlags::MNT_DETACH).unwrap();
}

#[test]
fn the_images_that_were_used_last_stay_and_those_in_use() {
    let place = Place::new();
    for layer in ["a", "b", "c"] {
        fs::create_dir(place.at(layer)).unwrap();
        fs::write(place.at(layer).join("name"), layer.repeat(1 << 20)).unwrap();
    }
    let room_for_two = RootImages::new(&place.at("cache"), 5 << 19);
    let get = |layer: &str| place.get(&room_for_two, &[layer]).unwrap();
    // Which was first does not depend on the clock's steps.
    let long_ago = SystemTime::now() - Duration::from_hours(1);
    drop(get("a"));
    let name_of_a = place.cached();
    get("b").set_modified(long_ago).unwrap();
    let mut with_b = place.cached();
    with_b.retain(|name| !name_of_a.contains(name));
    drop(get("c"));
    let after_c = place.cached();
    assert_eq!(after_c.len(), 2);
    assert!(after_c.contains(&name_of_a[0]) && !after_c.contains(&with_b[0]));

    // This one was not used for the longest time, and is about to be mounted.
    let of_a = get("a");
    of_a.set_modified(long_ago).unwrap();
    drop(get("b"));
    let after_b = place.cached();
    assert_eq!(after_b.len(), 2);
    assert!(after_b.contains(&name_of_a[0]) && after_b.contains(&with_b[0]));
    assert!(same(&get("a"), &of_a));
}

#[test]
fn layers_whose_times_somebody_has_made_up_are_refused() {
    let place = Place::new();
    let image = place.at("layer.erofs");
    let made = std::process::Command::new("mkfs.erofs")
        .args([
            "--quiet".as_ref(),
            image.as_os_str(),
            place.at("low").as_os_str(),
        ])
        .status();
    assert!(made.unwrap().success());
    let layer = MountSpec {
        kind: "erofs".to_owned(),
        source: image.to_str().unwrap().to_owned(),
        options: vec!["ro".to_owned(), "loop".to_owned()],
    };
    layer.mount(&place.at("shown")).unwrap();
    let error = place.get(&place.images(), &["shown", "high"]).unwrap_err();
    umount2(&place.at("shown"), MntFlags::empty()).unwrap();
    assert!(matches!(error, RootImageError::Unsupported), "{error}");
    assert!(place.cached().is_empty());
}

#[test]
fn a_disk_takes_no_more_than_it_holds_and_has_a_name_only_until_it_is_mounted() {
    let place = Place::new();
    let disk = place.images().disk(1 << 30).unwrap();
    let found = disk.as_file().metadata().unwrap();
    assert_eq!(found.len(), 1 << 30);
    assert!(found.blocks() * 512 < 2 << 20, "{} blocks", found.blocks());
    // Whoever makes room meanwhile leaves it alone, and takes what a dead process has left.
    fs::write(place.at("cache/dead.part"), "beginning").unwrap();
    let _image = place.get(&place.images(), &["low"]).unwrap();
    assert!(disk.path().exists() && !place.at("cache/dead.part").exists());
    drop(disk);
    assert_eq!(place.cached().len(), 1, "{:?}", place.cached());
}

#[test]
fn a_root_that_is_no_directory_is_refused() {
    let place = Place::new();
    let device = MountSpec {
        kind: "ext4".to_owned(),
        source: "/dev/loop0".to_owned(),
        options: vec![],
    };
    let two = [place.root(&["low"]), place.root(&["high"])].concat();
    for mounts in [vec![], vec![device], two] {
        let error = place
            .images()
            .get(&mounts, &place.at("scratch"))
            .unwrap_err();
        assert!(matches!(error, RootImageError::Unsupported), "{error}");
    }
    let bind = [MountSpec::bind(place.at("low").to_str().unwrap(), false)];
    let image = place.images().get(&bind, &place.at("scratch")).unwrap();
    assert_eq!(place.name_in(&image), "one");
}

#[test]
fn a_root_that_is_larger_than_the_cache_makes_no_image() {
    let place = Place::new();
    // With a hole in it: an image has none.
    let file = File::create(place.at("low/large")).unwrap();
    file.set_len(1 << 40).unwrap();
    let images = RootImages::new(&place.at("cache"), 1 << 30);
    let error = place.get(&images, &["low"]).unwrap_err();
    assert!(matches!(error, RootImageError::TooLarge { .. }), "{error}");
    assert!(place.cached().is_empty());
}

#[test]
fn directories_may_be_nested_deeply() {
    let place = Place::new();
    let deep = place.at("low").join("d/".repeat(500));
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("name"), "deep").unwrap();
    let image = place.get(&place.images(), &["low"]).unwrap();
    let found = place.shown(&image, |dir| {
        fs::read_to_string(dir.join("d/".repeat(500)).join("name")).unwrap()
    });
    assert_eq!(found, "deep");
}
