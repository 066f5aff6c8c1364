//! `/dev/shm` of a pod.

use std::path::Path;

use hull_agent_api::agent;
use oci_spec::runtime::Mount;

use super::is_bind;
use crate::error::SandboxError;
use crate::mount::origin;
use crate::share;

/// The memory that the containers of a pod share: the guest's programs share memory of the guest. An engine
/// makes a file system of this size on the host, or `leaves_it`, and then a container asks for one of its own.
pub(super) fn of_pod(
    mount: &Mount,
    leaves_it: bool,
) -> Result<Option<agent::Storage>, SandboxError> {
    if mount.destination() != Path::new("/dev/shm") {
        return Ok(None);
    }
    let source = mount.source().as_deref().filter(|_| is_bind(mount));
    let size = match source {
        Some(source) => size_on_host(source)?,
        None if leaves_it && mount.typ().as_deref() == Some("tmpfs") => {
            let mut options = mount.options().iter().flatten();
            options.find(|option| option.starts_with("size=")).cloned()
        }
        None => None,
    };
    Ok(size.map(|size| agent::Storage {
        driver: agent::storage::Driver::TMPFS.into(),
        options: ["nosuid", "nodev", "noexec", "mode=1777"]
            .map(str::to_owned)
            .into_iter()
            .chain([size])
            .collect(),
        target: format!("{}/shm", share::GUEST_VOLUMES),
        of_pod: true,
        ..Default::default()
    }))
}

/// As a mount option; nothing where it is not in memory.
fn size_on_host(source: &Path) -> Result<Option<String>, SandboxError> {
    let cannot = || SandboxError::host(format!("look at {}", source.display()));
    let found = origin::there(|| Ok(nix::sys::statfs::statfs(source)?)).map_err(cannot())?;
    if found.filesystem_type() != nix::sys::statfs::TMPFS_MAGIC {
        return Ok(None);
    }
    let block = u64::try_from(found.block_size()).unwrap_or_default();
    let size = found.blocks().saturating_mul(block);
    Ok(Some(format!("size={size}")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_containers_own_is_the_pods_where_the_engine_leaves_it() {
        let mount: Mount = serde_json::from_value(json!({
            "destination": "/dev/shm", "type": "tmpfs", "source": "shm",
            "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
        }))
        .unwrap();
        assert_eq!(of_pod(&mount, false).unwrap(), None);
        let storage = of_pod(&mount, true).unwrap().unwrap();
        assert!(storage.of_pod && storage.options.contains(&"size=65536k".to_owned()));
    }
}
