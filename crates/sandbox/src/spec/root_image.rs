//! A root that the guest puts together: an image of the host's, and what is written to it in the guest's memory.

use std::path::Path;

use hull_agent_api::agent::Storage;
use hull_agent_api::agent::storage::Driver;

use super::{GuestSpec, ROOT_IMAGE};
use crate::share;

/// Where the agent has such roots.
const GUEST_ROOTS: &str = "/run/hull/roots";

impl GuestSpec {
    /// Lets the container `id` have its root from the image in its directory of the share.
    pub(crate) fn take_root_from_image(&mut self, id: &str) {
        let dir = Path::new(GUEST_ROOTS).join(id);
        let at = |name: &str| dir.join(name).display().to_string();
        let storage = |driver: Driver, target: String, options: &[String]| Storage {
            driver: driver.into(),
            target,
            options: options.to_vec(),
            ..Storage::default()
        };
        let image = Path::new(share::GUEST_DIR).join(id).join(ROOT_IMAGE);
        let layers = [
            format!("lowerdir={}", at("image")),
            format!("upperdir={}", at("upper")),
            format!("workdir={}", at("work")),
        ];
        self.storages.extend([
            storage(
                Driver::TMPFS,
                dir.display().to_string(),
                &["mode=700".to_owned()],
            ),
            Storage {
                source: image.display().to_string(),
                fs_type: "erofs".to_owned(),
                ..storage(Driver::FILE, at("image"), &["ro".to_owned()])
            },
            storage(Driver::OVERLAY, at("root"), &layers),
        ]);
        let mut root = self.spec.root().clone().unwrap_or_default();
        root.set_path(dir.join("root"));
        self.spec.set_root(Some(root));
    }
}
