//! `hull cp`.
//!
//! A container that does not run is looked at through its root, mounted where nobody else sees it. One
//! that runs is looked at where its pod process has mounted it, so that host and guest see the same
//! files. Volumes and bind mounts are found at their sources. What only the guest has (tmpfs and the
//! kernel's own file systems) cannot be copied.

use std::path::{Path, PathBuf};

use hull_sandbox::Roots;
use oci_spec::runtime::{Mount, Spec};

use super::{CommandError, Context};
use crate::arguments::CpArgs;
use crate::bundle::{self, BundleError};
use crate::container::{Container, ContainerLock, State, StoreError, read_json, settle};
use crate::files::{CopyOptions, RootView, copy_between};
use hull_shim::client::Pod;

/// One side of a copy, as it was asked for.
#[derive(Debug, PartialEq, Eq)]
enum Place<'a> {
    Host(&'a str),
    Container(&'a str, &'a str),
}

impl<'a> Place<'a> {
    /// What has a colon before any slash is in a container, unless it begins with a dot.
    fn parse(text: &'a str) -> Self {
        match text.split_once(':') {
            Some((container, path))
                if !container.is_empty() && !text.starts_with('.') && !container.contains('/') =>
            {
                Self::Container(container, path)
            }
            _ => Self::Host(text),
        }
    }
}

/// A root, and a path in it that ends as it was asked for: a slash or `/.` counts.
struct Side {
    root: RootView,
    path: PathBuf,
    /// A container that does not run must not be started meanwhile.
    _lock: Option<ContainerLock>,
}

/// `hull cp`.
pub(crate) async fn cp(context: &Context, args: &CpArgs) -> Result<u8, CommandError> {
    let (source, target) = match (Place::parse(&args.source), Place::parse(&args.target)) {
        (Place::Container(container, path), Place::Host(host)) => {
            (inside(context, container, path).await?, outside(host)?)
        }
        (Place::Host(host), Place::Container(container, path)) => {
            (outside(host)?, inside(context, container, path).await?)
        }
        (Place::Host(_), Place::Host(_)) => {
            return Err(CommandError::usage("neither path is CONTAINER:PATH"));
        }
        (Place::Container(..), Place::Container(..)) => {
            return Err(CommandError::usage(
                "not supported: copying from container to container",
            ));
        }
    };
    let options = CopyOptions {
        preserve: args.archive,
        follow: args.follow_link,
    };
    let copied = copy_between(
        (&source.root, &source.path),
        (&target.root, &target.path),
        options,
    );
    copied.map_err(CommandError::Copy)?;
    Ok(0)
}

fn outside(text: &str) -> Result<Side, CommandError> {
    if text == "-" {
        return Err(CommandError::usage(
            "not supported: archives on standard input and output",
        ));
    }
    // Not std::path::absolute, which drops the end that counts.
    let current =
        std::env::current_dir().map_err(|e| CommandError::System("find this directory", e))?;
    let root = RootView::of_directory(Path::new("/")).map_err(BundleError::from)?;
    Ok(Side {
        root,
        path: current.join(text),
        _lock: None,
    })
}

async fn inside(context: &Context, reference: &str, path: &str) -> Result<Side, CommandError> {
    let settled = settle(context.store.find(reference)?).await?;
    let container = settled.ok_or_else(|| StoreError::NotFound(reference.to_owned()))?;
    let path = Path::new("/").join(path);
    let running = matches!(container.state(), State::Running { .. });
    let lock = match running {
        true => None,
        false => Some(container.lock()?),
    };
    let spec: Option<Spec> = read_json(&container.dir.config())?;
    let mounts = spec
        .and_then(|spec| spec.mounts().clone())
        .unwrap_or_default();
    let (root, path) = match mount_of(&mounts, &path) {
        Some((mount, rest)) => in_mount(mount, rest)?,
        None if running && container.settings()?.pod.roots != Roots::Shared => {
            return Err(CommandError::usage(
                "not supported: copying to or from the root of a running container that has an image of it (root.kind)",
            ));
        }
        None if running => (running_root(&container).await?, path),
        None => {
            let rootfs = &container.settings()?.rootfs;
            (bundle::stopped_view(&container.dir, rootfs)?, path)
        }
    };
    Ok(Side {
        root,
        path,
        _lock: lock,
    })
}

/// The mount that a path of the container lies in, and the rest of the path. Of two at one place the
/// last counts, as it was mounted over the other (and `max_by_key` takes the last).
fn mount_of<'a>(mounts: &'a [Mount], path: &'a Path) -> Option<(&'a Mount, &'a Path)> {
    mounts
        .iter()
        .filter_map(|mount| Some((mount, path.strip_prefix(mount.destination()).ok()?)))
        .max_by_key(|(mount, _)| mount.destination().components().count())
}

fn in_mount(mount: &Mount, rest: &Path) -> Result<(RootView, PathBuf), CommandError> {
    let source = match (mount.typ().as_deref(), mount.source()) {
        (Some("bind"), Some(source)) => source,
        _ => {
            return Err(CommandError::Usage(format!(
                "not supported: copying to or from {}, which only the guest has",
                mount.destination().display()
            )));
        }
    };
    let file = source.file_name().filter(|_| !source.is_dir());
    let (dir, path) = match (file, source.parent()) {
        (Some(file), Some(parent)) => (parent, Path::new("/").join(file)),
        _ => (source.as_path(), Path::new("/").join(rest)),
    };
    let root = RootView::of_directory(dir).map_err(BundleError::from)?;
    Ok((root, path))
}

/// The root of a running container, in its pod process's mount namespace.
async fn running_root(container: &Container) -> Result<RootView, CommandError> {
    let pod = Pod::connect(&container.dir.state, container.dir.id()).await?;
    let pid = pod.pod_pid().await?;
    let state = container
        .dir
        .state
        .strip_prefix("/")
        .unwrap_or(&container.dir.state);
    let root = PathBuf::from(format!("/proc/{pid}/root"))
        .join(state)
        .join("shared")
        .join(container.dir.id())
        .join(hull_sandbox::spec::ROOTFS);
    Ok(RootView::of_directory(&root).map_err(BundleError::from)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_colon_before_any_slash_names_a_container() {
        assert_eq!(Place::parse("web:/etc"), Place::Container("web", "/etc"));
        assert_eq!(Place::parse("web:etc"), Place::Container("web", "etc"));
        for host in ["file", "/a:b", "./a:b", "a/b:c", ":x"] {
            assert_eq!(Place::parse(host), Place::Host(host));
        }
    }

    #[test]
    fn the_deepest_and_latest_mount_counts() {
        let mount = |at: &str, source: &str| {
            let mut mount = Mount::default();
            mount.set_destination(at.into());
            mount.set_source(Some(source.into()));
            mount
        };
        let mounts = [
            mount("/a", "1"),
            mount("/a/b", "2"),
            mount("/a/b", "3"),
            mount("/c", "4"),
        ];
        let found = |path: &str| {
            let (mount, rest) = mount_of(&mounts, Path::new(path))?;
            Some((mount.source().clone()?, rest.to_owned()))
        };
        assert_eq!(found("/a/b/x/y"), Some(("3".into(), "x/y".into())));
        assert_eq!(found("/a/bc"), Some(("1".into(), "bc".into())));
        assert_eq!(found("/d"), None);
    }
}
