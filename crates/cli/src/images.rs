//! From a person's words for an image to what a container needs of it.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::sync::Arc;

use hull_image::{Image, ImageError, Name, Platform, PullOptions, Reference, Store, StoreOptions};
use hull_sandbox::mount::{MountSpec, overlay};
use oci_spec::image::Config;

use crate::arguments::PullPolicy;
use crate::container::{ContainerDir, ContainerStore, StoreError, create_dir, entries};
use crate::locations::Locations;
use crate::progress::Bars;

/// Opens the image store.
pub(crate) fn open(
    locations: &Locations,
    platform: Option<&Platform>,
) -> Result<Store, ImageError> {
    let mut options = StoreOptions::default();
    if let Some(platform) = platform {
        options.platform = platform.clone();
    }
    Store::open(&locations.data, options)
}

/// Finds an image, and fetches it when the policy says so. Images in places on this host are looked
/// at again each time: nothing tells when they have changed, and what the store has is not unpacked
/// twice.
pub(crate) async fn obtain(
    store: &Store,
    text: &str,
    policy: PullPolicy,
    quiet: bool,
) -> Result<Image, FetchError> {
    let reference = match text.parse::<Reference>() {
        Ok(reference) => reference,
        // The beginning of an id is no reference.
        Err(error) => return store.get(text).map_err(|_| ImageError::from(error).into()),
    };
    match (&reference, policy) {
        (Reference::Rootfs { .. }, _) | (_, PullPolicy::Never) => Ok(store.get(text)?),
        (Reference::Registry(_), PullPolicy::Missing) => match store.get(text) {
            Err(ImageError::NotFound(_) | ImageError::Damaged { .. }) => {
                fetch(store, &reference, quiet).await
            }
            found => Ok(found?),
        },
        (
            Reference::Registry(_)
            | Reference::OciLayout { .. }
            | Reference::OciArchive { .. }
            | Reference::DockerArchive { .. },
            PullPolicy::Missing | PullPolicy::Always,
        ) => fetch(store, &reference, quiet).await,
    }
}

/// Fetches an image from a registry, or takes it from a place on this host.
pub(crate) async fn fetch(
    store: &Store,
    reference: &Reference,
    quiet: bool,
) -> Result<Image, FetchError> {
    let bars = Bars::new(reference.to_string(), quiet);
    let (store, reference) = (store.clone(), reference.clone());
    let fetching = tokio::task::spawn_blocking(move || match &reference {
        Reference::Registry(name) => pull(&store, name, bars),
        Reference::Rootfs { .. }
        | Reference::OciLayout { .. }
        | Reference::OciArchive { .. }
        | Reference::DockerArchive { .. } => Ok(store.load(&reference, &bars)?),
    });
    fetching.await.expect("fetching does not panic")
}

/// A pull fetches and unpacks several layers at once, which needs more threads than the rest of this
/// program; they are started for pulls only.
fn pull(store: &Store, name: &Name, bars: Bars) -> Result<Image, FetchError> {
    let options = PullOptions::of_process()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(FetchError::Runtime)?;
    Ok(runtime.block_on(store.pull(name, &options, Arc::new(bars)))?)
}

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    #[error(transparent)]
    Image(#[from] ImageError),
    /// Threads for the pull.
    #[error("cannot start the threads of a pull")]
    Runtime(#[source] io::Error),
}

/// Gives back what containers held that are gone: one that was just removed, or whose process was
/// killed on the way.
pub(crate) fn release_orphans(
    locations: &Locations,
    containers: &ContainerStore,
) -> Result<(), ImageError> {
    let holds = locations.data.join("holds");
    let orphans = || -> Result<Vec<String>, StoreError> {
        let mut holders = entries(&holds)?;
        // Listed after the holds: a container is there before it holds anything.
        let ids = containers.ids()?;
        holders.retain(|holder| !ids.contains(holder));
        Ok(holders)
    };
    // Without the directory there are no holds.
    let orphans = orphans().unwrap_or_default();
    if orphans.is_empty() {
        return Ok(());
    }
    let store = open(locations, None)?;
    orphans.iter().try_for_each(|holder| store.release(holder))
}

/// What an image says of how it is run.
pub(crate) fn config(image: &Image) -> Option<&Config> {
    image.config.config().as_ref()
}

/// How a container's root is mounted: the image's layers with the container's own on top.
pub(crate) fn rootfs(image: &Image, dir: &ContainerDir) -> Result<MountSpec, StoreError> {
    let mut lower = image.layers.clone();
    if lower.is_empty() {
        // An overlay needs something to lie over.
        let empty = dir.data.join("empty");
        create_dir(&empty)?;
        lower.push(empty);
    }
    let mut options = vec![
        overlay::option("lowerdir", &lower),
        overlay::option("upperdir", &[dir.upper()]),
        overlay::option("workdir", &[dir.work()]),
    ];
    options.extend(image.overlay_xattr.mount_option().map(str::to_owned));
    Ok(MountSpec {
        kind: "overlay".to_owned(),
        source: "overlay".to_owned(),
        options,
    })
}

/// Gives the writable layer's root the owner and mode of the image's: in an overlay the uppermost root
/// is the one that is seen.
pub(crate) fn copy_root_attributes(image: &Image, upper: &Path) -> io::Result<()> {
    let Some(top) = image.layers.first() else {
        return fs::set_permissions(upper, Permissions::from_mode(0o755));
    };
    let metadata = fs::metadata(top)?;
    chown(upper, Some(metadata.uid()), Some(metadata.gid()))?;
    fs::set_permissions(upper, metadata.permissions())
}
