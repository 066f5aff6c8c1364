//! Settings that are one of a few words.

use hull_vm::{Acceleration, FileSharing, Vmm};

use crate::settings::{LogLevel, RootKind, Start};

/// A setting that is one of a few words.
pub(crate) trait Choice: Copy + 'static {
    /// All of them, in the order in which they are listed.
    const ALL: &'static [Self];

    /// The word for it.
    fn name(self) -> &'static str;
}

impl Choice for Vmm {
    const ALL: &'static [Self] = Vmm::ALL;

    fn name(self) -> &'static str {
        self.name()
    }
}

impl Choice for Acceleration {
    const ALL: &'static [Self] = &[Self::Auto, Self::Kvm, Self::Tcg];

    fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

impl Choice for FileSharing {
    const ALL: &'static [Self] = &[Self::Auto, Self::VirtioFs, Self::Vsock];

    fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::VirtioFs => "virtio-fs",
            Self::Vsock => "vsock",
        }
    }
}

impl Choice for Start {
    const ALL: &'static [Self] = &[Self::Boot, Self::Template];

    fn name(self) -> &'static str {
        match self {
            Self::Boot => "boot",
            Self::Template => "template",
        }
    }
}

impl Choice for RootKind {
    const ALL: &'static [Self] = &[Self::Shared, Self::Image];

    fn name(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::Image => "image",
        }
    }
}

impl Choice for LogLevel {
    const ALL: &'static [Self] = &[
        Self::Error,
        Self::Warn,
        Self::Info,
        Self::Debug,
        Self::Trace,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}
