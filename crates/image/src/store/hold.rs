//! Holds: a container keeps its image's layers also while none of its processes runs.

use std::fs;
use std::io::Write;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::lock::Lock;
use super::{Shared, Store, list_names};
use crate::digest::Digest;
use crate::error::ImageError;
use crate::image::Image;

#[derive(Serialize, Deserialize)]
struct Hold {
    reference: String,
    chain_ids: Vec<Digest>,
}

impl Store {
    /// Keeps an image's layers until [`Store::release`], over reboots too. `holder` is the name of
    /// what needs them, such as a container's id; a hold that it has is replaced.
    ///
    /// # Errors
    /// When the image was removed meanwhile, or the name is no plain file name.
    pub fn hold(&self, holder: &str, image: &Image) -> Result<(), ImageError> {
        let path = self.shared.hold_path(holder)?;
        if image.store_lock.is_none() {
            return Ok(());
        }
        let _collector_waits = Lock::shared(&self.shared.collector_lock())?;
        if !image.chain_ids.iter().all(|id| self.shared.has_layer(id)) {
            return Err(ImageError::NotFound(image.reference.clone()));
        }
        let hold = Hold {
            reference: image.reference.clone(),
            chain_ids: image.chain_ids.clone(),
        };
        let text = serde_json::to_vec(&hold).map_err(ImageError::io("write", &path))?;
        let temp = self.shared.temp.file()?;
        temp.file()
            .write_all(&text)
            .and_then(|()| temp.file().sync_all())
            .map_err(ImageError::io("write", temp.path()))?;
        temp.keep_as(&path)
    }

    /// Ends a hold, and removes what was kept only for it. A holder that has none is no error.
    ///
    /// # Errors
    /// When the store cannot be changed.
    pub fn release(&self, holder: &str) -> Result<(), ImageError> {
        let path = self.shared.hold_path(holder)?;
        let hold = match fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            other => other.map_err(ImageError::io("read", &path))?,
        };
        fs::remove_file(&path).map_err(ImageError::io("remove", &path))?;
        let hold: Hold = serde_json::from_slice(&hold).map_err(ImageError::io("read", &path))?;
        let records = self.shared.index.read()?;
        let is_needed = |id| records.values().any(|record| record.chain_ids.contains(id));
        if !hold.chain_ids.iter().all(is_needed) {
            self.collect()?;
        }
        Ok(())
    }
}

impl Shared {
    fn hold_path(&self, holder: &str) -> Result<PathBuf, ImageError> {
        let is_plain = !holder.is_empty()
            && !holder.starts_with('.')
            && holder
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
        if !is_plain {
            return Err(ImageError::Unsupported(format!(
                "the holder name {holder:?}"
            )));
        }
        Ok(self.root.join("holds").join(holder))
    }

    fn holds(&self) -> Result<Vec<(String, Hold)>, ImageError> {
        let dir = self.root.join("holds");
        let mut holds = Vec::new();
        for name in list_names(&dir, |name| Some(name.to_owned()))? {
            let path = dir.join(&name);
            let text = match fs::read(&path) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                other => other.map_err(ImageError::io("read", &path))?,
            };
            let hold = serde_json::from_slice(&text).map_err(ImageError::io("read", &path))?;
            holds.push((name, hold));
        }
        Ok(holds)
    }

    /// Layers that somebody holds.
    pub(super) fn held_layers(&self) -> Result<Vec<Digest>, ImageError> {
        Ok(self
            .holds()?
            .into_iter()
            .flat_map(|(_, hold)| hold.chain_ids)
            .collect())
    }

    /// Who holds an image with these layers.
    pub(super) fn holders(&self, chain_ids: &[Digest]) -> Result<Vec<String>, ImageError> {
        let holds = self.holds()?.into_iter();
        Ok(holds
            .filter(|(_, hold)| hold.chain_ids == chain_ids)
            .map(|(name, _)| name)
            .collect())
    }
}
