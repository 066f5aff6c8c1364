//! Mount options as mount(8) and the OCI specification name them.

use crate::sys::mount::Attributes;
use nix::mount::MsFlags;

/// A mount's options, sorted by how they are applied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct MountOptions {
    /// For a new file system.
    pub(crate) flags: Flags,
    /// The same options for a bind mount, which keeps what its source has otherwise.
    pub(crate) attributes: Attributes,
    /// Those that hold for all mounts below as well.
    pub(crate) recursive_attributes: Attributes,
    pub(crate) bind: Option<Bind>,
    /// MS_* with or without MS_REC, in the order given.
    pub(crate) propagation: Vec<Flags>,
    pub(crate) id_map: Option<IdMap>,
    /// A tmpfs starts with what its mount point held.
    pub(crate) copy_up: bool,
    /// What the file system itself interprets.
    pub(crate) data: Vec<String>,
}

/// MS_* bits. `MsFlags` itself has no default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Flags(pub(crate) MsFlags);

impl Default for Flags {
    fn default() -> Self {
        Self(MsFlags::empty())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bind {
    Single,
    Recursive,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IdMap {
    Single,
    Recursive,
}

impl MountOptions {
    pub(crate) fn is_read_only(&self) -> bool {
        self.flags.0.contains(MsFlags::MS_RDONLY)
    }

    pub(crate) fn data(&self) -> String {
        self.data.join(",")
    }
}

const ATIME: u64 = libc::MOUNT_ATTR__ATIME;
const MS_NOSYMFOLLOW: MsFlags = MsFlags::from_bits_retain(256);
const MS_LAZYTIME: MsFlags = MsFlags::from_bits_retain(1 << 25);

/// Sorts options. What is no known flag is for the file system.
pub(crate) fn parse(options: &[String]) -> MountOptions {
    let mut parsed = MountOptions::default();
    for option in options {
        match option.as_str() {
            "" | "defaults" => {}
            "bind" => parsed.bind = Some(Bind::Single),
            "rbind" => parsed.bind = Some(Bind::Recursive),
            "tmpcopyup" => parsed.copy_up = true,
            "idmap" => parsed.id_map = Some(IdMap::Single),
            "ridmap" => parsed.id_map = Some(IdMap::Recursive),
            name => {
                if let Some(flags) = propagation(name) {
                    parsed.propagation.push(Flags(flags));
                } else if let Some(change) = flag(name) {
                    change.apply(&mut parsed.flags.0, &mut parsed.attributes);
                } else if let Some(change) = name.strip_prefix('r').and_then(attribute) {
                    change.apply_attributes(&mut parsed.recursive_attributes);
                } else {
                    parsed.data.push(option.clone());
                }
            }
        }
    }
    parsed
}

/// The propagation that a word names, for options and for `rootfsPropagation`.
pub(crate) fn propagation(name: &str) -> Option<MsFlags> {
    let (name, recursive) = match name {
        "rprivate" | "rshared" | "rslave" | "runbindable" => (&name[1..], MsFlags::MS_REC),
        _ => (name, MsFlags::empty()),
    };
    let flag = match name {
        "private" => MsFlags::MS_PRIVATE,
        "shared" => MsFlags::MS_SHARED,
        "slave" => MsFlags::MS_SLAVE,
        "unbindable" => MsFlags::MS_UNBINDABLE,
        _ => return None,
    };
    Some(flag | recursive)
}

/// What one option does to a new file system's flags and to a bind mount's attributes.
#[derive(Debug, Clone, Copy)]
struct Change {
    on: bool,
    flag: MsFlags,
    /// 0 where the flag belongs to the file system as a whole.
    attribute: u64,
}

impl Change {
    fn apply(self, flags: &mut MsFlags, attributes: &mut Attributes) {
        flags.set(self.flag, self.on);
        self.apply_attributes(attributes);
    }

    fn apply_attributes(self, attributes: &mut Attributes) {
        let is_atime = self.attribute & ATIME != 0 || self.flag == MsFlags::MS_RELATIME;
        if is_atime {
            // The three access time modes are one field: setting one means clearing it first.
            attributes.clear |= ATIME;
            attributes.set &= !ATIME;
        }
        if self.on {
            attributes.set |= self.attribute;
            if !is_atime {
                attributes.clear &= !self.attribute;
            }
        } else {
            attributes.set &= !self.attribute;
            if !is_atime {
                attributes.clear |= self.attribute;
            }
        }
    }
}

/// Options that a bind mount can have, and so those with a recursive form ("r…").
fn attribute(name: &str) -> Option<Change> {
    let (on, flag, attribute) = match name {
        "ro" => (true, MsFlags::MS_RDONLY, libc::MOUNT_ATTR_RDONLY),
        "rw" => (false, MsFlags::MS_RDONLY, libc::MOUNT_ATTR_RDONLY),
        "nosuid" => (true, MsFlags::MS_NOSUID, libc::MOUNT_ATTR_NOSUID),
        "suid" => (false, MsFlags::MS_NOSUID, libc::MOUNT_ATTR_NOSUID),
        "nodev" => (true, MsFlags::MS_NODEV, libc::MOUNT_ATTR_NODEV),
        "dev" => (false, MsFlags::MS_NODEV, libc::MOUNT_ATTR_NODEV),
        "noexec" => (true, MsFlags::MS_NOEXEC, libc::MOUNT_ATTR_NOEXEC),
        "exec" => (false, MsFlags::MS_NOEXEC, libc::MOUNT_ATTR_NOEXEC),
        "nodiratime" => (true, MsFlags::MS_NODIRATIME, libc::MOUNT_ATTR_NODIRATIME),
        "diratime" => (false, MsFlags::MS_NODIRATIME, libc::MOUNT_ATTR_NODIRATIME),
        "noatime" => (true, MsFlags::MS_NOATIME, libc::MOUNT_ATTR_NOATIME),
        "atime" => (false, MsFlags::MS_NOATIME, libc::MOUNT_ATTR_NOATIME),
        "relatime" => (true, MsFlags::MS_RELATIME, libc::MOUNT_ATTR_RELATIME),
        "norelatime" => (false, MsFlags::MS_RELATIME, libc::MOUNT_ATTR_RELATIME),
        "strictatime" => (true, MsFlags::MS_STRICTATIME, libc::MOUNT_ATTR_STRICTATIME),
        "nostrictatime" => (false, MsFlags::MS_STRICTATIME, libc::MOUNT_ATTR_STRICTATIME),
        "nosymfollow" => (true, MS_NOSYMFOLLOW, libc::MOUNT_ATTR_NOSYMFOLLOW),
        "symfollow" => (false, MS_NOSYMFOLLOW, libc::MOUNT_ATTR_NOSYMFOLLOW),
        _ => return None,
    };
    Some(Change {
        on,
        flag,
        attribute,
    })
}

/// All options that are flags of mount(2).
fn flag(name: &str) -> Option<Change> {
    let (on, flag) = match name {
        "sync" => (true, MsFlags::MS_SYNCHRONOUS),
        "async" => (false, MsFlags::MS_SYNCHRONOUS),
        "dirsync" => (true, MsFlags::MS_DIRSYNC),
        "mand" => (true, MsFlags::MS_MANDLOCK),
        "nomand" => (false, MsFlags::MS_MANDLOCK),
        "iversion" => (true, MsFlags::MS_I_VERSION),
        "noiversion" => (false, MsFlags::MS_I_VERSION),
        "lazytime" => (true, MS_LAZYTIME),
        "nolazytime" => (false, MS_LAZYTIME),
        "silent" => (true, MsFlags::MS_SILENT),
        "loud" => (false, MsFlags::MS_SILENT),
        "remount" => (true, MsFlags::MS_REMOUNT),
        other => return attribute(other),
    };
    Some(Change {
        on,
        flag,
        attribute: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(options: &[&str]) -> MountOptions {
        parse(&options.iter().map(|&o| o.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn flags_and_data_are_told_apart() {
        let options = parsed(&["nosuid", "ro", "size=65536k", "mode=1777"]);
        assert_eq!(options.flags.0, MsFlags::MS_NOSUID | MsFlags::MS_RDONLY);
        assert_eq!(options.data(), "size=65536k,mode=1777");
        assert!(options.is_read_only());
    }

    #[test]
    fn the_last_of_two_opposites_wins() {
        let options = parsed(&["ro", "rw"]);
        assert!(!options.is_read_only());
        assert_eq!(options.attributes.set, 0);
        assert_eq!(options.attributes.clear, libc::MOUNT_ATTR_RDONLY);
    }

    #[test]
    fn access_time_modes_replace_each_other() {
        let options = parsed(&["noatime", "strictatime"]);
        assert_eq!(options.attributes.clear, ATIME);
        assert_eq!(options.attributes.set, libc::MOUNT_ATTR_STRICTATIME);
    }

    #[test]
    fn relatime_clears_the_field_for_a_bind_mount() {
        let options = parsed(&["relatime"]);
        assert_eq!(options.attributes.clear, ATIME);
        assert_eq!(options.attributes.set, 0);
    }

    #[test]
    fn recursive_forms_are_kept_apart() {
        let options = parsed(&["rbind", "rro", "rnosuid", "nodev"]);
        assert_eq!(options.bind, Some(Bind::Recursive));
        assert_eq!(
            options.recursive_attributes.set,
            libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID
        );
        assert_eq!(options.attributes.set, libc::MOUNT_ATTR_NODEV);
        assert!(options.data.is_empty());
    }

    #[test]
    fn relatime_is_not_a_recursive_elatime() {
        // "r" + "elatime" must not be tried before "relatime" itself.
        assert_eq!(
            parsed(&["relatime"]).recursive_attributes,
            Attributes::default()
        );
        assert_eq!(parsed(&["rrelatime"]).recursive_attributes.clear, ATIME);
    }

    #[test]
    fn propagation_keeps_its_order() {
        let options = parsed(&["rslave", "shared"]);
        assert_eq!(
            options.propagation,
            [
                Flags(MsFlags::MS_SLAVE | MsFlags::MS_REC),
                Flags(MsFlags::MS_SHARED)
            ]
        );
    }
}
