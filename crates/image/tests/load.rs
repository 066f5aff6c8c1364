//! Taking images from layouts and archives on this host.

#![allow(clippy::unwrap_used, reason = "a test program")]

mod support;

use std::fs;
use std::os::unix::fs::MetadataExt;

use hull_image::{ErrorKind, ImageError, Reference, Silent};
use rustix::fs::{CWD, Mode, mkfifoat};
use support::{ImageParts, Layer, LayerBuilder, TestStore, tar_of, write_layout};

fn two_layers() -> ImageParts {
    let lower = LayerBuilder::new()
        .dir("./", 0o751)
        .dir("etc/", 0o755)
        .dir("tmp/", 0o1777)
        .file("etc/a", b"lower")
        .bytes();
    let upper = LayerBuilder::new()
        .file("etc/b", b"upper")
        .file("tmp/x", b"x")
        .bytes();
    ImageParts::new(vec![Layer::gzip(&lower), Layer::zstd(&upper)])
}

#[test]
fn a_layout_is_unpacked_with_the_uppermost_layer_first() {
    let test = TestStore::new();
    let image = two_layers();
    write_layout(&test.path("layout"), &[("v1", &image)]);
    let reference: Reference = format!("oci:{}:v1", test.path("layout").display())
        .parse()
        .unwrap();
    let loaded = test.store.load(&reference, &Silent).unwrap();
    assert_eq!(loaded.layers.len(), 2);
    assert_eq!(fs::read(loaded.layers[0].join("etc/b")).unwrap(), b"upper");
    assert_eq!(fs::read(loaded.layers[1].join("etc/a")).unwrap(), b"lower");
    assert_eq!(loaded.reference, reference.to_string());
    assert_eq!(loaded.size_bytes, 11);
    assert_eq!(loaded.created.as_deref(), Some("2024-01-02T03:04:05Z"));
    let command = loaded.config.config().as_ref().unwrap().cmd().clone();
    assert_eq!(command, Some(vec!["/bin/sh".to_owned()]));
    // The upper layer has no entry for /tmp: it must not make it unusable.
    let tmp = fs::metadata(loaded.layers[0].join("tmp")).unwrap();
    assert_eq!(tmp.mode() & 0o7777, 0o1777);
    assert_eq!(tmp.mtime(), 1_000_000_000);
    // Nor for the root.
    let root = fs::metadata(&loaded.layers[0]).unwrap();
    assert_eq!((root.mode() & 0o7777, root.mtime()), (0o751, 1_000_000_000));

    let id = loaded.id.hex();
    for name in [
        &*reference.to_string(),
        &id,
        &id[..12],
        &format!("sha256:{id}"),
    ] {
        assert_eq!(test.store.get(name).unwrap().id, loaded.id);
    }
    assert_eq!(test.store.list().unwrap().len(), 1);
}

#[test]
fn an_archive_gives_the_same_image_as_its_layout() {
    let test = TestStore::new();
    write_layout(&test.path("layout"), &[("v1", &two_layers())]);
    tar_of(&test.path("layout"), &test.path("image.tar"));
    let load = |reference: String| {
        test.store
            .load(&reference.parse().unwrap(), &Silent)
            .unwrap()
    };
    let from_dir = load(format!("oci:{}", test.path("layout").display()));
    let from_tar = load(format!("oci-archive:{}", test.path("image.tar").display()));
    assert_eq!(from_dir.id, from_tar.id);
    assert_eq!(from_dir.layers, from_tar.layers);
    let plain = fs::read(test.path("image.tar")).unwrap();
    fs::write(test.path("image.tar.gz"), support::gzip(&plain)).unwrap();
    let from_gzip = load(format!(
        "oci-archive:{}",
        test.path("image.tar.gz").display()
    ));
    assert_eq!(from_gzip.id, from_dir.id);
}

#[test]
fn a_directory_is_used_in_place() {
    let test = TestStore::new();
    fs::create_dir(test.path("root")).unwrap();
    let name = format!("rootfs:{}", test.path("root").display());
    let image = test.store.get(&name).unwrap();
    assert_eq!(image.layers, [fs::canonicalize(test.path("root")).unwrap()]);
    assert_eq!(image.config.os().to_string(), "linux");
    assert!(image.lease().unwrap().files().is_empty());
    assert!(test.content().is_empty());
    let missing = test.store.get("rootfs:/does/not/exist").unwrap_err();
    assert!(matches!(missing, ImageError::NotFound(_)));
    fs::write(test.path("file"), "").unwrap();
    let file = test
        .store
        .get(&format!("rootfs:{}", test.path("file").display()));
    assert_eq!(file.unwrap_err().kind(), ErrorKind::Io);
}

