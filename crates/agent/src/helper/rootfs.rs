//! A container's root: from a directory of the guest to "/".

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::unistd::{fchdir, pivot_root};

use super::error::{Context, SetupError};
use super::mounts::Prepared;
use super::options;
use crate::spec::Linux;
use crate::sys::mount::{Attributes, attach, clone_tree, clone_tree_at, set_attributes};

/// Where each container mounts its root, in its own mount namespace, before it becomes "/".
pub(crate) const ASSEMBLY_POINT: &str = "/run/hull/root";

/// A root that is not attached yet, opened with the agent's rights.
pub(super) fn open(path: &Path) -> Result<OwnedFd, SetupError> {
    clone_tree(path, true).at("open the container's root", path)
}

/// The propagation that `rootfsPropagation` asks for, slave when it says nothing.
pub(super) fn propagation(linux: &Linux) -> Result<MsFlags, SetupError> {
    if linux.rootfs_propagation.is_empty() {
        return Ok(MsFlags::MS_SLAVE | MsFlags::MS_REC);
    }
    options::propagation(&linux.rootfs_propagation).ok_or_else(|| SetupError::Invalid {
        field: "linux.rootfsPropagation",
        value: linux.rootfs_propagation.clone(),
    })
}

/// Attaches the root at [`ASSEMBLY_POINT`] of this (new) mount namespace.
pub(super) fn assemble(tree: &OwnedFd, root_propagation: MsFlags) -> Result<OwnedFd, SetupError> {
    // A shared root is asked for by name; by default nothing mounted in here shows outside.
    if !root_propagation.contains(MsFlags::MS_SHARED) {
        change_propagation(Path::new("/"), root_propagation | MsFlags::MS_REC)?;
    }
    let point = Path::new(ASSEMBLY_POINT);
    // pivot_root wants neither the new root nor what it is mounted on to be shared.
    let parent = Path::new("/run");
    change_propagation(parent, MsFlags::MS_PRIVATE)?;
    // One that is shared in the end is so with nobody in the guest.
    let from_guest = match root_propagation.contains(MsFlags::MS_SLAVE) {
        true => MsFlags::MS_SLAVE,
        false => MsFlags::MS_PRIVATE,
    };
    let isolated = Attributes {
        propagation: from_guest.bits(),
        ..Attributes::default()
    };
    set_attributes(tree.as_fd(), isolated, true).at("isolate the container's root", point)?;
    let target: OwnedFd = fs::File::open(point)
        .at("open the mount point", point)?
        .into();
    attach(tree.as_fd(), target.as_fd()).at("attach the container's root to", point)?;
    Ok(fs::File::open(point)
        .at("open the container's root", point)?
        .into())
}

fn change_propagation(path: &Path, flags: MsFlags) -> Result<(), SetupError> {
    mount(None::<&str>, path, None::<&str>, flags, None::<&str>)
        .at("change the mount propagation of", path)
}

/// Makes the assembled root this process's "/" and lets go of the old one.
pub(super) fn enter(root: &OwnedFd) -> Result<(), SetupError> {
    let slash = Path::new("/");
    let old_root = fs::File::open(slash).at("open", slash)?;
    fchdir(root).when("enter the container's root")?;
    // With both arguments the same directory the old root ends up on top of the new one.
    pivot_root(".", ".").when("make the container's root the root")?;
    fchdir(&old_root).when("go back to the old root")?;
    // Unmounting must not spread to the guest's own mounts.
    change_propagation(Path::new("."), MsFlags::MS_SLAVE | MsFlags::MS_REC)?;
    umount2(".", MntFlags::MNT_DETACH).when("detach the old root")?;
    nix::unistd::chdir("/").when("enter the container's root")
}

/// The last steps on the file system, once everything is in place.
pub(super) fn finish(
    linux: &Linux,
    root_propagation: MsFlags,
    read_only: bool,
    mounts: &[Prepared],
) -> Result<(), SetupError> {
    if root_propagation.intersects(MsFlags::MS_SHARED | MsFlags::MS_UNBINDABLE) {
        change_propagation(Path::new("/"), root_propagation)?;
    }
    for prepared in mounts {
        let delayed = prepared.mount.kind == "tmpfs" && prepared.options.bind.is_none();
        if delayed && prepared.options.is_read_only() {
            make_read_only(&prepared.mount.destination, false)?;
        }
    }
    if read_only {
        make_read_only(Path::new("/"), false)?;
    }
    for path in &linux.readonly_paths {
        protect(path)?;
    }
    let mut masks = Masks::default();
    for (index, path) in linux.masked_paths.iter().enumerate() {
        if !linux.masked_paths[..index].contains(path) {
            masks.hide(path)?;
        }
    }
    Ok(())
}

