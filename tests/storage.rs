//! What Hull keeps - images, containers' files, volumes - and the commands for it.

use std::fs::{self, File};
use std::path::Path;

use harness::layout::{Entry, TestImage, archive, digest};
use harness::registry::{Registry, content_of};
use harness::{Hull, busybox};
use serde_json::Value;
use tempfile::TempDir;

fn image() -> TestImage {
    TestImage::new(archive(&[Entry::File("name", b"content\n")]))
}

/// An image layout as one file.
fn write_archive(image: &TestImage, file: &Path) {
    let layout = TempDir::new().expect("a directory");
    let _ = image.write(layout.path());
    let mut builder = tar::Builder::new(File::create(file).expect("a file"));
    builder
        .append_dir_all(".", layout.path())
        .and_then(|()| builder.finish())
        .expect("an archive");
}

/// The images as scripts see them.
fn images(hull: &Hull) -> Vec<Value> {
    let json = hull.hull(["images", "--json"]).ok();
    serde_json::from_str(&json).expect("JSON")
}

#[test]
fn an_image_is_pulled_listed_and_removed() {
    let hull = Hull::new();
    let image = image();
    let id = digest(&image.config);
    let reference = Registry::start(content_of(&image)).reference("latest");
    assert_eq!(
        hull.hull(["pull", &reference]).ok(),
        format!("{reference}\n")
    );
    let listed = images(&hull);
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0]["reference"], *reference);
    assert_eq!(listed[0]["id"], *id);
    assert_eq!(listed[0]["digest"], *digest(&image.manifest));
    assert_eq!(listed[0]["layers"], 1);
    let short = &id["sha256:".len()..][..12];
    let table = hull.hull(["images"]).ok();
    assert!(
        table.contains(&reference) && table.contains(short),
        "{table}"
    );
    assert_eq!(hull.hull(["images", "-q"]).ok(), format!("{short}\n"));
    let _ = hull.hull(["rmi", "no-such-image"]).one_error(1);
    assert_eq!(hull.hull(["rmi", short]).ok(), format!("{short}\n"));
    assert!(images(&hull).is_empty());
    for dir in ["blobs/sha256", "layers"] {
        let left = fs::read_dir(hull.root().join(dir)).expect("a directory");
        assert_eq!(left.count(), 0, "{dir}");
    }
}

#[test]
fn an_archive_is_loaded_from_a_file_and_from_standard_input() {
    let hull = Hull::new();
    let dir = TempDir::new().expect("a directory");
    let file = dir.path().join("image.tar");
    write_archive(&image(), &file);
    let path = file.to_str().expect("text");
    let loaded = hull.hull(["load", "-i", path]).ok();
    assert_eq!(loaded, format!("oci-archive:{path}\n"));
    let _ = hull.hull(["rmi", loaded.trim()]).ok();
    let input = File::open(&file).expect("a file");
    let output = hull.command(["load"]).stdin(input).output();
    let loaded = harness::Outcome(output.expect("hull starts")).ok();
    assert_eq!(images(&hull)[0]["reference"], *loaded.trim());
    fs::write(&file, "no archive").expect("a file");
    let line = hull.hull(["load", "-i", path]).one_error(1);
    assert!(line.contains(path), "{line}");
    let line = hull.hull(["load", "-i", "/no/such/file"]).one_error(1);
    assert!(line.contains("/no/such/file"), "{line}");
    assert_eq!(images(&hull).len(), 1);
}

/// A container of busybox, made and not started.
fn create(hull: &Hull, options: &[&str]) {
    let image = busybox();
    let start = ["create", "--name", "c", "--network", "none"];
    let end = [&image, "sh", "-c", "cat /data/x; read line"];
    let _ = hull.hull([&start[..], options, &end].concat()).ok();
}

