//! Roots whose layers are EROFS images that the host has mounted: of containerd's `erofs` snapshotter.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use nix::sys::statfs::FsType;

use super::SharedFile;
use crate::error::SandboxError;
use crate::mount::layers::Layers;
use crate::mount::origin;
use crate::root_image::{RootImageError, cannot, file_system};

/// `EROFS_SUPER_MAGIC_V1` of `linux/magic.h`.
const EROFS: FsType = FsType(0xe0f5_e1e2);

/// The images that `layers` are, the uppermost first. Nothing when none of them is.
///
/// # Errors
/// [`RootImageError::Unsupported`] when only some are images, when the file of one is not known, and when there is something
/// in the layer that is written to.
pub(super) fn images(layers: &Layers) -> Result<Option<Vec<SharedFile>>, SandboxError> {
    let failed = SandboxError::host("look for the images of a root's layers");
    // Where the engine has mounted them.
    let images = origin::there(|| Ok(of(layers))).map_err(failed)?;
    Ok(images?)
}

fn of(layers: &Layers) -> Result<Option<Vec<SharedFile>>, RootImageError> {
    let is_image = |dir: &PathBuf| Ok(file_system(dir)? == EROFS);
    let are_images: Vec<_> = layers
        .lower
        .iter()
        .map(is_image)
        .collect::<Result<_, RootImageError>>()?;
    if !are_images.contains(&true) {
        return Ok(None);
    }
    let is_written = |dir: &PathBuf| {
        let mut entries = fs::read_dir(dir).map_err(cannot("read", dir))?;
        Ok(entries.next().is_some())
    };
    let written: Vec<_> = layers
        .upper
        .iter()
        .map(is_written)
        .collect::<Result<_, RootImageError>>()?;
    if are_images.contains(&false) || written.contains(&true) {
        return Err(RootImageError::Unsupported);
    }
    const MOUNTS: &str = "/proc/thread-self/mountinfo";
    let mounts = fs::read_to_string(MOUNTS).map_err(cannot("read", Path::new(MOUNTS)))?;
    let open = |dir: &PathBuf| {
        let dir = dir.canonicalize().map_err(cannot("find", dir))?;
        let file = file_behind(&mounts, &dir).ok_or(RootImageError::Unsupported)?;
        File::open(&file)
            .and_then(|image| SharedFile::new(image, None, false))
            .map_err(cannot("open", &file))
    };
    layers
        .lower
        .iter()
        .map(open)
        .collect::<Result<_, _>>()
        .map(Some)
}

/// The file that the file system on a mount point is in, as `mounts` (proc_pid_mountinfo(5)) say.
fn file_behind(mounts: &str, mount_point: &Path) -> Option<PathBuf> {
    let source = mounts.lines().rev().find_map(|line| {
        let (of_mount, of_file_system) = line.split_once(" - ")?;
        let mut of_mount = of_mount.split(' ').skip(3);
        let is_whole = of_mount.next()? == "/";
        let is_here = unescaped(of_mount.next()?) == mount_point.as_os_str();
        (is_whole && is_here).then(|| of_file_system.split(' ').nth(1).map(unescaped))?
    })?;
    let source = PathBuf::from(source);
    let Ok(device) = source.strip_prefix("/dev") else {
        return source.is_absolute().then_some(source);
    };
    let backing = Path::new("/sys/block")
        .join(device)
        .join("loop/backing_file");
    let file = fs::read(backing).ok()?;
    let file = file.strip_suffix(b"\n").unwrap_or(&file);
    Some(PathBuf::from(OsStr::from_bytes(file)))
}

/// The kernel writes spaces and the like as a backslash and three octal digits.
fn unescaped(field: &str) -> OsString {
    let mut bytes = Vec::new();
    let mut rest = field.as_bytes();
    while let [first, others @ ..] = rest {
        let octal = others.get(..3).filter(|_| *first == b'\\');
        let byte = octal
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        bytes.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &others[3..] } else { others };
    }
    OsString::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_of_the_uppermost_mount_is_found() {
        let mounts = "31 1 0:27 / /layers/1 ro shared:1 - erofs /old.erofs ro\n\
                      32 31 0:28 / /layers/1 ro - erofs /a\\040b/layer.erofs ro,user_xattr\n\
                      33 1 0:29 /part /layers/2 ro - erofs /c.erofs ro\n\
                      34 1 0:30 / /layers/3 rw - tmpfs tmpfs rw\n";
        let behind = |dir: &str| file_behind(mounts, Path::new(dir));
        assert_eq!(behind("/layers/1"), Some("/a b/layer.erofs".into()));
        for other in ["/layers", "/layers/2", "/layers/3", "/layers/4"] {
            assert_eq!(behind(other), None, "{other}");
        }
    }
}
