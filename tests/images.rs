//! Images that are missing, damaged, hostile or too big: one clear line, a documented exit code, and
//! nothing changes.

use std::collections::BTreeSet;
use std::fs;

use harness::disk::SmallDisk;
use harness::layout::{Entry, TestImage, archive, blob, digest};
use harness::registry::{Registry, content_of};
use harness::traces::tree;
use harness::{Hull, Outcome, busybox};
use tempfile::TempDir;

/// `run` and `pull`, which fail with different codes.
fn run_and_pull(hull: &Hull, reference: &str) -> [(Outcome, i32); 2] {
    let run = hull.hull(["run", "--rm", "--network", "none", reference, "true"]);
    [(run, 125), (hull.hull(["pull", reference]), 1)]
}

/// What is below a root, but for the locks.
fn content(hull: &Hull) -> BTreeSet<String> {
    let mut content = tree(hull.root(), &|_| true);
    content.retain(|path| !path.ends_with(".lock") && !path.contains("/locks/"));
    content
}

/// Checks that an image is refused with one line that has `clue` in it, and that nothing has changed.
fn assert_refused(hull: &Hull, reference: &str, clue: &str) {
    let _ = hull.hull(["images"]).ok();
    let before = content(hull);
    for (outcome, code) in run_and_pull(hull, reference) {
        let line = outcome.one_error(code);
        assert!(line.contains(clue), "{clue:?} is not in {line}");
    }
    assert_eq!(before, content(hull), "{reference}");
}

fn good_image() -> TestImage {
    let files = [Entry::Directory("etc/"), Entry::File("etc/name", b"good\n")];
    TestImage::new(archive(&files))
}

#[test]
fn an_image_that_is_not_there_is_named() {
    let hull = Hull::new();
    let dir = TempDir::new().expect("a directory");
    let _ = good_image().write(dir.path());
    let layout = format!("oci:{}:other", dir.path().display());
    for (reference, clue) in [
        ("oci:/no/such/layout", "/no/such/layout"),
        ("oci-archive:/no/such/file", "/no/such/file"),
        ("docker-archive:/no/such/file", "/no/such/file"),
        ("rootfs:/no/such/directory", "/no/such/directory"),
        ("Not/A Reference", "Not/A Reference"),
        (&layout, "other"),
        ("oci-archive:/etc/passwd", "/etc/passwd"),
    ] {
        assert_refused(&hull, reference, clue);
    }
    for pull in ["never", "missing"] {
        let unknown = hull.hull(["run", "--rm", "--pull", pull, "0123456789ab@", "true"]);
        assert!(unknown.one_error(125).contains("0123456789ab"));
    }
    let missing = hull.hull(["create", "--pull", "never", "debian", "true"]);
    assert!(missing.one_error(125).contains("debian"));
}

#[test]
fn a_blob_that_was_changed_is_refused() {
    let hull = Hull::new();
    let image = good_image();
    for (name, bytes) in image.blobs() {
        let dir = TempDir::new().expect("a directory");
        let reference = image.write(dir.path());
        let mut changed = bytes.to_vec();
        changed[bytes.len() / 2] ^= 1;
        fs::write(blob(dir.path(), &name), &changed).expect("a file");
        assert_refused(&hull, &reference, &digest(&changed));
        assert_refused(&hull, &reference, &name);
    }
}

#[test]
fn a_truncated_image_is_refused() {
    let hull = Hull::new();
    let image = good_image();
    for (name, bytes) in image.blobs() {
        let dir = TempDir::new().expect("a directory");
        let reference = image.write(dir.path());
        let half = bytes.len() / 2;
        fs::write(blob(dir.path(), &name), &bytes[..half]).expect("a file");
        let sizes = format!("has {half} bytes, not {}", bytes.len());
        assert_refused(&hull, &reference, &sizes);
        fs::remove_file(blob(dir.path(), &name)).expect("removed");
        assert_refused(&hull, &reference, &name.replace(':', "/"));
    }
    // The digests of these are right: each image was made from a layer that ends too early.
    let layer = image.layer;
    for end in [100, 512 + 100, 1024, 1024 + 2] {
        let dir = TempDir::new().expect("a directory");
        let reference = TestImage::new(layer[..end].to_vec()).write(dir.path());
        assert_refused(&hull, &reference, "truncated");
    }
}