/// What `docker save` of version 24 and before writes, with a layer that occurs twice as a link.
fn docker_archive(images: &[(&str, Option<&str>, &ImageParts)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut add = |name: &str, bytes: &[u8]| {
        let mut header = LayerBuilder::header(tar::EntryType::Regular, 0o644, bytes.len() as u64);
        builder.append_data(&mut header, name, bytes).unwrap();
    };
    let mut saved = Vec::new();
    for (name, tag, image) in images {
        add(&format!("{name}.json"), &image.config);
        let mut layers = Vec::new();
        for (index, layer) in image.layers.iter().enumerate() {
            let path = format!("{name}-{index}/layer.tar");
            add(&path, &layer.blob);
            layers.push(path);
        }
        saved.push(serde_json::json!({
            "Config": format!("{name}.json"),
            "RepoTags": tag.map(|tag| vec![tag]),
            "Layers": layers,
        }));
    }
    let manifest = serde_json::Value::from(saved).to_string();
    add("manifest.json", manifest.as_bytes());
    builder.into_inner().unwrap()
}

fn plain_image(content: &[u8]) -> ImageParts {
    let tar = LayerBuilder::new().file("f", content).bytes();
    ImageParts::new(vec![Layer::plain(&tar)])
}

#[test]
fn dockers_archives_keep_their_names() {
    let test = TestStore::new();
    let (a, b) = (plain_image(b"a"), plain_image(b"b"));
    let file = test.path("saved.tar");
    let images = [("1", Some("app:v1"), &a), ("2", Some("ghcr.io/x/y:z"), &b)];
    fs::write(&file, docker_archive(&images)).unwrap();
    let loaded = test.store.load_archive(&file, &Silent).unwrap();
    let names: Vec<&str> = loaded
        .iter()
        .map(|image| image.reference.as_str())
        .collect();
    assert_eq!(names, ["docker.io/library/app:v1", "ghcr.io/x/y:z"]);
    let found = test.store.get("app:v1").unwrap();
    assert_eq!(fs::read(found.layers[0].join("f")).unwrap(), b"a");

    let of = |name: &str| -> Result<hull_image::Image, ImageError> {
        let text = format!("docker-archive:{}{name}", file.display());
        test.store.load(&text.parse().unwrap(), &Silent)
    };
    assert_eq!(of(":ghcr.io/x/y:z").unwrap().id, loaded[1].id);
    assert!(matches!(of(""), Err(ImageError::Ambiguous { names, .. }) if names.len() == 2));
    assert!(matches!(of(":none"), Err(ImageError::NotFound(_))));
}

#[test]
fn linked_and_compressed_members_are_found() {
    let test = TestStore::new();
    let image = plain_image(b"x");
    let file = test.path("saved.tar.gz");
    let mut builder = tar::Builder::new(Vec::new());
    let mut add = |name: &str, bytes: &[u8]| {
        let mut header = LayerBuilder::header(tar::EntryType::Regular, 0o644, bytes.len() as u64);
        builder.append_data(&mut header, name, bytes).unwrap();
    };
    add("./config", &image.config);
    add("one/layer.tar", &support::gzip(&image.layers[0].blob));
    add(
        "manifest.json",
        br#"[{"Config":"config","RepoTags":null,"Layers":["two/layer.tar"]}]"#,
    );
    let mut link = LayerBuilder::header(tar::EntryType::Symlink, 0o777, 0);
    builder
        .append_link(&mut link, "two/layer.tar", "../one/layer.tar")
        .unwrap();
    fs::write(&file, support::gzip(&builder.into_inner().unwrap())).unwrap();
    let loaded = test.store.load_archive(&file, &Silent).unwrap();
    assert_eq!(fs::read(loaded[0].layers[0].join("f")).unwrap(), b"x");
    assert_eq!(
        loaded[0].reference,
        format!("docker-archive:{}", file.display())
    );
}

#[test]
fn an_archive_may_come_through_a_pipe() {
    let test = TestStore::new();
    let image = plain_image(b"x");
    for bytes in [
        docker_archive(&[("1", Some("app:v1"), &image)]),
        support::gzip(&docker_archive(&[("1", Some("app:v2"), &image)])),
    ] {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&reader));
        let store = test.store.clone();
        let loading = std::thread::spawn(move || {
            let loaded = store.load_archive(path.as_ref(), &Silent).unwrap();
            drop(reader);
            loaded
        });
        std::io::Write::write_all(&mut writer, &bytes).unwrap();
        drop(writer);
        assert_eq!(
            loading.join().unwrap()[0].id,
            hull_image::Digest::of(&image.config)
        );
    }
    assert_eq!(test.store.list().unwrap().len(), 2);
}

