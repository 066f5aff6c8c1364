//! Mounts on the host, in the pod process's own mount namespace.

pub(crate) mod layers;
pub mod origin;
pub mod overlay;
pub(crate) mod tree;

use std::path::Path;

use nix::mount::{MntFlags, MsFlags};
use nix::sched::{CloneFlags, unshare};

use hull_loop::{Access, LoopDevice};

use crate::error::SandboxError;

/// A mount as containerd's `types.Mount` and mount(8) say it.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct MountSpec {
    /// File system type; `bind` (or the option `bind` or `rbind`) is a bind mount.
    pub kind: String,
    /// What is mounted.
    pub source: String,
    /// Flags and file system data.
    pub options: Vec<String>,
}

#[derive(Debug, PartialEq, Eq)]
struct Parsed<'a> {
    flags: MsFlags,
    propagation: MsFlags,
    /// Whether a bind mount and all below it are read-only, where that is said.
    all_read_only: Option<bool>,
    /// The source is a file that holds the file system.
    in_file: bool,
    /// What is left for the file system.
    data: Vec<&'a str>,
}

impl MountSpec {
    /// A bind mount.
    #[must_use]
    pub fn bind(source: &str, read_only: bool) -> Self {
        let mut options = vec!["rbind".to_owned()];
        if read_only {
            options.push("ro".to_owned());
        }
        Self {
            kind: "bind".to_owned(),
            source: source.to_owned(),
            options,
        }
    }

    pub(crate) fn is_bind(&self) -> bool {
        self.kind == "bind"
            || self
                .options
                .iter()
                .any(|option| option == "bind" || option == "rbind")
    }

    pub(crate) fn is_read_only(&self) -> bool {
        self.parse().flags.contains(MsFlags::MS_RDONLY)
    }

    fn parse(&self) -> Parsed<'_> {
        let mut flags = MsFlags::empty();
        let mut propagation = MsFlags::empty();
        let mut all_read_only = None;
        let mut in_file = false;
        let mut data = Vec::new();
        for option in &self.options {
            match option.as_str() {
                "defaults" | "rw" => flags.remove(MsFlags::MS_RDONLY),
                "ro" => flags.insert(MsFlags::MS_RDONLY),
                "rro" => all_read_only = Some(true),
                "rrw" => all_read_only = Some(false),
                "nosuid" => flags.insert(MsFlags::MS_NOSUID),
                "suid" => flags.remove(MsFlags::MS_NOSUID),
                "nodev" => flags.insert(MsFlags::MS_NODEV),
                "dev" => flags.remove(MsFlags::MS_NODEV),
                "noexec" => flags.insert(MsFlags::MS_NOEXEC),
                "exec" => flags.remove(MsFlags::MS_NOEXEC),
                "noatime" => flags.insert(MsFlags::MS_NOATIME),
                "nodiratime" => flags.insert(MsFlags::MS_NODIRATIME),
                "relatime" => flags.insert(MsFlags::MS_RELATIME),
                "strictatime" => flags.insert(MsFlags::MS_STRICTATIME),
                "sync" => flags.insert(MsFlags::MS_SYNCHRONOUS),
                "dirsync" => flags.insert(MsFlags::MS_DIRSYNC),
                "bind" => flags.insert(MsFlags::MS_BIND),
                "rbind" => flags.insert(MsFlags::MS_BIND | MsFlags::MS_REC),
                "private" => propagation = MsFlags::MS_PRIVATE,
                "rprivate" => propagation = MsFlags::MS_PRIVATE | MsFlags::MS_REC,
                "slave" => propagation = MsFlags::MS_SLAVE,
                "rslave" => propagation = MsFlags::MS_SLAVE | MsFlags::MS_REC,
                "shared" => propagation = MsFlags::MS_SHARED,
                "rshared" => propagation = MsFlags::MS_SHARED | MsFlags::MS_REC,
                "loop" => in_file = true,
                other => data.push(other),
            }
        }
        if self.is_bind() {
            flags.insert(MsFlags::MS_BIND);
        }
        Parsed {
            flags,
            propagation,
            all_read_only,
            in_file,
            data,
        }
    }

    /// Mounts it on `target`, which exists.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn mount(&self, target: &Path) -> Result<(), SandboxError> {
        let cannot_io = || {
            let (source, kind) = (&self.source, &self.kind);
            SandboxError::host(format!("mount {source} ({kind}) on {}", target.display()))
        };
        let cannot = || |error: nix::Error| cannot_io()(error.into());
        let parsed = self.parse();
        let none = None::<&str>;
        if parsed.flags.contains(MsFlags::MS_BIND) {
            let recursive = parsed.flags.contains(MsFlags::MS_REC);
            let tree = origin::clone_tree(Path::new(&self.source), recursive);
            let tree = tree.map_err(cannot_io())?;
            // Before it is attached: the file server's copy of the mount hears of no change after that.
            tree::restrict(&tree, parsed.flags, parsed.all_read_only).map_err(cannot_io())?;
            tree::attach(&tree, target).map_err(cannot_io())?;
        } else if self.kind == "overlay" {
            overlay::mount(target, parsed.flags, &parsed.data)?;
        } else {
            let access = Access {
                read_only: parsed.flags.contains(MsFlags::MS_RDONLY),
                direct: false,
            };
            let device = parsed
                .in_file
                .then(|| LoopDevice::over(Path::new(&self.source), access))
                .transpose()
                .map_err(cannot_io())?;
            let source = device
                .as_ref()
                .map_or(Path::new(&self.source), LoopDevice::path);
            nix::mount::mount(
                Some(source),
                target,
                Some(self.kind.as_str()),
                parsed.flags,
                Some(parsed.data.join(",").as_str()),
            )
            .map_err(cannot())?;
        }
        if !parsed.propagation.is_empty() {
            nix::mount::mount(none, target, none, parsed.propagation, none).map_err(cannot())?;
        }
        Ok(())
    }
}

