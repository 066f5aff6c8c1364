//! A container's mounts.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::mount::MsFlags;
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::unistd::fchownat;

use super::error::{Context, SetupError};
use super::options::{Bind, Flags, IdMap, MountOptions, parse};
use super::{namespaces, rootfs};
use crate::spec::{IdMapping, Linux, Mount, NamespaceKind};
use crate::sys::mount::{Attributes, attach, clone_tree, fd_path, map_ids, set_attributes};
use crate::sys::path::{
    Missing, ensure_in_root, is_without_links, normal_components, open_in_root,
};

/// A mount of the specification, ready to be attached in the container's mount namespace.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) mount: Mount,
    pub(super) options: MountOptions,
    /// What a bind mount attaches. Opened outside the container, whose root user may have no right
    /// to go to the source.
    tree: Option<OwnedFd>,
}

/// Opens what the mounts bind.
pub(super) fn prepare(mounts: Vec<Mount>, linux: &Linux) -> Result<Vec<Prepared>, SetupError> {
    mounts
        .into_iter()
        .map(|mount| {
            let options = parse(&mount.options);
            let remount = options.flags.0.contains(MsFlags::MS_REMOUNT);
            let tree = match options.bind {
                Some(bind) if !remount => Some(open_source(&mount, &options, bind, linux)?),
                _ => None,
            };
            Ok(Prepared {
                mount,
                options,
                tree,
            })
        })
        .collect()
}

fn open_source(
    mount: &Mount,
    options: &MountOptions,
    bind: Bind,
    linux: &Linux,
) -> Result<OwnedFd, SetupError> {
    let source = Path::new(&mount.source);
    let tree = clone_tree(source, bind == Bind::Recursive).at("open the mount source", source)?;
    let id_map = match options.id_map {
        None if mount.uid_mappings.is_empty() => return Ok(tree),
        None => IdMap::Single,
        Some(id_map) => id_map,
    };
    let (uids, gids): (&[IdMapping], &[IdMapping]) = if mount.uid_mappings.is_empty() {
        (&linux.uid_mappings, &linux.gid_mappings)
    } else {
        (&mount.uid_mappings, &mount.gid_mappings)
    };
    let namespace = namespaces::id_mapping_namespace(uids, gids)?;
    map_ids(tree.as_fd(), namespace.as_fd(), id_map == IdMap::Recursive)
        .at("map the ids of the mount source", source)?;
    Ok(tree)
}

/// Makes in `root` the first part of mount points that are missing, for the root user of a user namespace. To the file
/// server on the host that one is an ordinary user, whom a root directory stops that is not writable.
pub(super) fn make_room(
    root: BorrowedFd<'_>,
    mounts: &[Prepared],
    linux: &Linux,
) -> Result<(), SetupError> {
    let outside = |mappings| namespaces::outside(0, mappings);
    let owner = (outside(&linux.uid_mappings), outside(&linux.gid_mappings));
    let (true, (Some(uid), Some(gid))) = (linux.creates(NamespaceKind::User), owner) else {
        return Ok(());
    };
    for prepared in mounts {
        let names = normal_components(&prepared.mount.destination);
        let Some(first) = names.first().map(|name| Path::new("/").join(name)) else {
            continue;
        };
        let found = open_in_root(
            root,
            &first,
            OFlag::O_PATH | OFlag::O_NOFOLLOW,
            Mode::empty(),
        );
        if !found.is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
            continue;
        }
        let missing = match (&prepared.tree, names.len()) {
            (Some(tree), 1) => missing(tree).at("look at the source for", &first)?,
            _ => Missing::Directory,
        };
        let made = ensure_in_root(root, &first, missing).at("make the mount point", &first)?;
        let (uid, gid) = (Some(uid.into()), Some(gid.into()));
        fchownat(made.as_fd(), "", uid, gid, AtFlags::AT_EMPTY_PATH)
            .at("give away the mount point", &first)?;
    }
    Ok(())
}

