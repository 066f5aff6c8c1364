//! The directories that an engine makes a root of.

use std::path::PathBuf;

use super::{MountSpec, overlay};

/// The directories that a root is made of.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Layers {
    /// What others have as well, the uppermost first.
    pub(crate) lower: Vec<PathBuf>,
    /// What is written, if anything may be.
    pub(crate) upper: Vec<PathBuf>,
}

impl Layers {
    /// Those of an overlay or of a bind mount. Nothing of anything else.
    pub(crate) fn of(root: &MountSpec) -> Option<Self> {
        if root.is_bind() {
            return Some(Self {
                lower: vec![PathBuf::from(&root.source)],
                upper: vec![],
            });
        }
        if root.kind != "overlay" {
            return None;
        }
        let mut layers = Self::default();
        for (name, paths) in root
            .options
            .iter()
            .filter_map(|option| overlay::directories(option))
        {
            let paths = paths.into_iter().filter(|path| !path.is_empty());
            match name {
                "lowerdir" => layers.lower.extend(paths.map(PathBuf::from)),
                "upperdir" => layers.upper.extend(paths.map(PathBuf::from)),
                _ => {}
            }
        }
        Some(layers)
    }
}
