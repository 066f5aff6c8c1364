//! Layers that try to do harm, and damaged ones. None may change anything outside its directory.

#![allow(clippy::unwrap_used, reason = "a test program")]

mod support;

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use hull_image::layer::{Escape, OverlayXattr, Ownership, UnpackOptions, unpack};
use hull_image::{LayerError, Limits};
use support::LayerBuilder;
use tar::EntryType;

/// Unpacks next to a directory `outside` with a file `secret`, which must stay as they are.
struct Trap {
    temp: tempfile::TempDir,
    limits: Limits,
}

impl Trap {
    fn new() -> Self {
        Self::with(Limits::default())
    }

    fn with(limits: Limits) -> Self {
        let temp = tempfile::tempdir().unwrap();
        fs::create_dir(temp.path().join("outside")).unwrap();
        fs::write(temp.path().join("outside/secret"), "secret").unwrap();
        fs::create_dir(temp.path().join("fs")).unwrap();
        Self { temp, limits }
    }

    fn unpack(&self, blob: &[u8]) -> Result<(), LayerError> {
        let options = UnpackOptions {
            limits: self.limits,
            overlay_xattr: OverlayXattr::probe(self.temp.path()).unwrap(),
            ownership: Ownership::of_process(),
            lowest: false,
        };
        let root = self.temp.path().join("fs");
        let result = unpack(blob, &root, &options, &AtomicBool::new(false));
        let outside = self.outside();
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
        assert_eq!(fs::read(outside.join("secret")).unwrap(), b"secret");
        let names = fs::read_dir(self.temp.path()).unwrap();
        assert_eq!(names.count(), 2, "something new beside the layer");
        result.map(drop)
    }

    fn outside(&self) -> PathBuf {
        self.temp.path().join("outside")
    }
}

/// Asserts that `layer` is refused because its last entry escapes.
fn refused(layer: LayerBuilder, expected: Escape, name: &str) {
    match Trap::new().unpack(&layer.bytes()) {
        Err(LayerError::Escape { entry, how }) => {
            assert_eq!((entry.as_str(), how), (name, expected));
        }
        other => panic!("{name}: {other:?}"),
    }
}

#[test]
fn dot_dot_is_refused() {
    for name in [
        "../outside/x",
        "a/../../outside/x",
        "..",
        "./..",
        "a/../b",
        "a/..",
    ] {
        refused(
            LayerBuilder::new().dir("a/", 0o755).file(name, b"x"),
            Escape::DotDot,
            name,
        );
    }
}

#[test]
fn absolute_paths_are_refused() {
    refused(
        LayerBuilder::new().file("/outside", b"x"),
        Escape::Absolute,
        "/outside",
    );
    refused(LayerBuilder::new().dir("/", 0o777), Escape::Absolute, "/");
    refused(
        LayerBuilder::new().file("//x", b"x"),
        Escape::Absolute,
        "//x",
    );
}

#[test]
fn files_through_a_symlink_out_are_refused() {
    let outside = Trap::new();
    let absolute = outside.outside();
    for target in [
        "../outside",
        "..",
        "/",
        absolute.to_str().unwrap(),
        "d/../../outside",
        "link",
    ] {
        for kind in [
            EntryType::Regular,
            EntryType::Directory,
            EntryType::Fifo,
            EntryType::Char,
        ] {
            let layer = LayerBuilder::new().dir("d/", 0o755).symlink("link", target);
            refused(
                layer.entry("link/x", kind, 0o777, b""),
                Escape::SymlinkParent,
                "link/x",
            );
        }
        let layer = LayerBuilder::new().dir("d/", 0o755).symlink("link", target);
        refused(
            layer.symlink("link/x", "y"),
            Escape::SymlinkParent,
            "link/x",
        );
        let layer = LayerBuilder::new().dir("d/", 0o755).symlink("link", target);
        refused(
            layer.file("link/.wh.secret", b""),
            Escape::SymlinkParent,
            "link/.wh.secret",
        );
        let layer = LayerBuilder::new().dir("d/", 0o755).symlink("link", target);
        refused(
            layer.file("link/.wh..wh..opq", b""),
            Escape::SymlinkParent,
            "link/.wh..wh..opq",
        );
        let layer = LayerBuilder::new().dir("d/", 0o755).symlink("link", target);
        refused(
            layer.file("link/a/b/c", b""),
            Escape::SymlinkParent,
            "link/a/b/c",
        );
    }
}