/// What stands for a source where there is nothing to mount it on.
fn missing(tree: &OwnedFd) -> std::io::Result<Missing> {
    let kind = SFlag::from_bits_truncate(fstat(tree)?.st_mode) & SFlag::S_IFMT;
    Ok(match kind {
        SFlag::S_IFDIR => Missing::Directory,
        _ => Missing::File,
    })
}

/// What mounts need to know of their container.
#[derive(Debug, Clone, Copy)]
pub(super) struct Setting<'a> {
    pub(super) root: BorrowedFd<'a>,
    pub(super) linux: &'a Linux,
    /// The container's cgroup, as seen outside.
    pub(super) cgroup: &'a Path,
    /// For bind mounts that ask for none; `None` keeps the source's.
    pub(super) default_propagation: Option<MsFlags>,
}

/// Attaches a mount inside the container's root.
pub(super) fn mount(prepared: &Prepared, setting: Setting<'_>) -> Result<(), SetupError> {
    let Prepared {
        mount,
        options,
        tree,
    } = prepared;
    if mount.options.iter().any(|o| o.starts_with("context=")) {
        log::debug!("no SELinux in this guest: label ignored");
    }
    let failed = |source: std::io::Error| SetupError::Mount {
        kind: if tree.is_some() {
            "bind".to_owned()
        } else {
            mount.kind.clone()
        },
        source_name: mount.source.clone(),
        destination: mount.destination.clone(),
        source,
    };
    if let Some(tree) = tree {
        return bind(tree, mount, options, setting).map_err(failed);
    }
    // Were it elsewhere, the paths of it that are masked and read-only would not be those that are in use.
    if matches!(mount.kind.as_str(), "proc" | "sysfs")
        && !is_without_links(setting.root, &mount.destination).map_err(failed)?
    {
        let why = "it must be mounted on ordinary directory, and this is a symbolic link";
        return Err(failed(std::io::Error::other(why)));
    }
    let covers = open_in_root(
        setting.root,
        &mount.destination,
        OFlag::O_PATH,
        Mode::empty(),
    );
    let target =
        ensure_in_root(setting.root, &mount.destination, Missing::Directory).map_err(failed)?;
    if options.flags.0.contains(MsFlags::MS_REMOUNT) {
        return remount(&target, options).map_err(failed);
    }
    match mount.kind.as_str() {
        "tmpfs" => tmpfs(&target, covers.is_ok(), mount, options, setting).map_err(failed)?,
        "cgroup" | "cgroup2" => cgroup(&target, options, setting).map_err(failed)?,
        "sysfs" => match new_filesystem(&target, mount, options) {
            // Only the owner of the network namespace may mount it.
            Err(Errno::EPERM) => {
                let tree = clone_tree(Path::new("/sys"), true).map_err(failed)?;
                bind(&tree, mount, options, setting).map_err(failed)?;
            }
            other => other.map_err(|errno| failed(errno.into()))?,
        },
        _ => new_filesystem(&target, mount, options).map_err(|errno| failed(errno.into()))?,
    }
    propagate(mount, options, setting).map_err(failed)
}

fn bind(
    tree: &OwnedFd,
    mount: &Mount,
    options: &MountOptions,
    setting: Setting<'_>,
) -> std::io::Result<()> {
    let target = ensure_in_root(setting.root, &mount.destination, missing(tree)?)?;
    if options.attributes != Attributes::default() {
        set_attributes(tree.as_fd(), options.attributes, false)?;
    }
    if options.recursive_attributes != Attributes::default() {
        set_attributes(tree.as_fd(), options.recursive_attributes, true)?;
    }
    let default = setting.default_propagation.map(Flags);
    let asked = options.propagation.iter().copied();
    for Flags(flags) in default.into_iter().chain(asked) {
        let propagation = Attributes {
            propagation: (flags & !MsFlags::MS_REC).bits(),
            ..Attributes::default()
        };
        set_attributes(tree.as_fd(), propagation, flags.contains(MsFlags::MS_REC))?;
    }
    attach(tree.as_fd(), target.as_fd())
}