fn make_read_only(path: &Path, recursive: bool) -> Result<(), SetupError> {
    let directory = open_path(path).at("open", path)?;
    let attributes = Attributes {
        set: libc::MOUNT_ATTR_RDONLY,
        ..Attributes::default()
    };
    set_attributes(directory.as_fd(), attributes, recursive).at("make read-only", path)
}

fn open_path(path: &Path) -> nix::Result<OwnedFd> {
    nix::fcntl::open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
}

/// Makes a path of the container read-only; one that is not there needs nothing.
fn protect(path: &Path) -> Result<(), SetupError> {
    let tree = match clone_tree(path, true) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.at("open the read-only path", path)?,
    };
    let attributes = Attributes {
        set: libc::MOUNT_ATTR_RDONLY,
        ..Attributes::default()
    };
    set_attributes(tree.as_fd(), attributes, true).at("make read-only", path)?;
    let target = open_path(path).at("open the read-only path", path)?;
    attach(tree.as_fd(), target.as_fd()).at("make read-only", path)
}

/// What hides paths of the container.
#[derive(Debug, Default)]
struct Masks {
    /// The file system over all masked directories, once there is one.
    empty: Option<OwnedFd>,
}

impl Masks {
    /// Hides a path; one that is not there needs nothing.
    fn hide(&mut self, path: &Path) -> Result<(), SetupError> {
        let target = match open_path(path) {
            Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(()),
            other => other.at("open the masked path", path)?,
        };
        let mode = fstat(&target).at("look at the masked path", path)?.st_mode;
        if SFlag::from_bits_truncate(mode) & SFlag::S_IFMT != SFlag::S_IFDIR {
            return hide_file(path, &target);
        }
        if let Some(empty) = &self.empty {
            let tree = clone_tree_at(empty.as_fd()).at("mask", path)?;
            return attach(tree.as_fd(), target.as_fd()).at("mask", path);
        }
        mount(
            Some("tmpfs"),
            path,
            Some("tmpfs"),
            MsFlags::MS_RDONLY,
            Some("nr_blocks=1,nr_inodes=1"),
        )
        .at("mask", path)?;
        self.empty = Some(open_path(path).at("open the masked path", path)?);
        Ok(())
    }
}

fn hide_file(path: &Path, target: &OwnedFd) -> Result<(), SetupError> {
    let null = Path::new("/dev/null");
    let is_null = fs::metadata(null)
        .is_ok_and(|m| m.file_type().is_char_device() && m.rdev() == libc::makedev(1, 3));
    if !is_null {
        return Err(SetupError::Path {
            action: "mask",
            path: path.to_owned(),
            source: io::Error::other("the container's /dev/null is not the null device"),
        });
    }
    let tree = clone_tree(null, false).at("open", null)?;
    attach(tree.as_fd(), target.as_fd()).at("mask", path)
}

/// Copies what `from` holds into `to`, with owners and modes.
pub(super) fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    let mut pending: Vec<(PathBuf, PathBuf)> = vec![(from.to_owned(), to.to_owned())];
    while let Some((from, to)) = pending.pop() {
        for entry in fs::read_dir(&from)? {
            let entry = entry?;
            let source = entry.path();
            let target = to.join(entry.file_name());
            let metadata = entry.metadata()?;
            let kind = metadata.file_type();
            if kind.is_symlink() {
                symlink(fs::read_link(&source)?, &target)?;
                lchown(&target, Some(metadata.uid()), Some(metadata.gid()))?;
                continue;
            }
            if kind.is_dir() {
                fs::create_dir(&target)?;
                pending.push((source, target.clone()));
            } else if kind.is_file() {
                fs::copy(&source, &target)?;
            } else {
                // Devices, sockets and pipes are not content.
                continue;
            }
            chown(&target, Some(metadata.uid()), Some(metadata.gid()))?;
            fs::set_permissions(
                &target,
                fs::Permissions::from_mode(metadata.mode() & 0o7777),
            )?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_copied_with_its_links_and_modes() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir_all(from.join("sub")).unwrap();
        fs::create_dir(&to).unwrap();
        fs::write(from.join("sub/file"), "text").unwrap();
        fs::set_permissions(from.join("sub/file"), fs::Permissions::from_mode(0o640)).unwrap();
        symlink("sub/file", from.join("link")).unwrap();
        copy_tree(&from, &to).unwrap();
        assert_eq!(fs::read_to_string(to.join("link")).unwrap(), "text");
        let mode = fs::metadata(to.join("sub/file")).unwrap().mode();
        assert_eq!(mode & 0o7777, 0o640);
    }

    #[test]
    fn rootfs_propagation_has_a_default_and_is_checked() {
        let mut linux = Linux::default();
        assert_eq!(
            propagation(&linux).unwrap(),
            MsFlags::MS_SLAVE | MsFlags::MS_REC
        );
        linux.rootfs_propagation = "sideways".to_owned();
        assert!(matches!(
            propagation(&linux),
            Err(SetupError::Invalid { .. })
        ));
    }
}