#[test]
fn a_chain_of_symlinks_does_not_get_out_either() {
    let layer = LayerBuilder::new()
        .dir("a/", 0o755)
        .symlink("a/up", "..")
        .symlink("b", "a/up")
        .symlink("c", "b/..")
        .file("c/outside/x", b"x");
    refused(layer, Escape::SymlinkParent, "c/outside/x");
}

#[test]
fn an_entry_replaces_a_symlink_instead_of_following_it() {
    let trap = Trap::new();
    let tar = LayerBuilder::new()
        .symlink("f", "../outside/secret")
        .file("f", b"x")
        .symlink("d", "../outside")
        .dir("d/", 0o777)
        .file("d/x", b"x")
        .symlink("w", "../outside/secret")
        .file(".wh.w", b"")
        .bytes();
    trap.unpack(&tar).unwrap();
    assert!(
        fs::symlink_metadata(trap.temp.path().join("fs/d"))
            .unwrap()
            .is_dir()
    );
}

#[test]
fn hard_links_out_are_refused() {
    let trap = Trap::new();
    let absolute = trap.outside().join("secret");
    for target in [
        "../outside/secret",
        "/etc/passwd",
        absolute.to_str().unwrap(),
        "d/../../x",
    ] {
        refused(
            LayerBuilder::new().hard_link("h", target),
            Escape::HardLinkTarget,
            "h",
        );
    }
    let layer = LayerBuilder::new()
        .symlink("link", "../outside")
        .hard_link("h", "link/secret");
    refused(layer, Escape::HardLinkTarget, "h");
}

#[test]
fn a_hard_link_to_a_symlink_links_the_symlink() {
    let trap = Trap::new();
    let tar = LayerBuilder::new()
        .symlink("link", "../outside/secret")
        .hard_link("h", "link")
        .file("h", b"overwritten")
        .bytes();
    trap.unpack(&tar).unwrap();
}

#[test]
fn hard_links_need_a_file_of_the_layer() {
    for target in ["missing", "d/missing", "f/x", ""] {
        let tar = LayerBuilder::new()
            .file("f", b"x")
            .hard_link("h", target)
            .bytes();
        let error = Trap::new().unpack(&tar).unwrap_err();
        let expected = if target.is_empty() {
            matches!(error, LayerError::BadEntry { .. })
        } else {
            matches!(error, LayerError::MissingLinkTarget { .. })
        };
        assert!(expected, "{target}: {error:?}");
    }
    let tar = LayerBuilder::new()
        .dir("d/", 0o755)
        .hard_link("h", "d")
        .bytes();
    assert!(matches!(
        Trap::new().unpack(&tar),
        Err(LayerError::BadEntry { .. })
    ));
    // Making room for the link takes its target away.
    let tar = LayerBuilder::new()
        .file("d/f", b"x")
        .hard_link("d", "d/f")
        .bytes();
    assert!(matches!(
        Trap::new().unpack(&tar),
        Err(LayerError::MissingLinkTarget { .. })
    ));
}

#[test]
fn whiteouts_of_no_name_are_refused() {
    for name in [".wh.", ".wh..", ".wh...", "d/.wh..."] {
        let layer = LayerBuilder::new().dir("d/", 0o755);
        refused(layer.file(name, b""), Escape::Whiteout, name);
    }
}

#[test]
fn a_file_is_no_parent() {
    let tar = LayerBuilder::new()
        .file("f", b"x")
        .file("f/x", b"x")
        .bytes();
    assert!(matches!(
        Trap::new().unpack(&tar),
        Err(LayerError::BadEntry { .. })
    ));
    let tar = LayerBuilder::new()
        .symlink("l", "nowhere")
        .file("l/x", b"x")
        .bytes();
    assert!(matches!(
        Trap::new().unpack(&tar),
        Err(LayerError::BadEntry { .. })
    ));
    let tar = LayerBuilder::new().file(".", b"x").bytes();
    assert!(matches!(
        Trap::new().unpack(&tar),
        Err(LayerError::BadEntry { .. })
    ));
}

