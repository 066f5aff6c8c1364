//! Overlays of any number of layers, in directories of any name.
//!
//! mount(2) takes a page of options, which the paths of some thirty layers fill; overlayfs takes 500
//! layers. So each directory is opened, and its name is the descriptor's number, seen from the directory
//! of this process's descriptors. Nothing in a path can then mean anything to the kernel, either.

use std::borrow::Cow;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::fcntl::{OFlag, open};
use nix::mount::MsFlags;
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::Mode;

use super::{origin, own_namespace, tree};
use crate::error::SandboxError;

const DESCRIPTORS: &str = "/proc/self/fd";

/// The option that gives an overlay directories: `lowerdir` any number, the uppermost first, `upperdir`
/// and `workdir` one. What would have a meaning in an option is quoted as overlayfs understands it.
#[must_use]
pub fn option<P: AsRef<Path>>(name: &str, directories: &[P]) -> String {
    let quoted: Vec<_> = directories.iter().map(|dir| quote(dir.as_ref())).collect();
    format!("{name}={}", quoted.join(":"))
}

fn quote(path: &Path) -> String {
    let mut quoted = String::new();
    for character in path.to_string_lossy().chars() {
        if matches!(character, '\\' | ':' | ',') {
            quoted.push('\\');
        }
        quoted.push(character);
    }
    quoted
}

/// Mounts an overlay. `options` are the file system's own.
pub(super) fn mount(target: &Path, flags: MsFlags, options: &[&str]) -> Result<(), SandboxError> {
    let cannot = || SandboxError::host(format!("mount an overlay on {}", target.display()));
    let target = std::path::absolute(target).map_err(cannot())?;
    let here = identities(options);
    if origin::there(|| Ok(identities(options))).map_err(cannot())? == here {
        return std::thread::scope(|scope| {
            let mounting = std::thread::Builder::new().spawn_scoped(scope, || {
                // Of this thread alone: the process stays where it is.
                unshare(CloneFlags::CLONE_FS).map_err(|errno| cannot()(errno.into()))?;
                mount_here(&target, flags, options)
            });
            let mounted = mounting.map_err(cannot())?.join();
            mounted.expect("mounting does not panic")
        });
    }
    // A layer is a mount that this namespace has not heard of. The kernel takes directories of the caller's
    // namespace only, so it is done in a copy of the engine's, which ends with the thread.
    let mounted = origin::there(|| {
        own_namespace()?;
        Ok(mount_here(&target, flags, options)
            .and_then(|()| tree::clone(&target, false).map_err(cannot())))
    });
    let tree = mounted.map_err(cannot())??;
    tree::attach(&tree, &target).map_err(cannot())
}

/// Mounts an overlay in this thread's namespace, and changes its working directory.
fn mount_here(target: &Path, flags: MsFlags, options: &[&str]) -> Result<(), SandboxError> {
    let mut opened = Vec::new();
    let data: Vec<_> = options
        .iter()
        .map(|option| by_descriptor(option, &mut opened))
        .collect::<Result<_, _>>()?;
    let data = data.join(",");
    let kind = Some("overlay");
    nix::unistd::chdir(DESCRIPTORS)
        .and_then(|()| nix::mount::mount(kind, target, kind, flags, Some(data.as_str())))
        .map_err(|errno| {
            let action = format!("mount an overlay on {}", target.display());
            SandboxError::host(action)(errno.into())
        })
}

/// What the directories of the options are in this thread's namespace: device and inode.
fn identities(options: &[&str]) -> Vec<Option<(u64, u64)>> {
    let directories = options.iter().filter_map(|option| directories(option));
    let metadata = directories
        .flat_map(|(_, paths)| paths)
        .map(std::fs::metadata);
    metadata
        .map(|metadata| metadata.ok().map(|found| (found.dev(), found.ino())))
        .collect()
}

/// Opens the directories that an option names, and names them by their descriptors in an option of the
/// same shape.
fn by_descriptor<'a>(
    option: &'a str,
    opened: &mut Vec<OwnedFd>,
) -> Result<Cow<'a, str>, SandboxError> {
    let Some((name, paths)) = directories(option) else {
        return Ok(option.into());
    };
    let mut descriptors = Vec::new();
    for path in paths {
        if path.is_empty() {
            // Two colons in a row are a separator too.
            descriptors.push(String::new());
            continue;
        }
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let directory = open(path.as_str(), flags, Mode::empty()).map_err(|errno| {
            SandboxError::host(format!("open {path}, the overlay's {name}"))(errno.into())
        })?;
        descriptors.push(directory.as_raw_fd().to_string());
        opened.push(directory);
    }
    Ok(format!("{name}={}", descriptors.join(":")).into())
}

/// The option's name, and the directories that it names.
pub(crate) fn directories(option: &str) -> Option<(&str, Vec<String>)> {
    match option.split_once('=')? {
        (name @ "lowerdir", list) => Some((name, paths(list, true))),
        (name @ ("upperdir" | "workdir"), path) => Some((name, paths(path, false))),
        _ => None,
    }
}

/// The paths in an option's value: a list with colons between, or one in which a colon has no meaning. A
/// backslash takes away the meaning of what follows.
fn paths(value: &str, is_list: bool) -> Vec<String> {
    let mut paths = vec![String::new()];
    let mut rest = value.chars();
    while let Some(next) = rest.next() {
        let path = paths.last_mut().expect("never empty");
        match next {
            '\\' => path.extend(rest.next()),
            ':' if is_list => paths.push(String::new()),
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
        assert_eq!(paths("/a", true), ["/a"]);
        assert_eq!(paths("/a:/b::/c", true), ["/a", "/b", "", "/c"]);
        assert_eq!(paths(r"/a\:b:/c\\d", true), ["/a:b", r"/c\d"]);
    }

    #[test]
    fn what_is_quoted_is_read_as_it_was() {
        let directories = [r"/a:b", r"/c,d\e", r"/f\:g\\", "/h i=j"];
        let list = option("lowerdir", &directories);
        let list = list.strip_prefix("lowerdir=").unwrap();
        assert_eq!(paths(list, true), directories);
        for directory in directories {
            assert_eq!(paths(&quote(Path::new(directory)), false), [directory]);
        }
        // As others write it, who do not quote what has no meaning there.
        assert_eq!(paths("/a:b,c", false), ["/a:b,c"]);
    }

    #[test]
    fn a_missing_directory_is_named() {
        for name in ["lowerdir", "upperdir", "workdir"] {
            let option = format!("{name}=/no/such/layer");
            let error = by_descriptor(&option, &mut Vec::new()).unwrap_err();
            let text = error.to_string();
            assert!(
                text.contains("/no/such/layer") && text.contains(name),
                "{text}"
            );
        }
    }
}
