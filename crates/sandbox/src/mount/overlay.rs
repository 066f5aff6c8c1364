//! Overlays of any number of layers.
//!
//! mount(2) takes a page of options, which the paths of some thirty layers fill; overlayfs takes 500
//! layers. So each layer's directory is opened, and its name is the descriptor's number, seen from the
//! directory of this process's descriptors.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use nix::fcntl::{OFlag, open};
use nix::mount::MsFlags;
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::Mode;

use crate::error::SandboxError;

const LAYERS: &str = "lowerdir=";
const DESCRIPTORS: &str = "/proc/self/fd";

/// Mounts an overlay. `options` are the file system's own.
pub(super) fn mount(target: &Path, flags: MsFlags, options: &[&str]) -> Result<(), SandboxError> {
    let cannot = || SandboxError::host(format!("mount an overlay on {}", target.display()));
    let absolute = std::path::absolute(target).map_err(cannot())?;
    let mut layers = Vec::new();
    let mut data = Vec::with_capacity(options.len());
    for option in options {
        data.push(match option.strip_prefix(LAYERS) {
            Some(paths) => format!("{LAYERS}{}", by_descriptor(paths, &mut layers)?),
            None => (*option).to_owned(),
        });
    }
    let data = data.join(",");
    let mount_here = || -> io::Result<()> {
        // Of this thread alone: the process stays where it is.
        unshare(CloneFlags::CLONE_FS)?;
        nix::unistd::chdir(DESCRIPTORS)?;
        let kind = Some("overlay");
        Ok(nix::mount::mount(
            kind,
            &absolute,
            kind,
            flags,
            Some(data.as_str()),
        )?)
    };
    std::thread::scope(|scope| {
        let mounted = std::thread::Builder::new().spawn_scoped(scope, mount_here)?;
        mounted.join().expect("mounting does not panic")
    })
    .map_err(cannot())
}

/// Opens the directories of a list as the option holds it, and names them in a list of the same shape.
fn by_descriptor(paths: &str, layers: &mut Vec<OwnedFd>) -> Result<String, SandboxError> {
    let mut names = Vec::new();
    for path in split(paths) {
        if path.is_empty() {
            // Two colons in a row are a separator too.
            names.push(String::new());
            continue;
        }
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let layer = open(path.as_str(), flags, Mode::empty())
            .map_err(|errno| SandboxError::host(format!("open the layer {path}"))(errno.into()))?;
        names.push(layer.as_raw_fd().to_string());
        layers.push(layer);
    }
    Ok(names.join(":"))
}

/// The paths of a list. A backslash takes a colon's meaning away, or a backslash's.
fn split(list: &str) -> Vec<String> {
    let mut paths = vec![String::new()];
    let mut rest = list.chars();
    while let Some(next) = rest.next() {
        let path = paths.last_mut().expect("never empty");
        match next {
            '\\' => path.extend(rest.next()),
            ':' => paths.push(String::new()),
            other => path.push(other),
        }
    }
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_split_as_overlayfs_does() {
        assert_eq!(split("/a"), ["/a"]);
        assert_eq!(split("/a:/b::/c"), ["/a", "/b", "", "/c"]);
        assert_eq!(split(r"/a\:b:/c\\d"), ["/a:b", r"/c\d"]);
    }

    #[test]
    fn a_missing_layer_is_named() {
        let error = by_descriptor("/:/no/such/layer", &mut Vec::new()).unwrap_err();
        assert!(error.to_string().contains("/no/such/layer"), "{error}");
    }
}
