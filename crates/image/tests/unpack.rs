//! What unpacking makes of a layer.

#![allow(clippy::unwrap_used, reason = "a test program")]

mod support;

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::AtomicBool;

use hull_image::layer::{OverlayXattr, Ownership, UnpackOptions, Unpacked, unpack};
use hull_image::{Digest, LayerError, Limits, Note};
use rustix::fs::{XattrFlags, lgetxattr};
use support::LayerBuilder;
use tar::EntryType;

struct Target {
    _temp: tempfile::TempDir,
    root: std::path::PathBuf,
    options: UnpackOptions,
}

impl Target {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().join("fs");
        fs::create_dir(&root).unwrap();
        let options = UnpackOptions {
            limits: Limits::default(),
            overlay_xattr: OverlayXattr::probe(temp.path()).unwrap(),
            ownership: Ownership::of_process(),
            lowest: false,
        };
        Self {
            _temp: temp,
            root,
            options,
        }
    }

    fn unpack(&self, blob: &[u8]) -> Result<Unpacked, LayerError> {
        unpack(blob, &self.root, &self.options, &AtomicBool::new(false))
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.root.join(name)
    }

    fn is_opaque(&self, name: &str) -> bool {
        let attribute = match self.options.overlay_xattr {
            OverlayXattr::Trusted => "trusted.overlay.opaque",
            OverlayXattr::User => "user.overlay.opaque",
        };
        let mut value = [0; 8];
        lgetxattr(self.path(name), attribute, &mut value).is_ok_and(|n| &value[..n] == b"y")
    }

    fn is_whiteout(&self, name: &str) -> bool {
        fs::symlink_metadata(self.path(name))
            .is_ok_and(|found| found.file_type().is_char_device() && found.rdev() == 0)
    }
}

/// An entry with a PAX header.
fn pax(
    builder: &mut tar::Builder<Vec<u8>>,
    records: &[(&str, &[u8])],
    header: &tar::Header,
    body: &[u8],
) {
    builder
        .append_pax_extensions(records.iter().copied())
        .unwrap();
    builder.append(header, body).unwrap();
}

fn header(path: &str, kind: EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = LayerBuilder::header(kind, mode, size);
    header.as_gnu_mut().unwrap().name[..path.len()].copy_from_slice(path.as_bytes());
    header.set_cksum();
    header
}

#[test]
fn kinds_modes_and_times_are_kept() {
    // Others cannot give files to root, and so may not set their bits.
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let target = Target::new();
    let tar = LayerBuilder::new()
        .dir("./", 0o750)
        .dir("d/", 0o555)
        .file("d/f", b"content")
        .entry("d/setuid", EntryType::Regular, 0o4755, b"x")
        .symlink("d/link", "/somewhere/else")
        .hard_link("hard", "d/f")
        .entry("fifo", EntryType::Fifo, 0o640, b"")
        .bytes();
    let unpacked = target.unpack(&tar).unwrap();
    assert_eq!(unpacked.diff_id, Digest::of(&tar));
    assert_eq!((unpacked.entries, unpacked.size_bytes), (7, 8));
    assert!(unpacked.notes.is_empty() && unpacked.implicit_dirs.is_empty());
    let stat = |name: &str| fs::symlink_metadata(target.path(name)).unwrap();
    for (name, mode) in [
        ("", 0o750),
        ("d", 0o555),
        ("d/f", 0o644),
        ("d/setuid", 0o4755),
        ("fifo", 0o640),
    ] {
        assert_eq!(stat(name).mode() & 0o7777, mode, "{name}");
    }
    for name in ["", "d", "d/f", "d/link", "fifo"] {
        assert_eq!(stat(name).mtime(), 1_000_000_000, "{name}");
    }
    assert_eq!(stat("d/f").ino(), stat("hard").ino());
    assert!(stat("fifo").file_type().is_fifo());
    assert_eq!(
        fs::read_link(target.path("d/link")).unwrap(),
        Path::new("/somewhere/else")
    );
}

#[test]
fn compressions_give_the_same_layer() {
    let tar = LayerBuilder::new().file("f", &[b'x'; 100_000]).bytes();
    let (first, second) = tar.split_at(777);
    let members = [support::gzip(first), support::gzip(second)].concat();
    let frames = [
        support::zstd(first),
        b"\x50\x2a\x4d\x18\x03\x00\x00\x00abc".to_vec(),
        support::zstd(second),
    ]
    .concat();
    for blob in [
        tar.clone(),
        support::gzip(&tar),
        support::zstd(&tar),
        members,
        frames,
    ] {
        let target = Target::new();
        assert_eq!(target.unpack(&blob).unwrap().diff_id, Digest::of(&tar));
        assert_eq!(fs::metadata(target.path("f")).unwrap().len(), 100_000);
    }
    let xz = Target::new().unpack(b"\xfd7zXZ\x00rest").unwrap_err();
    assert!(matches!(xz, LayerError::Compression("xz")));
}

