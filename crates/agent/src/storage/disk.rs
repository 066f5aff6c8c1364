//! Finding virtio disks by their serial numbers.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};

use crate::error::AgentError;
use crate::sys::event::register;

/// The kernel's own multicast group of device events.
const KERNEL_EVENTS: u32 = 1;

/// The device node of a disk, once it is there.
pub(super) async fn by_serial(serial: &str) -> Result<PathBuf, AgentError> {
    let known = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    if serial.is_empty() || !serial.chars().all(known) {
        return Err(AgentError::Invalid {
            field: "disk serial",
            value: serial.to_owned(),
        });
    }
    let failed = || AgentError::io("listen for new disks");
    // Before the first look, so that no disk is missed.
    let events = subscribe().map_err(|errno| failed()(errno.into()))?;
    let events = register(events).map_err(failed())?;
    loop {
        if let Some(name) = find(Path::new("/sys/block"), serial) {
            return Ok(Path::new("/dev").join(name));
        }
        let mut guard = events.readable().await.map_err(failed())?;
        let mut event = [0; 4096];
        match recv(events.as_raw_fd(), &mut event, MsgFlags::empty()) {
            Err(Errno::EAGAIN) => guard.clear_ready(),
            // Some were lost: one of them may have been the disk.
            Ok(_) | Err(Errno::EINTR | Errno::ENOBUFS) => {}
            Err(errno) => return Err(failed()(errno.into())),
        }
    }
}

fn subscribe() -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(
        AddressFamily::Netlink,
        SockType::Datagram,
        flags,
        SockProtocol::NetlinkKObjectUEvent,
    )?;
    bind(fd.as_raw_fd(), &NetlinkAddr::new(0, KERNEL_EVENTS))?;
    Ok(fd)
}

/// The name of the disk whose `serial` file says so.
fn find(block: &Path, serial: &str) -> Option<String> {
    // The kernel cuts serials off at 20 bytes.
    let wanted: String = serial.chars().take(20).collect();
    fs::read_dir(block)
        .ok()?
        .filter_map(Result::ok)
        .find_map(|entry| {
            let text = fs::read_to_string(entry.path().join("serial")).ok()?;
            let name = entry.file_name().into_string().ok()?;
            (text.trim() == wanted).then_some(name)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_found_by_its_serial() {
        let dir = tempfile::tempdir().unwrap();
        for (name, serial) in [("vda", "one"), ("vdb", "two\n")] {
            fs::create_dir(dir.path().join(name)).unwrap();
            fs::write(dir.path().join(name).join("serial"), serial).unwrap();
        }
        fs::create_dir(dir.path().join("loop0")).unwrap();
        assert_eq!(find(dir.path(), "two"), Some("vdb".to_owned()));
        assert_eq!(find(dir.path(), "three"), None);
    }

    #[test]
    fn long_serials_are_compared_as_the_kernel_has_them() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("vda")).unwrap();
        fs::write(dir.path().join("vda/serial"), "a".repeat(20)).unwrap();
        assert_eq!(find(dir.path(), &"a".repeat(30)), Some("vda".to_owned()));
    }
}
