//! Operating system and architecture.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What an image runs on, in the words of the OCI image specification.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// Operating system.
    pub os: String,
    /// Architecture, such as `amd64`.
    pub architecture: String,
    /// Variant of the architecture, such as `v8`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl Platform {
    /// Linux on this host's architecture.
    #[must_use]
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            "powerpc64" => "ppc64le",
            "loongarch64" => "loong64",
            other => other,
        };
        Self {
            os: "linux".to_owned(),
            architecture: architecture.to_owned(),
            variant: None,
        }
    }

    /// How well an image for `self` runs on `host`: not at all, or better the lower the number.
    fn distance(&self, host: &Self) -> Option<u8> {
        if self.os != host.os || self.architecture != host.architecture {
            return None;
        }
        Some(match self.variant.as_deref() {
            None | Some("" | "v1") => 0,
            // What every 64-bit ARM is.
            Some("v8") => 0,
            Some(_) => 1,
        })
    }

    /// Whether an image for `self` runs on `host`.
    #[must_use]
    pub fn runs_on(&self, host: &Self) -> bool {
        self.distance(host).is_some()
    }

    /// The first of the platforms that fits `host` best.
    pub(crate) fn best<'a, T>(
        candidates: impl Iterator<Item = (&'a Self, T)>,
        host: &Self,
    ) -> Option<T> {
        candidates
            .filter_map(|(platform, item)| Some((platform.distance(host)?, item)))
            .min_by_key(|(distance, _)| *distance)
            .map(|(_, item)| item)
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match self.variant.as_deref() {
            None | Some("") => Ok(()),
            Some(variant) => write!(f, "/{variant}"),
        }
    }
}
