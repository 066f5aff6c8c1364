//! An ordinary user, who exists only in the test's own mount namespace, as do the places where that user finds the
//! programs, the guest and the image.

use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use tempfile::TempDir;

use crate::{busybox, guest, program};

const UID: u32 = 54_321;

/// Where the programs and the guest are mounted: never in a directory that is removed at the end.
const PLACE: &str = "/mnt";

/// An ordinary user with a home.
#[derive(Debug)]
pub struct User {
    dir: TempDir,
}

/// Shows a directory or file in another place as well, where it cannot be changed.
fn bind(source: &Path, target: &Path) {
    let none = None::<&Path>;
    let bind = MsFlags::MS_BIND;
    let bound = mount(Some(source), target, none, bind, none).and_then(|()| {
        mount(
            none,
            target,
            none,
            bind | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY,
            none,
        )
    });
    bound.unwrap_or_else(|error| panic!("{} on {}: {error}", source.display(), target.display()));
}

impl User {
    /// A user with no ids besides their own, in the mount namespace of the test.
    ///
    /// # Panics
    /// When it does not work: it needs root.
    #[must_use]
    pub fn new() -> Self {
        let prefix = tempfile::Builder::new().prefix("hull-").tempdir();
        let user = Self {
            dir: prefix.expect("a directory"),
        };
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(user.dir(), open).expect("opened");
        for own in ["home", "run"] {
            user.give(&user.make(own));
        }
        let none = None::<&str>;
        mount(none, PLACE, Some("tmpfs"), MsFlags::empty(), none).expect("a place for mounts");
        let programs = program("hull").parent().expect("a directory").to_owned();
        for (source, name) in [(programs, "release"), (guest(), "guest")] {
            let target = Path::new(PLACE).join(name);
            std::fs::create_dir(&target).expect("a directory");
            bind(&source, &target);
        }
        let image = busybox();
        let image = image.strip_prefix("oci:").expect("a directory");
        let copy = "cp -r \"$0\" \"$1\" && chmod -R a+rX \"$1\"";
        let copied = Command::new("sh")
            .args(["-c", copy, image])
            .arg(user.path("image"))
            .status();
        assert!(copied.expect("a shell").success());
        user
    }

    /// Gives the user a name, and a range of ids.
    ///
    /// # Panics
    /// When it does not work.
    #[must_use]
    pub fn with_ranges(self) -> Self {
        let with = |file: &str, line: String| {
            std::fs::read_to_string(file).unwrap_or_default() + &line + "\n"
        };
        let files = [
            (
                "/etc/passwd",
                with("/etc/passwd", format!("ann:x:{UID}:{UID}::/:/bin/sh")),
            ),
            ("/etc/group", with("/etc/group", format!("ann:x:{UID}:"))),
            ("/etc/subuid", "ann:600000:65536\n".to_owned()),
            ("/etc/subgid", "ann:600000:65536\n".to_owned()),
        ];
        for (number, (path, text)) in files.into_iter().enumerate() {
            let file = self.path(&format!("etc-{number}"));
            std::fs::write(&file, text).expect("written");
            bind(&file, Path::new(path));
        }
        self
    }

    /// Lets the user make network devices, as every machine does that has udev.
    ///
    /// # Panics
    /// When it does not work.
    #[must_use]
    pub fn with_tun(self) -> Self {
        let node = Path::new(PLACE).join("tun");
        let everybody = Mode::from_bits_truncate(0o666);
        mknod(&node, SFlag::S_IFCHR, everybody, makedev(10, 200)).expect("a node");
        let open = std::fs::Permissions::from_mode(0o666);
        std::fs::set_permissions(&node, open).expect("opened");
        let none = None::<&str>;
        mount(Some(&node), "/dev/net/tun", none, MsFlags::MS_BIND, none).expect("bound");
        self
    }

    /// The directory of all that is the user's.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A place in it: `home`, `run` or `image`.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir().join(name)
    }

    /// Makes a directory in it.
    ///
    /// # Panics
    /// When that does not work.
    #[must_use]
    pub fn make(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(&path).expect("a directory");
        path
    }

    /// Makes the user the owner of a file.
    ///
    /// # Panics
    /// When that does not work.
    pub fn give(&self, path: &Path) {
        chown(path, Some(UID), Some(UID)).expect("given away");
    }

    /// Where the user finds one of the programs.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        Path::new(PLACE).join("release").join(name)
    }

    /// Where the user finds the guest.
    #[must_use]
    pub fn guest(&self) -> PathBuf {
        Path::new(PLACE).join("guest")
    }

    /// Lets a command run as the user, with nothing in its environment but what the user has.
    pub fn own(&self, command: &mut Command) {
        command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", self.path("home"))
            .env("XDG_RUNTIME_DIR", self.path("run"))
            .uid(UID)
            .gid(UID)
            .current_dir("/");
    }
}

impl Default for User {
    fn default() -> Self {
        Self::new()
    }
}
