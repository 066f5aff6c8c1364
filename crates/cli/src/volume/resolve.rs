//! From what a person asks for to mounts in a specification.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Mount;

use super::options::MountOption;
use super::store::{VolumeError, VolumeStore};
use crate::files::RootView;
use crate::id;

/// The mounts of a container.
#[derive(Debug, Default)]
pub(crate) struct Resolved {
    /// In the words of the OCI runtime specification.
    pub(crate) mounts: Vec<Mount>,
    /// Volumes with a name that are used.
    pub(crate) volumes: Vec<String>,
}

/// Finds or makes everything that the options name. The image's own volumes count where no option
/// takes their place. Volumes without a name are made in `anonymous`.
pub(crate) fn resolve(
    options: &[MountOption],
    image_volumes: &[String],
    named: &VolumeStore,
    anonymous: &VolumeStore,
    image: &RootView,
) -> Result<Resolved, VolumeError> {
    let mut taken = BTreeSet::new();
    for option in options {
        if !taken.insert(option.target().to_owned()) {
            return Err(VolumeError::Twice(option.target().to_owned()));
        }
    }
    let own = image_volumes.iter().filter_map(|path| {
        // What an image says is taken for what it is worth: a path that no mount can have is none.
        super::parse_volume(path).ok()
    });
    let own = own.filter(|option| !taken.contains(option.target()));
    let all: Vec<_> = options.iter().cloned().chain(own).collect();

    let mut resolved = Resolved::default();
    for option in all {
        let mount = match option {
            MountOption::Bind {
                source,
                target,
                read_only,
                propagation,
                create_source,
            } => {
                let source = bind_source(&source, create_source)?;
                bind(&source, &target, read_only, &propagation)?
            }
            MountOption::Volume {
                name,
                target,
                read_only,
                copy,
            } => {
                let fill = copy.then_some(image);
                let data = match &name {
                    Some(name) => named.open(name, &target, fill)?,
                    None => anonymous.open(&id::random(), &target, fill)?,
                };
                resolved.volumes.extend(name);
                bind(&data, &target, read_only, "rprivate")?
            }
            MountOption::Tmpfs { target, options } => {
                let mut mount = Mount::default();
                mount.set_destination(target.into());
                mount.set_typ(Some("tmpfs".to_owned()));
                mount.set_source(Some("tmpfs".into()));
                mount.set_options(Some(options));
                mount
            }
        };
        resolved.mounts.push(mount);
    }
    Ok(resolved)
}

/// The file or directory to mount, with symbolic links followed now: what the container sees is what
/// was there when it was made.
fn bind_source(source: &Path, create: bool) -> Result<PathBuf, VolumeError> {
    let failed = |what, path: &Path| {
        let path = path.to_owned();
        move |source| VolumeError::Files { what, path, source }
    };
    if !source.exists() {
        if !create {
            return Err(VolumeError::NoSource(source.to_owned()));
        }
        fs::create_dir_all(source).map_err(failed("create", source))?;
    }
    fs::canonicalize(source).map_err(failed("find", source))
}

/// A bind mount in the words of the OCI runtime specification.
pub(crate) fn bind(
    source: &Path,
    target: &str,
    read_only: bool,
    propagation: &str,
) -> Result<Mount, VolumeError> {
    if source.to_str().is_none() {
        return Err(VolumeError::NotText(source.to_owned()));
    }
    let access = if read_only { "ro" } else { "rw" };
    let options = ["rbind", access, propagation].map(str::to_owned);
    let mut mount = Mount::default();
    mount.set_destination(target.into());
    mount.set_typ(Some("bind".to_owned()));
    mount.set_source(Some(source.to_owned()));
    mount.set_options(Some(options.into()));
    Ok(mount)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::{parse_mount, parse_tmpfs, parse_volume};

    fn setting() -> (tempfile::TempDir, VolumeStore, RootView) {
        let dir = tempfile::tempdir().unwrap();
        for name in ["volumes", "image/etc/app"] {
            fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        fs::write(dir.path().join("image/etc/app/conf"), "from the image").unwrap();
        let store = VolumeStore::new(dir.path().join("volumes"));
        let image = RootView::of_directory(&dir.path().join("image")).unwrap();
        (dir, store, image)
    }

    #[test]
    fn a_new_volume_gets_the_images_files() {
        let (_dir, store, image) = setting();
        let options = [parse_volume("conf:/etc/app").unwrap()];
        let resolved = resolve(&options, &[], &store, &store, &image).unwrap();
        assert_eq!(resolved.volumes, ["conf"]);
        let source = resolved.mounts[0].source().clone().unwrap();
        assert_eq!(fs::read(source.join("conf")).unwrap(), b"from the image");
    }

    #[test]
    fn an_images_volume_is_made_unless_something_takes_its_place() {
        let (_dir, store, image) = setting();
        let own = ["/etc/app".to_owned(), "/data".to_owned()];
        let options = [parse_tmpfs("/data").unwrap()];
        let resolved = resolve(&options, &own, &store, &store, &image).unwrap();
        assert_eq!(resolved.mounts.len(), 2);
        assert!(resolved.volumes.is_empty());
        assert_eq!(store.list().unwrap().len(), 1);
    }

    #[test]
    fn a_missing_source_is_made_for_v_and_refused_for_mount() {
        let (dir, store, image) = setting();
        let missing = dir.path().join("missing");
        let text = missing.to_str().unwrap();
        let long = [parse_mount(&format!("type=bind,src={text},dst=/m")).unwrap()];
        let error = resolve(&long, &[], &store, &store, &image).unwrap_err();
        assert!(matches!(error, VolumeError::NoSource(_)));
        let short = [parse_volume(&format!("{text}:/m")).unwrap()];
        resolve(&short, &[], &store, &store, &image).unwrap();
        assert!(missing.is_dir());
    }

    #[test]
    fn two_mounts_at_one_place_are_refused() {
        let (_dir, store, image) = setting();
        let options = [parse_tmpfs("/a").unwrap(), parse_volume("x:/a").unwrap()];
        let error = resolve(&options, &[], &store, &store, &image).unwrap_err();
        assert!(matches!(error, VolumeError::Twice(_)));
    }
}