#[test]
fn what_is_in_use_is_not_removed_and_the_user_is_named() {
    let hull = Hull::new();
    create(&hull, &["-v", "data:/data"]);
    let line = hull.hull(["rmi", &busybox()]).one_error(1);
    assert!(line.contains("in use"), "{line}");
    let line = hull.hull(["volume", "rm", "data"]).one_error(1);
    assert!(
        line.contains("volume data is in use by container c"),
        "{line}"
    );
    assert_eq!(hull.hull(["volume", "ls"]).ok(), "NAME\ndata\n");
    let _ = hull.hull(["volume", "rm", "other"]).one_error(1);
    let _ = hull.hull(["rm", "c"]).ok();
    let _ = hull.hull(["volume", "rm", "data"]).ok();
    assert_eq!(hull.hull(["volume", "ls"]).ok(), "NAME\n");
    let _ = hull.hull(["rmi", &busybox()]).ok();
}

#[test]
fn files_are_copied_both_ways_before_and_while_a_container_runs() {
    let hull = Hull::new();
    let dir = TempDir::new().expect("a directory");
    let (here, back) = (dir.path().join("here"), dir.path().join("back"));
    let (here, back) = (here.to_str().expect("text"), back.to_str().expect("text"));
    fs::write(here, "from the host\n").expect("a file");
    create(&hull, &["-i", "-t", "-v", "data:/data"]);
    let _ = hull.hull(["cp", here, "c:/data/x"]).ok();
    let _ = hull.hull(["cp", here, "c:/root"]).ok();
    let _ = hull.hull(["start", "c"]).ok();
    let cat = ["exec", "c", "cat", "/data/x", "/root/here"];
    assert_eq!(hull.hull(cat).ok(), "from the host\n".repeat(2));
    let write = ["exec", "c", "sh", "-c", "echo from the guest > /root/there"];
    let _ = hull.hull(write).ok();
    let _ = hull.hull(["cp", "c:/root/there", back]).ok();
    let copied = fs::read_to_string(back).expect("a file");
    assert_eq!(copied, "from the guest\n");
    for (from, to) in [
        ("c:/no/such/file", back),
        ("none:/etc/passwd", back),
        ("c:/proc/version", back),
        (here, "c:/no/such/directory/x"),
        (here, back),
    ] {
        let _ = hull.hull(["cp", from, to]).one_error(1);
        let kept = fs::read_to_string(back).expect("a file");
        assert_eq!(kept, copied, "{from}");
    }
    let _ = hull.hull(["rm", "-f", "c"]).ok();
}

#[test]
fn directories_may_have_colons_and_commas_in_their_names() {
    let own = Hull::new();
    let strange = own.root().join(r"a:b,c\d e");
    let hull = |arguments: &[&str]| {
        let output = own.command(arguments).env("HULL_ROOT", &strange).output();
        harness::Outcome(output.expect("hull starts"))
    };
    let image = busybox();
    let run = ["run", "-d", "--name", "c", "--network", "none", &image];
    let _ = hull(&[&run[..], &["sleep", "1000"]].concat()).ok();
    let _ = hull(&["exec", "c", "sh", "-c", "echo written > /x"]).ok();
    // Both look at the container's files from the host.
    let exec = ["exec", "--user", "user", "c", "cat", "/x"];
    assert_eq!(hull(&exec).ok(), "written\n");
    let copy = own.root().join("copy");
    let _ = hull(&["cp", "c:/x", copy.to_str().expect("text")]).ok();
    assert_eq!(fs::read_to_string(copy).expect("a file"), "written\n");
    let _ = hull(&["rm", "-f", "c"]).ok();

    let root = own.root().join(r"root:of\an,image");
    fs::create_dir_all(root.join("bin")).expect("a directory");
    let output = std::process::Command::new("sh")
        .args(["-c", "cp $(command -v busybox) \"$0\"/bin"])
        .arg(&root)
        .output();
    let _ = harness::Outcome(output.expect("sh")).ok();
    let reference = format!("rootfs:{}", root.display());
    let run = ["run", "--rm", "--network", "none", &reference];
    let script = ["busybox", "sh", "-c", "echo kept > /x; busybox cat /x"];
    assert_eq!(hull(&[&run[..], &script].concat()).ok(), "kept\n");
    assert!(!root.join("x").exists());
}

#[test]
fn a_large_file_is_written_whole() {
    let script = "dd if=/dev/zero of=/f bs=1M count=16 conv=fsync 2>/dev/null && wc -c < /f";
    let written = Hull::new().run(&[], &["sh", "-c", script]).ok();
    assert_eq!(written, "16777216\n");
}
