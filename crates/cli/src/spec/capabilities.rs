//! The capabilities of a container's processes.

use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities};

/// What a container has unless it is asked otherwise: Docker's list.
const DEFAULT: [Capability; 14] = [
    Capability::AuditWrite,
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Mknod,
    Capability::NetBindService,
    Capability::NetRaw,
    Capability::Setfcap,
    Capability::Setgid,
    Capability::Setpcap,
    Capability::Setuid,
    Capability::SysChroot,
];

/// The others that the guest's kernel knows.
const FURTHER: [Capability; 27] = [
    Capability::AuditControl,
    Capability::AuditRead,
    Capability::BlockSuspend,
    Capability::Bpf,
    Capability::CheckpointRestore,
    Capability::DacReadSearch,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::Lease,
    Capability::LinuxImmutable,
    Capability::MacAdmin,
    Capability::MacOverride,
    Capability::NetAdmin,
    Capability::NetBroadcast,
    Capability::Perfmon,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysModule,
    Capability::SysNice,
    Capability::SysPacct,
    Capability::SysPtrace,
    Capability::SysRawio,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Syslog,
    Capability::WakeAlarm,
];

/// One `--cap-add` or `--cap-drop`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CapabilityChoice {
    /// `ALL`.
    All,
    /// One of them.
    One(Capability),
}

/// Reads `ALL`, `NET_ADMIN` or `CAP_NET_ADMIN`.
pub(crate) fn parse(text: &str) -> Result<CapabilityChoice, String> {
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("CAP_").unwrap_or(&name);
    if name == "ALL" {
        return Ok(CapabilityChoice::All);
    }
    let capability = name
        .parse()
        .map_err(|_| format!("{text:?} is not a capability"))?;
    Ok(CapabilityChoice::One(capability))
}

/// The capabilities of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CapabilitySet(Capabilities);

impl Default for CapabilitySet {
    fn default() -> Self {
        Self(DEFAULT.into())
    }
}

impl CapabilitySet {
    /// All that there are.
    pub(crate) fn all() -> Self {
        Self(DEFAULT.into_iter().chain(FURTHER).collect())
    }

    /// The default with additions and removals, as Docker combines them: `ALL` counts first, and a
    /// capability that is both added and dropped is dropped.
    pub(crate) fn new(add: &[CapabilityChoice], drop: &[CapabilityChoice]) -> Self {
        let mut set = if add.contains(&CapabilityChoice::All) {
            Self::all()
        } else if drop.contains(&CapabilityChoice::All) {
            Self(Capabilities::new())
        } else {
            Self::default()
        };
        for choice in add {
            if let CapabilityChoice::One(capability) = choice {
                set.0.insert(*capability);
            }
        }
        for choice in drop {
            if let CapabilityChoice::One(capability) = choice {
                set.0.remove(capability);
            }
        }
        set
    }

    pub(crate) fn contains(&self, capability: Capability) -> bool {
        self.0.contains(&capability)
    }

    /// In the form of the OCI runtime specification: nothing is inheritable or ambient, so a program
    /// that another user runs has none of them.
    pub(crate) fn to_oci(&self) -> LinuxCapabilities {
        let mut capabilities = LinuxCapabilities::default();
        capabilities.set_bounding(Some(self.0.clone()));
        capabilities.set_effective(Some(self.0.clone()));
        capabilities.set_permitted(Some(self.0.clone()));
        capabilities.set_inheritable(None);
        capabilities.set_ambient(None);
        capabilities
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(add: &[&str], drop: &[&str]) -> CapabilitySet {
        let parse =
            |names: &[&str]| -> Vec<_> { names.iter().map(|name| parse(name).unwrap()).collect() };
        CapabilitySet::new(&parse(add), &parse(drop))
    }

    #[test]
    fn additions_and_removals_combine_as_in_docker() {
        assert_eq!(set(&[], &[]), CapabilitySet::default());
        assert!(set(&["NET_ADMIN"], &[]).contains(Capability::NetAdmin));
        assert!(!set(&[], &["cap_chown"]).contains(Capability::Chown));
        let only = set(&["CHOWN"], &["ALL"]);
        assert_eq!(only.0.len(), 1);
        let but = set(&["ALL"], &["SYS_ADMIN"]);
        assert_eq!(but.0.len(), CapabilitySet::all().0.len() - 1);
        assert_eq!(CapabilitySet::all().0.len(), 41);
    }

    #[test]
    fn unknown_names_are_refused() {
        assert!(parse("CAP_FLY").is_err());
        assert!(parse("").is_err());
    }
}
