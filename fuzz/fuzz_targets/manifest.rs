//! Manifests, indexes, configurations and references: no input may make their readers panic, and
//! what is read must be consistent.
#![no_main]

use hull_image::manifest::{CheckedConfig, Document, chain_ids};
use hull_image::{Name, Reference};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(Document::Manifest(manifest)) = Document::parse(data) {
        assert!(manifest.layers.len() <= hull_image::manifest::MAX_LAYERS);
    }
    for layers in 0..3 {
        if let Ok(checked) = CheckedConfig::parse(data, layers) {
            assert_eq!(checked.diff_ids.len(), layers);
            assert_eq!(chain_ids(&checked.diff_ids).len(), layers);
            let _ = checked.platform().to_string();
        }
    }
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(reference) = text.parse::<Reference>()
    {
        // Whatever is accepted means the same when it is written and read again.
        assert_eq!(reference.to_string().parse().as_ref(), Ok(&reference));
        if let Some(name) = reference.name() {
            assert_eq!(name.short().parse::<Name>().as_ref(), Ok(name));
        }
    }
});
