//! Image archives: no file may make the store panic, or leave anything in it when it is refused.
#![no_main]

use std::fs;
use std::sync::OnceLock;

use arbitrary::Arbitrary;
use hull_image::{Digest, Limits, Removal, Silent, Store, StoreOptions};
use libfuzzer_sys::fuzz_target;

struct Place {
    temp: tempfile::TempDir,
    store: Store,
}

fn place() -> &'static Place {
    static PLACE: OnceLock<Place> = OnceLock::new();
    PLACE.get_or_init(|| {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let options = StoreOptions {
            limits: Limits {
                max_entries: 1000,
                max_unpacked_bytes: 1 << 20,
                max_path_bytes: 4096,
            },
            ..StoreOptions::default()
        };
        let store = Store::open(&temp.path().join("store"), options).expect("a store");
        Place { temp, store }
    })
}

/// A good archive and what is done to it.
#[derive(Debug, Arbitrary)]
struct Input<'a> {
    docker: bool,
    layer: &'a [u8],
    /// Which member is changed, where, and to what.
    changes: Vec<(u8, u16, u8)>,
    /// A member that is cut short, and to what size.
    cut: Option<(u8, u16)>,
    more: Vec<(u8, &'a [u8])>,
}

fn members(input: &Input<'_>) -> Vec<(String, Vec<u8>)> {
    let blob = |digest: &Digest| format!("blobs/sha256/{}", digest.hex());
    let layer = input.layer.to_vec();
    let diff_id = Digest::of(&layer);
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{"Env":["A=b"],"User":"x"}},"rootfs":{{"type":"layers","diff_ids":["{diff_id}"]}}}}"#
    )
    .into_bytes();
    let config_digest = Digest::of(&config);
    let mut members = vec![(blob(&diff_id), layer), (blob(&config_digest), config)];
    if input.docker {
        let manifest = format!(
            r#"[{{"Config":"{}","RepoTags":["a/b:c"],"Layers":["{}"]}}]"#,
            members[1].0, members[0].0
        );
        members.push(("manifest.json".to_owned(), manifest.into_bytes()));
    } else {
        let manifest = format!(
            r#"{{"schemaVersion":2,"config":{{"digest":"{config_digest}","size":{}}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{diff_id}","size":{}}}]}}"#,
            members[1].1.len(),
            members[0].1.len()
        )
        .into_bytes();
        let digest = Digest::of(&manifest);
        let index = format!(
            r#"{{"schemaVersion":2,"manifests":[{{"digest":"{digest}","size":{},"annotations":{{"org.opencontainers.image.ref.name":"a/b:c"}}}}]}}"#,
            manifest.len()
        );
        members.push((blob(&digest), manifest));
        members.push(("index.json".to_owned(), index.into_bytes()));
    }
    for (kind, bytes) in &input.more {
        members.push((format!("blobs/{kind}"), bytes.to_vec()));
    }
    members
}

fn archive(input: &Input<'_>) -> Vec<u8> {
    let mut members = members(input);
    let count = members.len();
    for (member, offset, value) in &input.changes {
        let bytes = &mut members[usize::from(*member) % count].1;
        if let Some(byte) = bytes.get_mut(usize::from(*offset)) {
            *byte = *value;
        }
    }
    if let Some((member, size)) = input.cut {
        members[usize::from(member) % count]
            .1
            .truncate(usize::from(size));
    }
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        builder
            .append_data(&mut header, name, &bytes[..])
            .expect("writing to memory");
    }
    builder.into_inner().expect("writing to memory")
}

fuzz_target!(|input: Input<'_>| {
    let Place { temp, store } = place();
    let file = temp.path().join("archive");
    fs::write(&file, archive(&input)).expect("a file");
    let root = store.root();
    let entries = |name: &str| fs::read_dir(root.join(name)).expect("a directory").count();
    match store.load_archive(&file, &Silent) {
        Ok(images) => {
            for image in images {
                assert!(store.verify(&image.reference).expect("an image").is_empty());
                store
                    .remove(&image.reference, Removal::IfUnused)
                    .expect("an image");
            }
        }
        // One image may have been good before a later one was not.
        Err(_) => {
            for image in store.list().expect("images") {
                store
                    .remove(&image.reference, Removal::IfUnused)
                    .expect("an image");
            }
        }
    }
    for dir in ["blobs/sha256", "layers", "layers-userxattr", "tmp"] {
        assert_eq!(entries(dir), 0, "{dir}");
    }
});