fn remount(target: &OwnedFd, options: &MountOptions) -> std::io::Result<()> {
    let bind = if options.bind.is_some() {
        MsFlags::MS_BIND
    } else {
        MsFlags::empty()
    };
    nix::mount::mount(
        None::<&str>,
        &fd_path(target),
        None::<&str>,
        options.flags.0 | bind,
        Some(options.data().as_str()),
    )?;
    Ok(())
}

fn new_filesystem(target: &OwnedFd, mount: &Mount, options: &MountOptions) -> nix::Result<()> {
    let source = if mount.source.is_empty() {
        mount.kind.as_str()
    } else {
        mount.source.as_str()
    };
    nix::mount::mount(
        Some(source),
        &fd_path(target),
        Some(mount.kind.as_str()),
        options.flags.0,
        Some(options.data().as_str()),
    )
}

/// `covers`: the target was there before, and gives the mode.
fn tmpfs(
    target: &OwnedFd,
    covers: bool,
    mount: &Mount,
    options: &MountOptions,
    setting: Setting<'_>,
) -> std::io::Result<()> {
    let mut options = options.clone();
    // Devices and copied files go in first; `rootfs::finish` makes it read-only.
    options.flags.0.remove(MsFlags::MS_RDONLY);
    if covers && !options.data.iter().any(|item| item.starts_with("mode=")) {
        let mode = fstat(target)?.st_mode & 0o7777;
        options.data.push(format!("mode={mode:04o}"));
    }
    let covered = if options.copy_up {
        Some(open_in_root(
            setting.root,
            &mount.destination,
            OFlag::O_RDONLY | OFlag::O_DIRECTORY,
            Mode::empty(),
        )?)
    } else {
        None
    };
    new_filesystem(target, mount, &options)?;
    if let Some(covered) = covered {
        let mounted = open_in_root(
            setting.root,
            &mount.destination,
            OFlag::O_PATH | OFlag::O_DIRECTORY,
            Mode::empty(),
        )?;
        rootfs::copy_tree(&fd_path(&covered), &fd_path(&mounted))?;
    }
    Ok(())
}

fn cgroup(target: &OwnedFd, options: &MountOptions, setting: Setting<'_>) -> std::io::Result<()> {
    let mounted = nix::mount::mount(
        Some("cgroup"),
        &fd_path(target),
        Some("cgroup2"),
        options.flags.0,
        None::<&str>,
    );
    match mounted {
        // A user namespace that does not own the cgroup namespace.
        Err(Errno::EPERM | Errno::EBUSY) => {
            let source = if setting.linux.namespace(NamespaceKind::Cgroup).is_some() {
                setting.cgroup
            } else {
                Path::new(crate::cgroup::MOUNT_POINT)
            };
            let tree = clone_tree(source, true)?;
            set_attributes(tree.as_fd(), options.attributes, true)?;
            attach(tree.as_fd(), target.as_fd())
        }
        other => Ok(other?),
    }
}

fn propagate(mount: &Mount, options: &MountOptions, setting: Setting<'_>) -> std::io::Result<()> {
    if options.propagation.is_empty() && options.recursive_attributes == Attributes::default() {
        return Ok(());
    }
    let mounted = open_in_root(
        setting.root,
        &mount.destination,
        OFlag::O_PATH,
        Mode::empty(),
    )?;
    if options.recursive_attributes != Attributes::default() {
        set_attributes(mounted.as_fd(), options.recursive_attributes, true)?;
    }
    for Flags(flags) in &options.propagation {
        nix::mount::mount(
            None::<&str>,
            &fd_path(&mounted),
            None::<&str>,
            *flags,
            None::<&str>,
        )?;
    }
    Ok(())
}
