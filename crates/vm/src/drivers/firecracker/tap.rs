//! Taps for a VMM that opens them by their names (kernel documentation, networking/tuntap).

use std::ffi::CStr;
use std::os::fd::{AsRawFd, OwnedFd};

use crate::confine::Identity;
use crate::error::VmError;

nix::ioctl_write_int_bad!(
    /// `TUNSETOWNER`
    tun_set_owner,
    0x4004_54cc
);
nix::ioctl_write_int_bad!(
    /// `TUNSETPERSIST`
    tun_set_persist,
    0x4004_54cb
);
nix::ioctl_read_bad!(
    /// `TUNGETIFF`
    tun_get_interface,
    0x8004_54d2,
    libc::ifreq
);

/// Lets a tap outlive its descriptor, which is closed, as only one can be open; and lets the VMM open it. Returns its
/// name. It stays until its network namespace is gone or somebody takes it away.
///
/// # Errors
/// When it is no tap.
pub(super) fn keep(tap: OwnedFd, identity: Identity) -> Result<String, VmError> {
    let cannot = |errno: nix::Error| VmError::host("hand a tap device over")(errno.into());
    let owner = identity.uid().cast_signed();
    // SAFETY: ifreq is plain bytes, for which zero is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is open, two of the calls take numbers, and the request outlives the third.
    unsafe {
        tun_set_owner(tap.as_raw_fd(), owner).map_err(cannot)?;
        tun_set_persist(tap.as_raw_fd(), 1).map_err(cannot)?;
        tun_get_interface(tap.as_raw_fd(), &raw mut request).map_err(cannot)?;
    }
    let name = request.ifr_name.map(i8::cast_unsigned);
    let name = CStr::from_bytes_until_nul(&name).unwrap_or_default();
    Ok(name.to_string_lossy().into_owned())
}
