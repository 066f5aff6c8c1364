//! Files in `/etc` that containers get from their pod, where the engine leaves that to it.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{Mount, Spec};

/// The names are the same in the pod's directory.
const FILES: [&str; 3] = ["hostname", "hosts", "resolv.conf"];

/// Gives `spec` the files of `dir` that it has no mount for.
pub(super) fn add(spec: &mut Spec, dir: &Path) {
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    let missing = FILES.into_iter().filter_map(|name| {
        let destination = Path::new("/etc").join(name);
        let taken = mounts
            .iter()
            .any(|mount| *mount.destination() == destination);
        (!taken).then(|| bind(dir.join(name), destination))
    });
    let missing: Vec<Mount> = missing.collect();
    mounts.extend(missing);
    spec.set_mounts(Some(mounts));
}

fn bind(source: PathBuf, destination: PathBuf) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_typ(Some("bind".to_owned()))
        .set_source(Some(source))
        .set_destination(destination)
        .set_options(Some(vec!["bind".to_owned()]));
    mount
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_containers_own_files_win() {
        let mut spec: Spec = serde_json::from_value(json!({
            "ociVersion": "1.0.2",
            "mounts": [{"destination": "/etc/hosts", "type": "bind", "source": "/kubelet/hosts", "options": ["bind"]}],
        }))
        .unwrap();
        add(&mut spec, Path::new("/pod/etc"));
        let mounts = spec.mounts().as_ref().unwrap();
        let sources = mounts
            .iter()
            .map(|mount| mount.source().as_deref().unwrap());
        assert_eq!(
            sources.collect::<Vec<_>>(),
            [
                "/kubelet/hosts",
                "/pod/etc/hostname",
                "/pod/etc/resolv.conf"
            ]
            .map(Path::new)
        );
    }
}
