//! Layers: whatever is in one, nothing outside its directory may change.
#![no_main]

use std::fs;
use std::sync::atomic::AtomicBool;

use arbitrary::Arbitrary;
use hull_image::Limits;
use hull_image::layer::{OverlayXattr, Ownership, UnpackOptions, unpack};
use libfuzzer_sys::fuzz_target;

/// A part of a path. There are few, so that entries meet each other.
#[derive(Debug, Arbitrary)]
enum Part {
    A,
    B,
    Up,
    Here,
    Slash,
    Outside,
    WhiteoutA,
    WhiteoutUp,
    Opaque,
    Other(u8),
}

#[derive(Debug, Arbitrary)]
enum Kind {
    File,
    Directory,
    Symlink,
    HardLink,
    Fifo,
    LongName,
    LongLink,
    Pax,
    Sparse,
    Other(u8),
}

#[derive(Debug, Arbitrary)]
struct Entry {
    path: Vec<Part>,
    link: Vec<Part>,
    kind: Kind,
    mode: u16,
    body: Vec<u8>,
    /// Declares this size instead of the body's.
    size: Option<u32>,
}

#[derive(Debug, Arbitrary)]
enum Layer {
    /// A well-formed archive of strange entries.
    Entries(Vec<Entry>),
    /// Anything.
    Bytes(Vec<u8>),
}

fn path(parts: &[Part]) -> Vec<u8> {
    let mut path = Vec::new();
    for part in parts {
        if !path.is_empty() && !path.ends_with(b"/") {
            path.push(b'/');
        }
        match part {
            Part::A => path.push(b'a'),
            Part::B => path.push(b'b'),
            Part::Up => path.extend(b".."),
            Part::Here => path.push(b'.'),
            Part::Slash => path.push(b'/'),
            Part::Outside => path.extend(b"outside"),
            Part::WhiteoutA => path.extend(b".wh.a"),
            Part::WhiteoutUp => path.extend(b".wh..."),
            Part::Opaque => path.extend(b".wh..wh..opq"),
            Part::Other(byte) => path.push(*byte),
        }
    }
    path.truncate(99);
    path
}

fn archive(entries: &[Entry]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in entries {
        let mut header = tar::Header::new_gnu();
        let gnu = header.as_gnu_mut().expect("it is a GNU header");
        let (name, link) = (path(&entry.path), path(&entry.link));
        gnu.name[..name.len()].copy_from_slice(&name);
        gnu.linkname[..link.len()].copy_from_slice(&link);
        gnu.typeflag[0] = match entry.kind {
            Kind::File => b'0',
            Kind::Directory => b'5',
            Kind::Symlink => b'2',
            Kind::HardLink => b'1',
            Kind::Fifo => b'6',
            Kind::LongName => b'L',
            Kind::LongLink => b'K',
            Kind::Pax => b'x',
            Kind::Sparse => b'S',
            // Devices would be real ones if root runs this.
            Kind::Other(b'3' | b'4') => b'7',
            Kind::Other(kind) => kind,
        };
        header.set_mode(u32::from(entry.mode));
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(entry.size.map_or(entry.body.len() as u64, u64::from));
        header.set_cksum();
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(&entry.body);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes
}

fuzz_target!(|layer: Layer| {
    let bytes = match layer {
        Layer::Entries(entries) => archive(&entries),
        Layer::Bytes(bytes) => bytes,
    };
    let temp = tempfile::tempdir().expect("a temporary directory");
    let outside = temp.path().join("outside");
    let root = temp.path().join("fs");
    for dir in [&outside, &root] {
        fs::create_dir(dir).expect("a directory");
    }
    fs::write(outside.join("a"), "secret").expect("a file");
    let before = fs::metadata(&outside).expect("a directory").modified().ok();
    let options = UnpackOptions {
        limits: Limits {
            max_entries: 1000,
            max_unpacked_bytes: 1 << 20,
            max_path_bytes: 4096,
        },
        overlay_xattr: OverlayXattr::User,
        ownership: Ownership::Tolerant,
        lowest: false,
    };
    // Being refused is as good as being unpacked.
    let _ = unpack(&bytes[..], &root, &options, &AtomicBool::new(false));
    assert_eq!(fs::read_dir(temp.path()).expect("a directory").count(), 2);
    assert_eq!(fs::read_dir(&outside).expect("a directory").count(), 1);
    assert_eq!(fs::read(outside.join("a")).expect("a file"), b"secret");
    assert_eq!(
        fs::metadata(&outside).expect("a directory").modified().ok(),
        before
    );
    assert!(fs::symlink_metadata(&root).expect("a directory").is_dir());
});
