//! A root that the guest mounts by itself: what the agent is told to do.

use std::path::Path;

use hull_agent_api::agent::Storage;
use hull_agent_api::agent::storage::Driver;

use super::GuestSpec;
use crate::guest_root::{GuestRoot, Place};
use crate::share::{self, Disks};

/// Where the agent has such roots.
const GUEST_ROOTS: &str = "/run/hull/roots";

/// Name of a file with a writable file system of the root, below the container's directory in the share.
pub(crate) const ROOT_DISK: &str = "root.img";

/// The same of a read-only image; 0 is the uppermost.
pub(crate) fn root_image(index: usize) -> String {
    format!("root-{index}.erofs")
}

impl GuestSpec {
    /// Lets the container `id` have `guest_root`, whose files are in its directory of the share.
    pub(crate) fn take_root(&mut self, id: &str, guest_root: &GuestRoot) {
        let shared = Path::new(share::GUEST_DIR).join(id);
        let dir = Path::new(GUEST_ROOTS).join(id);
        let root = dir.join("root");
        match guest_root {
            GuestRoot::Own {
                place,
                kind,
                options,
            } => {
                let file = match place {
                    Place::File(_) => shared.join(ROOT_DISK),
                    Place::Disk(disk) => Disks::guest_path(disk),
                };
                self.storages.push(looped(&file, kind, options, &root));
            }
            GuestRoot::Layers { images, disk } => {
                self.storages
                    .push(new(Driver::TMPFS, &dir, &["mode=700".to_owned()]));
                let mut lower = Vec::new();
                for index in 0..images.len() {
                    let target = dir.join(format!("image-{index}"));
                    self.storages.push(Storage {
                        source: text(&shared.join(root_image(index))),
                        fs_type: "erofs".to_owned(),
                        ..new(Driver::FILE, &target, &["ro".to_owned()])
                    });
                    lower.push(text(&target));
                }
                let mut written = dir.clone();
                if disk.is_some() {
                    written = dir.join("disk");
                    let file = shared.join(ROOT_DISK);
                    self.storages.push(looped(&file, "ext4", &[], &written));
                }
                let layers = [
                    format!("lowerdir={}", lower.join(":")),
                    format!("upperdir={}", text(&written.join("upper"))),
                    format!("workdir={}", text(&written.join("work"))),
                ];
                self.storages.push(new(Driver::OVERLAY, &root, &layers));
            }
        }
        let mut spec_root = self.spec.root().clone().unwrap_or_default();
        spec_root.set_path(root);
        self.spec.set_root(Some(spec_root));
    }
}

fn new(driver: Driver, target: &Path, options: &[String]) -> Storage {
    Storage {
        driver: driver.into(),
        target: text(target),
        options: options.to_vec(),
        ..Storage::default()
    }
}

fn looped(file: &Path, kind: &str, options: &[String], target: &Path) -> Storage {
    Storage {
        source: text(file),
        fs_type: kind.to_owned(),
        ..new(Driver::LOOP, target, options)
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}