#[test]
fn an_oci_archive_with_full_names_keeps_them() {
    let test = TestStore::new();
    let (a, b) = (plain_image(b"a"), plain_image(b"b"));
    write_layout(
        &test.path("layout"),
        &[("ghcr.io/x/app:v1", &a), ("v2", &b)],
    );
    let file = test.path("image.tar");
    tar_of(&test.path("layout"), &file);
    let loaded = test.store.load_archive(&file, &Silent).unwrap();
    let names: Vec<&str> = loaded
        .iter()
        .map(|image| image.reference.as_str())
        .collect();
    assert_eq!(
        names,
        [
            "ghcr.io/x/app:v1".to_owned(),
            format!("oci-archive:{}", file.display())
        ]
    );
    let load = |tag: &str| {
        let text = format!("oci-archive:{}{tag}", file.display());
        test.store.load(&text.parse().unwrap(), &Silent)
    };
    assert_eq!(load(":ghcr.io/x/app:v1").unwrap().id, loaded[0].id);
    assert!(matches!(load(""), Err(ImageError::Ambiguous { .. })));
    assert!(matches!(load(":v3"), Err(ImageError::NotFound(_))));
}

#[test]
fn a_pipe_in_a_layout_is_no_blob_to_wait_for() {
    let test = TestStore::new();
    let dir = test.path("layout");
    write_layout(&dir, &[("latest", &plain_image(b"x"))]);
    let index = dir.join("index.json");
    fs::remove_file(&index).unwrap();
    mkfifoat(CWD, &index, Mode::RWXU).unwrap();
    let reference: Reference = format!("oci:{}", dir.display()).parse().unwrap();
    let error = test.store.load(&reference, &Silent).unwrap_err();
    assert!(matches!(error, ImageError::MissingMember { .. }));
    let reference: Reference = format!("rootfs:{}", index.display()).parse().unwrap();
    let error = test.store.load(&reference, &Silent).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
}

#[test]
fn what_is_no_image_is_said_so() {
    let test = TestStore::new();
    let file = test.path("x.tar");
    let load = |reference: &str| {
        let text = format!("{reference}:{}", file.display());
        test.store
            .load(&text.parse().unwrap(), &Silent)
            .unwrap_err()
    };
    for transport in ["oci", "oci-archive", "docker-archive", "rootfs"] {
        assert_eq!(load(transport).kind(), ErrorKind::NotFound, "{transport}");
    }
    let archive = |bytes: &[u8]| {
        fs::write(&file, bytes).unwrap();
        test.store.load_archive(&file, &Silent).unwrap_err()
    };
    assert!(matches!(archive(b""), ImageError::NotAnArchive { .. }));
    assert!(matches!(archive(b"no tar"), ImageError::Archive { .. }));
    let other = LayerBuilder::new().file("f", b"x").bytes();
    assert!(matches!(archive(&other), ImageError::NotAnArchive { .. }));
    assert!(matches!(
        load("oci-archive"),
        ImageError::MissingMember { .. }
    ));
    let bad = LayerBuilder::new().file("manifest.json", b"{").bytes();
    assert!(matches!(archive(&bad), ImageError::Manifest { .. }));
    let missing = br#"[{"Config":"config","Layers":[]}]"#;
    let missing = LayerBuilder::new().file("manifest.json", missing).bytes();
    assert!(matches!(
        archive(&missing),
        ImageError::MissingMember { .. }
    ));
    let named = "debian:12".parse().unwrap();
    assert_eq!(
        test.store.load(&named, &Silent).unwrap_err().kind(),
        ErrorKind::Unsupported
    );
}