/// Gives this thread, which is not the process's first, a mount namespace of its own: a copy of the one that it is in.
/// Nobody hears of what is mounted there, and it ends with the thread and what it has started.
///
/// # Errors
/// When the kernel refuses.
pub fn own_namespace() -> std::io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let none = None::<&str>;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    Ok(nix::mount::mount(none, "/", none, private, none)?)
}

/// Takes a mount away, at once from the name space and for good when its last user is done.
pub(crate) fn unmount(target: &Path) -> Result<(), SandboxError> {
    nix::mount::umount2(target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)
        .map_err(|error| SandboxError::host(format!("unmount {}", target.display()))(error.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_become_flags_and_data() {
        let overlay = MountSpec {
            kind: "overlay".to_owned(),
            source: "overlay".to_owned(),
            options: ["ro", "nodev", "lowerdir=/a:/b", "userxattr"]
                .map(str::to_owned)
                .to_vec(),
        };
        let parsed = overlay.parse();
        assert_eq!(parsed.flags, MsFlags::MS_RDONLY | MsFlags::MS_NODEV);
        assert_eq!(parsed.data, ["lowerdir=/a:/b", "userxattr"]);
    }

    #[test]
    fn what_is_for_all_below_is_told_from_what_is_not() {
        let mut spec = MountSpec::bind("/a", false);
        assert_eq!(spec.parse().all_read_only, None);
        spec.options.push("rro".to_owned());
        let parsed = spec.parse();
        assert_eq!(parsed.all_read_only, Some(true));
        assert_eq!(parsed.flags, MsFlags::MS_BIND | MsFlags::MS_REC);
        assert!(parsed.data.is_empty());
        spec.options.push("rrw".to_owned());
        assert_eq!(spec.parse().all_read_only, Some(false));
    }

    #[test]
    fn a_later_option_overrides_an_earlier_one() {
        let mut spec = MountSpec::bind("/a", true);
        spec.options.push("rw".to_owned());
        assert_eq!(spec.parse().flags, MsFlags::MS_BIND | MsFlags::MS_REC);
    }
}