#[test]
fn layers_that_lead_out_are_refused() {
    let hull = Hull::new();
    let outside = TempDir::new().expect("a directory");
    fs::write(outside.path().join("secret"), "secret").expect("a file");
    let place = outside.path().to_str().expect("text");
    let absolute = format!("{place}/new");
    let up = format!("{}{absolute}", "../".repeat(20).trim_end_matches('/'));
    let secret = format!("{place}/secret");
    let layers: [&[Entry<'_>]; 8] = [
        &[Entry::File("../escaped", b"")],
        &[Entry::File(&up, b"")],
        &[Entry::File(&absolute, b"")],
        &[Entry::Directory("a/"), Entry::File("a/../../escaped", b"")],
        &[Entry::Symlink("out", place), Entry::File("out/new", b"")],
        &[
            Entry::Symlink("out", ".."),
            Entry::Directory("out/escaped/"),
        ],
        &[
            Entry::HardLink("name", &secret),
            Entry::File("name", b"new"),
        ],
        &[Entry::HardLink("name", "../../../../etc/passwd")],
    ];
    for layer in layers {
        let dir = TempDir::new().expect("a directory");
        let reference = TestImage::new(archive(layer)).write(dir.path());
        assert_refused(&hull, &reference, "layer entry");
        let names = fs::read_dir(outside.path()).expect("a directory").count();
        assert_eq!(names, 1, "{layer:?}");
        let secret = fs::read_to_string(&secret).expect("a file");
        assert_eq!(secret, "secret", "{layer:?}");
    }
}

#[test]
fn what_a_registry_gives_is_checked() {
    let hull = Hull::new();
    let image = good_image();
    let manifest = digest(&image.manifest);
    let layer = digest(&image.layer);
    let (pinned, good) = (format!("@{manifest}"), content_of(&image));
    let with = |name: &str, bytes: &[u8]| {
        let mut content = good.clone();
        content.insert(name.to_owned(), bytes.to_owned());
        Registry::start(content)
    };
    let registry = with(&format!("manifests/{manifest}"), &image.config);
    assert_refused(&hull, &registry.reference(&pinned), &digest(&image.config));
    let registry = with("manifests/latest", b"<html>Please log in</html>");
    assert_refused(&hull, &registry.reference("latest"), "manifest");
    for bytes in [&b"something else"[..], &image.layer[..100], b""] {
        let registry = with(&format!("blobs/{layer}"), bytes);
        assert_refused(&hull, &registry.reference("latest"), &layer);
    }
    let registry = Registry::start(good);
    assert_refused(&hull, &registry.reference("none"), "app:none is not found");
}

#[test]
fn a_registry_that_is_not_there_is_named() {
    let hull = Hull::new();
    // Port 1 of a loopback address that nobody uses.
    assert_refused(&hull, "127.86.0.1:1/app:latest", "127.86.0.1:1");
}

#[test]
fn a_full_store_is_said_and_the_same_command_works_once_there_is_room() {
    // Others cannot mount.
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let hull = Hull::new();
    let disk = SmallDisk::mount(hull.root(), "16m");
    let image = busybox();
    let _ = hull.hull(["images"]).ok();
    // Not even a blob fits; a blob does not fit whole; the blobs do and what is in the layer does not.
    let container = ["create", "--network", "none", &image, "true"];
    for left in [0, 512 << 10, 1536 << 10] {
        disk.fill(left);
        assert_refused(&hull, &image, "No space left on device");
        let line = hull.hull(container).one_error(125);
        assert!(line.contains("No space left on device"), "{line}");
        disk.free();
    }
    // The image is there, and a container does not fit.
    let _ = hull.hull(["pull", &image]).ok();
    disk.fill(0);
    let line = hull.hull(container).one_error(125);
    assert!(line.contains("No space left on device"), "{line}");
    assert_eq!(hull.hull(["ps", "-a", "-q"]).ok(), "");
    let run = ["run", "--rm", "--network", "none", &image, "echo", "ran"];
    let line = hull.hull(run).one_error(125);
    assert!(line.contains("No space left on device"), "{line}");
    disk.free();
    assert_eq!(hull.hull(run).ok(), "ran\n");
    // What makes room needs none.
    disk.fill(0);
    let _ = hull.hull(["rmi", &image]).ok();
    assert_eq!(hull.hull(["images", "-q"]).ok(), "");
}
