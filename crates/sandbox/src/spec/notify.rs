//! The socket by which a container's program tells a service manager that it is ready (`sd_notify(3)`).
//!
//! The guest's kernel knows no socket of the host's. So where an engine mounts a directory with nothing but the socket
//! that `NOTIFY_SOCKET` names, the container gets one of the guest's.

use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Mount, Spec};
use serde::{Deserialize, Serialize};

use super::is_bind;
use crate::mount::origin;

/// The name of the socket that a front end listens at.
pub const NOTIFY_SOCKET: &str = "notify.sock";
/// Where the container has that one.
const CONTAINER_DIR: &str = "/run/notify";
/// Where the agent makes the sockets.
const GUEST_DIR: &str = "/run/hull/notify";

/// The socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NotifySocket {
    /// Its directory on the host.
    pub(crate) dir: PathBuf,
    /// Its name, there and in the guest.
    pub(crate) name: String,
    /// Its path in the guest.
    pub(crate) guest: PathBuf,
}

/// What the container's program is told of it.
pub(super) fn path(spec: &Spec) -> Option<PathBuf> {
    let process = spec.process().as_ref()?;
    let mut environment = process.env().iter().flatten();
    let path = environment.find_map(|entry| entry.strip_prefix("NOTIFY_SOCKET="))?;
    Some(path.into())
}

/// The socket at `path` of the container `id`, if `mount` is its directory's; that is the guest's then.
pub(super) fn take(
    mount: &mut Mount,
    path: Option<&Path>,
    id: &str,
    bundle: &Path,
) -> Option<NotifySocket> {
    let path = path?;
    let source = mount.source().as_ref().filter(|_| is_bind(mount))?;
    let dir = bundle.join(source);
    let name = path.file_name()?.to_str()?.to_owned();
    if path.parent() != Some(mount.destination()) || !is_alone(&dir, &name) {
        return None;
    }
    let guest = Path::new(GUEST_DIR).join(id);
    mount.set_source(Some(guest.clone()));
    Some(NotifySocket {
        dir,
        guest: guest.join(&name),
        name,
    })
}

/// Gives the container `id` a socket that stands for the one in `dir`, and its program the variable.
pub(super) fn add(spec: &mut Spec, dir: &Path, id: &str) -> NotifySocket {
    let guest = Path::new(GUEST_DIR).join(id);
    let mut mount = Mount::default();
    let options = ["bind", "nosuid", "noexec", "nodev", "ro"].map(str::to_owned);
    mount
        .set_destination(CONTAINER_DIR.into())
        .set_typ(Some("bind".to_owned()))
        .set_source(Some(guest.clone()))
        .set_options(Some(options.into()));
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    mounts.push(mount);
    spec.set_mounts(Some(mounts));
    if let Some(mut process) = spec.process().clone() {
        let environment = process.env().iter().flatten();
        let others = environment.filter(|entry| !entry.starts_with("NOTIFY_SOCKET="));
        let own = format!("NOTIFY_SOCKET={CONTAINER_DIR}/{NOTIFY_SOCKET}");
        let all = others.cloned().chain([own]).collect();
        process.set_env(Some(all));
        spec.set_process(Some(process));
    }
    NotifySocket {
        dir: dir.to_owned(),
        name: NOTIFY_SOCKET.to_owned(),
        guest: guest.join(NOTIFY_SOCKET),
    }
}

/// Whether a directory, where the engine's paths are, has a socket of this name and nothing else.
fn is_alone(dir: &Path, name: &str) -> bool {
    let looked = origin::there(|| {
        let entries = std::fs::read_dir(dir)?.collect::<std::io::Result<Vec<_>>>()?;
        let [entry] = entries.as_slice() else {
            return Ok(false);
        };
        Ok(entry.file_name() == name && entry.file_type()?.is_socket())
    });
    // What cannot be looked at cannot be mounted, which says why.
    looked.unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use serde_json::json;

    use super::*;

    #[test]
    fn a_front_ends_socket_takes_the_place_of_another() {
        let mut spec: Spec = serde_json::from_value(json!({
            "ociVersion": "1.0.2",
            "process": {"cwd": "/", "user": {"uid": 0, "gid": 0}, "env": ["NOTIFY_SOCKET=/x", "A=b"]},
        }))
        .unwrap();
        let socket = add(&mut spec, Path::new("/here"), "c1");
        assert_eq!(socket.guest, Path::new("/run/hull/notify/c1/notify.sock"));
        let process = spec.process().as_ref().unwrap();
        let environment = process.env().as_deref().unwrap();
        assert_eq!(
            environment,
            ["A=b", "NOTIFY_SOCKET=/run/notify/notify.sock"]
        );
        let mount = &spec.mounts().as_ref().unwrap()[0];
        assert_eq!(mount.destination(), Path::new("/run/notify"));
    }

    #[test]
    fn a_directory_with_the_socket_alone_is_the_guests() {
        let dir = tempfile::tempdir().unwrap();
        let _socket = UnixDatagram::bind(dir.path().join("notify.sock")).unwrap();
        let spec: Spec = serde_json::from_value(json!({
            "ociVersion": "1.0.2",
            "process": {"cwd": "/", "user": {"uid": 0, "gid": 0}, "env": ["A=b", "NOTIFY_SOCKET=/run/notify/notify.sock"]},
            "mounts": [
                {"destination": "/other", "type": "bind", "source": dir.path(), "options": ["bind"]},
                {"destination": "/run/notify", "type": "bind", "source": dir.path(), "options": ["rbind", "ro"]},
            ],
        }))
        .unwrap();
        let path = path(&spec);
        let mut mounts = spec.mounts().clone().unwrap();
        let mut take =
            |index: usize| take(&mut mounts[index], path.as_deref(), "c1", Path::new("/b"));
        assert_eq!(take(0), None);
        let socket = take(1).unwrap();
        assert_eq!(socket.dir, dir.path());
        assert_eq!(socket.guest, Path::new("/run/hull/notify/c1/notify.sock"));
        let guest = Some(Path::new("/run/hull/notify/c1"));
        assert_eq!(mounts[1].source().as_deref(), guest);
        // A volume in which somebody has put a socket stays what it is.
        std::fs::write(dir.path().join("data"), "").unwrap();
        let mut mounts = spec.mounts().clone().unwrap();
        let path = super::path(&spec);
        let taken = super::take(&mut mounts[1], path.as_deref(), "c1", Path::new("/b"));
        assert_eq!(taken, None);
    }
}
