//! Taking images from places on this host.

use std::path::Path;

use super::install::{Incoming, LayerSource};
use super::{Shared, Store};
use crate::archive::{DockerArchive, Files, Layout, TarFile};
use crate::error::ImageError;
use crate::image::Image;
use crate::progress::Progress;
use crate::reference::Reference;

impl Store {
    /// Takes one image from where `reference` says, unless it is a name in a registry. Layers that
    /// the store has are not unpacked again. It is kept under the name that it has in the archive,
    /// or else under the reference itself. Blocks.
    ///
    /// # Errors
    /// When the image is not there, is damaged or is refused; nothing of it is kept then.
    pub fn load(
        &self,
        reference: &Reference,
        progress: &dyn Progress,
    ) -> Result<Image, ImageError> {
        let shared = &*self.shared;
        let absolute = reference
            .clone()
            .absolute()
            .map_err(ImageError::io("find", "."))?;
        let key = absolute.to_string();
        let (incoming, layout);
        match absolute {
            Reference::Registry(name) => {
                return Err(ImageError::Unsupported(format!(
                    "loading {name}, which is to be pulled,"
                )));
            }
            Reference::Rootfs { dir } => return self.rootfs(&dir),
            Reference::OciLayout { dir, tag } => {
                if !dir.exists() {
                    return Err(ImageError::NotFound(key));
                }
                layout = Layout::open(Files::Dir(dir))?;
                let chosen = layout.choose(tag.as_deref(), &shared.platform)?;
                incoming = layout.resolve(&chosen, key, &shared.platform)?;
            }
            Reference::OciArchive { file, tag } => {
                layout = Layout::open(Files::Tar(shared.tar(&file)?))?;
                let chosen = layout.choose(tag.as_deref(), &shared.platform)?;
                incoming = layout.resolve(&chosen, key, &shared.platform)?;
            }
            Reference::DockerArchive { file, name } => {
                let archive = DockerArchive::open(Files::Tar(shared.tar(&file)?))?;
                let chosen = archive.choose(name.as_ref())?;
                let (incoming, image) = archive.resolve(chosen, key, &shared.platform)?;
                return shared.take(&incoming, &image, progress);
            }
        }
        shared.take(&incoming, &layout, progress)
    }

    /// Takes every image from an archive, Docker's or OCI's, under the names that they have in it.
    /// One without a name is kept under `oci-archive:` or `docker-archive:` and the path. The file
    /// may be a pipe, such as `/dev/stdin`. Blocks.
    ///
    /// # Errors
    /// When the file is no archive, or an image is damaged or refused. Images before it are kept.
    pub fn load_archive(
        &self,
        file: &Path,
        progress: &dyn Progress,
    ) -> Result<Vec<Image>, ImageError> {
        let shared = &*self.shared;
        let file = std::path::absolute(file).map_err(ImageError::io("find", file))?;
        let tar = shared.tar(&file)?;
        let mut images = Vec::new();
        // Docker's own archives are both at once; only this half has all names.
        if tar.has("manifest.json") {
            let archive = DockerArchive::open(Files::Tar(tar))?;
            for (index, names) in archive.named() {
                let mut keys: Vec<String> = names.iter().map(ToString::to_string).collect();
                if keys.is_empty() {
                    keys.push(format!("docker-archive:{}", file.display()));
                }
                for key in keys {
                    let (incoming, source) = archive.resolve(index, key, &shared.platform)?;
                    images.push(shared.take(&incoming, &source, progress)?);
                }
            }
        } else if tar.has("index.json") {
            let layout = Layout::open(Files::Tar(tar))?;
            for (name, descriptor) in layout.named() {
                let key = name.map_or_else(
                    || format!("oci-archive:{}", file.display()),
                    |name| name.to_string(),
                );
                let incoming = layout.resolve(&descriptor, key, &shared.platform)?;
                images.push(shared.take(&incoming, &layout, progress)?);
            }
        } else {
            return Err(ImageError::NotAnArchive {
                place: file.display().to_string(),
                why: "it has neither manifest.json nor index.json",
            });
        }
        Ok(images)
    }
}

impl Shared {
    fn tar(&self, file: &Path) -> Result<TarFile, ImageError> {
        TarFile::open(file, &self.temp, self.unpack.limits.max_unpacked_bytes)
    }

    fn take(
        &self,
        incoming: &Incoming,
        source: &dyn LayerSource,
        progress: &dyn Progress,
    ) -> Result<Image, ImageError> {
        let installed = self.install(incoming, source, progress);
        self.tidy(&installed);
        self.image(&incoming.reference, &installed?)
    }
}
