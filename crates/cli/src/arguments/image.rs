//! Commands on images.

use std::path::PathBuf;

use clap::{Args, ValueHint};

/// Options of `images`.
#[derive(Debug, Args)]
pub(crate) struct ImagesArgs {
    /// Print ids only
    #[arg(short = 'q', long)]
    pub(crate) ids: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Options of `pull`.
#[derive(Debug, Args)]
pub(crate) struct PullArgs {
    /// Platform of the image; the guest runs linux/amd64 only
    #[arg(long, value_name = "OS/ARCH")]
    pub(crate) platform: Option<String>,
    /// The image: [REGISTRY/]NAME[:TAG|@DIGEST], oci:DIR, oci-archive:FILE or docker-archive:FILE
    #[arg(required = true)]
    pub(crate) images: Vec<String>,
}

/// Options of `load`.
#[derive(Debug, Args)]
pub(crate) struct LoadArgs {
    /// The archive, in OCI's or Docker's format [default: standard input]
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) input: Option<PathBuf>,
}

/// Options of `rmi`.
#[derive(Debug, Args)]
pub(crate) struct RmiArgs {
    /// Remove images that containers use
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Images, by name or id
    #[arg(required = true)]
    pub(crate) images: Vec<String>,
}