#[test]
fn owners_are_kept() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let target = Target::new();
    let mut builder = tar::Builder::new(Vec::new());
    for (path, kind) in [
        ("f", EntryType::Regular),
        ("d/", EntryType::Directory),
        ("l", EntryType::Symlink),
    ] {
        let mut header = header(path, kind, 0o6755, 0);
        header.set_uid(1234);
        header.set_gid(5678);
        header.as_gnu_mut().unwrap().linkname[0] = b'x';
        header.set_cksum();
        builder.append(&header, &b""[..]).unwrap();
    }
    target.unpack(&builder.into_inner().unwrap()).unwrap();
    for path in ["f", "d", "l"] {
        let stat = fs::symlink_metadata(target.path(path)).unwrap();
        assert_eq!((stat.uid(), stat.gid()), (1234, 5678), "{path}");
    }
    // A change of owner clears these bits, so that the order matters.
    assert_eq!(
        fs::metadata(target.path("f")).unwrap().mode() & 0o7777,
        0o6755
    );
}

#[test]
fn extended_attributes_are_kept_if_layers_may_carry_them() {
    let target = Target::new();
    let probe = target.path("probe");
    fs::write(&probe, "").unwrap();
    let capability =
        b"\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00";
    if rustix::fs::setxattr(
        &probe,
        "security.capability",
        capability,
        XattrFlags::empty(),
    )
    .is_err()
    {
        return;
    }
    fs::remove_file(probe).unwrap();
    let mut builder = tar::Builder::new(Vec::new());
    let records: [(&str, &[u8]); 4] = [
        ("SCHILY.xattr.security.capability", capability),
        ("SCHILY.xattr.user.note", b"a\nb"),
        ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
        ("SCHILY.xattr.user.overlay.opaque", b"y"),
    ];
    pax(
        &mut builder,
        &records,
        &header("ping", EntryType::Regular, 0o755, 0),
        b"",
    );
    let unpacked = target.unpack(&builder.into_inner().unwrap()).unwrap();
    let get = |name: &str| {
        let mut value = [0; 64];
        let length = lgetxattr(target.path("ping"), name, &mut value).ok()?;
        Some(value[..length].to_vec())
    };
    assert_eq!(get("security.capability").as_deref(), Some(&capability[..]));
    assert_eq!(get("user.note").as_deref(), Some(&b"a\nb"[..]));
    assert_eq!(get("trusted.overlay.redirect"), None);
    assert_eq!(get("user.overlay.opaque"), None);
    let skipped: Vec<&str> = unpacked
        .notes
        .iter()
        .map(|note| match note {
            Note::XattrSkipped { name, .. } => name.as_str(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(skipped, ["trusted.overlay.redirect", "user.overlay.opaque"]);
}

#[test]
fn devices_are_made_or_noted() {
    let target = Target::new();
    let mut builder = tar::Builder::new(Vec::new());
    for (path, major, minor) in [("null", 1, 3), ("zero", 0, 0)] {
        let mut header = header(path, EntryType::Char, 0o666, 0);
        header.set_device_major(major).unwrap();
        header.set_device_minor(minor).unwrap();
        header.set_cksum();
        builder.append(&header, &b""[..]).unwrap();
    }
    let unpacked = target.unpack(&builder.into_inner().unwrap()).unwrap();
    let noted = |wanted: &str| {
        unpacked
            .notes
            .iter()
            .any(|note| matches!(note, Note::DeviceSkipped { path, .. } if path == wanted))
    };
    match fs::symlink_metadata(target.path("null")) {
        Ok(null) => {
            assert_eq!(null.rdev(), rustix::fs::makedev(1, 3));
            assert_eq!(null.mode() & 0o7777, 0o666);
        }
        Err(_) => assert!(noted("null")),
    }
    // To overlayfs it would be a whiteout.
    assert!(noted("zero") && !target.path("zero").exists());
}

#[test]
fn whiteouts_take_overlayfs_form() {
    let target = Target::new();
    let tar = LayerBuilder::new()
        .dir("d/", 0o755)
        .file("d/.wh.gone", b"")
        .file("implicit/.wh.gone", b"")
        .file("o/.wh..wh..opq", b"")
        .file("o/kept", b"x")
        .file(".wh..wh.plnk", b"")
        .bytes();
    let unpacked = target.unpack(&tar).unwrap();
    assert!(target.is_whiteout("d/gone") && target.is_whiteout("implicit/gone"));
    assert!(target.is_opaque("o") && !target.is_opaque("d"));
    assert!(target.path("o/kept").exists());
    assert!(!target.path(".wh..wh.plnk").exists());
    assert_eq!(unpacked.implicit_dirs, ["", "implicit", "o"].map(Path::new));
}

#[test]
fn whiteouts_hide_what_is_below_and_nothing_in_the_layer_itself() {
    let before = LayerBuilder::new()
        .file("f", b"new")
        .dir("d/", 0o755)
        .file("d/x", b"new");
    let before = before.file(".wh.f", b"").file(".wh.d", b"").bytes();
    let after = LayerBuilder::new()
        .file(".wh.f", b"")
        .file(".wh.d", b"")
        .file("f", b"new");
    let after = after.file("d/x", b"new").bytes();
    let explicit = LayerBuilder::new()
        .file(".wh.f", b"")
        .file(".wh.d", b"")
        .file("f", b"new");
    let explicit = explicit.dir("d/", 0o755).file("d/x", b"new").bytes();
    for tar in [before, after, explicit] {
        let target = Target::new();
        target.unpack(&tar).unwrap();
        assert_eq!(fs::read(target.path("f")).unwrap(), b"new");
        assert_eq!(fs::read(target.path("d/x")).unwrap(), b"new");
        assert!(target.is_opaque("d"));
    }
}

#[test]
fn the_lowest_layer_has_nothing_to_hide() {
    let mut target = Target::new();
    target.options.lowest = true;
    let tar = LayerBuilder::new()
        .file("d/.wh.x", b"")
        .file("d/.wh..wh..opq", b"")
        .bytes();
    target.unpack(&tar).unwrap();
    assert!(!target.path("d/x").exists() && !target.is_opaque("d"));
}

#[test]
fn later_entries_replace_earlier_ones() {
    let target = Target::new();
    let tar = LayerBuilder::new()
        .dir("a/b/", 0o755)
        .file("a/b/c", b"x")
        .file("a", b"file now")
        .symlink("s", "a")
        .file("s", b"not through the link")
        .file("t", b"x")
        .dir("t/", 0o700)
        .dir("t/", 0o711)
        .bytes();
    target.unpack(&tar).unwrap();
    assert_eq!(fs::read(target.path("a")).unwrap(), b"file now");
    assert_eq!(fs::read(target.path("s")).unwrap(), b"not through the link");
    assert_eq!(
        fs::metadata(target.path("t")).unwrap().mode() & 0o7777,
        0o711
    );
}

#[test]
fn links_within_the_layer_are_followed() {
    let target = Target::new();
    let tar = LayerBuilder::new()
        .dir("usr/lib/", 0o755)
        .symlink("lib", "usr/lib")
        .symlink("usr/up", "../lib")
        .file("lib/a", b"a")
        .file("usr/up/b", b"b")
        .hard_link("c", "lib/a")
        .hard_link("c", "c")
        .bytes();
    target.unpack(&tar).unwrap();
    for (path, content) in [("usr/lib/a", b"a"), ("usr/lib/b", b"b"), ("c", b"a")] {
        assert_eq!(fs::read(target.path(path)).unwrap(), content);
    }
}

#[test]
fn long_names_and_pax_records_are_understood() {
    let long = format!("{}/{}", "d".repeat(120), "f".repeat(200));
    let target = Target::new();
    let mut builder = tar::Builder::new(Vec::new());
    let mut plain = LayerBuilder::header(EntryType::Regular, 0o644, 3);
    builder.append_data(&mut plain, &long, &b"gnu"[..]).unwrap();
    let mut link = LayerBuilder::header(EntryType::Symlink, 0o777, 0);
    builder.append_link(&mut link, "link", &long).unwrap();
    // The size in the header is wrong, as it is for files that do not fit its field.
    let mut sized = header("short", EntryType::Regular, 0o644, 0);
    sized.set_cksum();
    let records: [(&str, &[u8]); 3] = [("path", b"from-pax"), ("size", b"4"), ("mtime", b"5.25")];
    pax(&mut builder, &records, &sized, b"");
    builder
        .get_mut()
        .extend_from_slice(&[b"body".to_vec(), vec![0; 508]].concat());
    target.unpack(&builder.into_inner().unwrap()).unwrap();
    assert_eq!(fs::read(target.path(&long)).unwrap(), b"gnu");
    assert_eq!(
        fs::read_link(target.path("link")).unwrap(),
        Path::new(&long)
    );
    assert_eq!(fs::read(target.path("from-pax")).unwrap(), b"body");
    let stat = fs::metadata(target.path("from-pax")).unwrap();
    assert_eq!((stat.mtime(), stat.mtime_nsec()), (5, 250_000_000));
}

#[test]
fn sparse_files_have_their_holes() {
    // 4 bytes at 1 MiB and 2 at the end, in each of the formats.
    const SIZE: u64 = 2 << 20;
    let data = [&b"dataxy"[..], &[0; 506]].concat();
    let sparse_map = b"2\n1048576\n4\n2097150\n2\n";
    let in_body = [&sparse_map[..], &vec![0; 512 - sparse_map.len()], &data[..]].concat();
    let mut layers = Vec::new();
    for records in [
        vec![
            ("GNU.sparse.size", &b"2097152"[..]),
            ("GNU.sparse.offset", b"1048576"),
            ("GNU.sparse.numbytes", b"4"),
            ("GNU.sparse.offset", b"2097150"),
            ("GNU.sparse.numbytes", b"2"),
        ],
        vec![
            ("GNU.sparse.name", &b"sparse"[..]),
            ("GNU.sparse.size", b"2097152"),
            ("GNU.sparse.map", b"1048576,4,2097150,2"),
        ],
    ] {
        let mut builder = tar::Builder::new(Vec::new());
        pax(
            &mut builder,
            &records,
            &header("sparse", EntryType::Regular, 0o644, 6),
            &data[..6],
        );
        layers.push(builder.into_inner().unwrap());
    }
    let mut builder = tar::Builder::new(Vec::new());
    let records: [(&str, &[u8]); 4] = [
        ("GNU.sparse.major", b"1"),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.name", b"sparse"),
        ("GNU.sparse.realsize", b"2097152"),
    ];
    let stored = 512 + 6;
    pax(
        &mut builder,
        &records,
        &header("x", EntryType::Regular, 0o644, stored),
        &in_body[..518],
    );
    layers.push(builder.into_inner().unwrap());
    let mut old = LayerBuilder::header(EntryType::GNUSparse, 0o644, 6);
    let gnu = old.as_gnu_mut().unwrap();
    gnu.name[..6].copy_from_slice(b"sparse");
    gnu.realsize[..11].copy_from_slice(b"00010000000");
    for (entry, (offset, length)) in gnu.sparse.iter_mut().zip([
        (b"00004000000", b"00000000004"),
        (b"00007777776", b"00000000002"),
    ]) {
        entry.offset[..11].copy_from_slice(offset);
        entry.numbytes[..11].copy_from_slice(length);
    }
    old.set_cksum();
    let mut builder = tar::Builder::new(Vec::new());
    builder.append(&old, &data[..6]).unwrap();
    layers.push(builder.into_inner().unwrap());
    for tar in layers {
        let target = Target::new();
        target.unpack(&tar).unwrap();
        let content = fs::read(target.path("sparse")).unwrap();
        assert_eq!(content.len() as u64, SIZE);
        assert_eq!(&content[1 << 20..(1 << 20) + 4], b"data");
        assert_eq!(&content[content.len() - 2..], b"xy");
        assert_eq!(content.iter().filter(|byte| **byte != 0).count(), 6);
        assert!(fs::metadata(target.path("sparse")).unwrap().blocks() * 512 < SIZE);
    }
}

#[test]
fn unpacking_ends_when_it_is_cancelled() {
    let target = Target::new();
    let tar = LayerBuilder::new().file("f", b"x").bytes();
    let result = unpack(
        &tar[..],
        &target.root,
        &target.options,
        &AtomicBool::new(true),
    );
    assert!(matches!(result, Err(LayerError::Cancelled)));
}

#[test]
fn unreadable_directories_can_still_be_filled() {
    let target = Target::new();
    let tar = LayerBuilder::new()
        .dir("d/", 0o000)
        .file("d/f", b"x")
        .bytes();
    target.unpack(&tar).unwrap();
    assert_eq!(fs::metadata(target.path("d")).unwrap().mode() & 0o7777, 0);
    fs::set_permissions(target.path("d"), fs::Permissions::from_mode(0o700)).unwrap();
    assert!(target.path("d/f").exists());
}