#[test]
fn declared_sizes_are_not_believed() {
    let mut header = LayerBuilder::header(EntryType::Regular, 0o644, 0);
    header.as_gnu_mut().unwrap().name[0] = b'f';
    for (size, is_limit) in [
        (1u64 << 20, false),
        (1 << 50, true),
        (i64::MAX as u64, true),
    ] {
        header.set_size(size);
        header.set_cksum();
        let tar = [&header.as_bytes()[..], &[0; 512]].concat();
        match Trap::new().unpack(&tar) {
            Err(LayerError::Limit { .. }) if is_limit => {}
            Err(LayerError::Truncated(_)) if !is_limit => {}
            other => panic!("{size}: {other:?}"),
        }
    }
    header.set_size(u64::MAX);
    header.set_cksum();
    let result = Trap::new().unpack(&header.as_bytes()[..]);
    assert!(matches!(result, Err(LayerError::Archive(_))), "{result:?}");
}

#[test]
fn extension_records_are_limited() {
    for kind in [
        EntryType::GNULongName,
        EntryType::GNULongLink,
        EntryType::XHeader,
        EntryType::XGlobalHeader,
    ] {
        let header = LayerBuilder::header(kind, 0, 1 << 40);
        let mut header = header;
        header.set_cksum();
        let result = Trap::new().unpack(&[&header.as_bytes()[..], &[0; 1024]].concat());
        assert!(
            matches!(result, Err(LayerError::Archive(_))),
            "{kind:?}: {result:?}"
        );
    }
}

#[test]
fn limits_hold() {
    let three = LayerBuilder::new()
        .file("a", &[1; 600])
        .file("b", &[1; 600])
        .file("c", b"")
        .bytes();
    let with = |max_entries, max_unpacked_bytes, max_path_bytes| {
        let limits = Limits {
            max_entries,
            max_unpacked_bytes,
            max_path_bytes,
        };
        Trap::with(limits).unpack(&three)
    };
    let total = three.len() as u64;
    with(3, total, 1).unwrap();
    for result in [
        with(2, total, 1),
        with(3, total - 1, 1),
        with(3, 1100, 1),
        with(3, total, 0),
    ] {
        assert!(
            matches!(result, Err(LayerError::Limit { .. })),
            "{result:?}"
        );
    }
    // A bomb: little to read, much to write, and much behind the end.
    let bomb = support::gzip(&vec![0; 1 << 22]);
    let limits = Limits {
        max_unpacked_bytes: 1 << 20,
        ..Limits::default()
    };
    assert!(matches!(
        Trap::with(limits).unpack(&bomb),
        Err(LayerError::Limit { .. })
    ));
}

#[test]
fn truncated_layers_are_recognised_wherever_they_end() {
    let tar = LayerBuilder::new()
        .file("a", &[b'a'; 700])
        .file("b", &[b'b'; 700])
        .bytes();
    for blob in [support::gzip(&tar), support::zstd(&tar)] {
        for length in 4..blob.len() {
            let result = Trap::new().unpack(&blob[..length]);
            assert!(
                matches!(result, Err(LayerError::Truncated(_))),
                "{length} of {}: {result:?}",
                blob.len()
            );
        }
    }
    // Without compression an end between entries shows only in the digest.
    let data_end = 512 + 1024 + 512 + 700;
    for length in (1..data_end).filter(|length| length % 256 < 2 || length % 256 > 254) {
        let result = Trap::new().unpack(&tar[..length]);
        let is_between = length == 512 + 1024 || (512 + 700..512 + 1024).contains(&length);
        assert_eq!(result.is_ok(), is_between, "{length}: {result:?}");
    }
}

#[test]
fn damaged_layers_are_errors() {
    let tar = LayerBuilder::new().file("a", &[b'a'; 700]).bytes();
    let mut checksum = tar.clone();
    checksum[0] = b'b';
    assert!(matches!(
        Trap::new().unpack(&checksum),
        Err(LayerError::Archive(_))
    ));
    let mut unknown = LayerBuilder::header(EntryType::new(b'M'), 0o644, 0);
    unknown.as_gnu_mut().unwrap().name[0] = b'f';
    unknown.set_cksum();
    assert!(matches!(
        Trap::new().unpack(unknown.as_bytes()),
        Err(LayerError::Archive(_))
    ));
    for mut blob in [support::gzip(&tar), support::zstd(&tar)] {
        let middle = blob.len() / 2;
        blob[middle] ^= 0xff;
        assert!(Trap::new().unpack(&blob).is_err());
    }
    assert!(matches!(
        Trap::new().unpack(b"not a layer at all"),
        Err(LayerError::Truncated(_))
    ));
}
