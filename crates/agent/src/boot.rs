//! From the kernel's first process to a guest that can run containers.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::Context;
use nix::mount::{MsFlags, mount};
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use nix::sys::stat::{Mode, umask};

use crate::helper::ASSEMBLY_POINT;
use crate::{cgroup, guest, kmsg, net};

/// Open files that a process may have, unless its container says otherwise.
const MAX_OPEN_FILES: u64 = 1 << 20;

/// Directories of the root that something is mounted on.
const DIRECTORIES: [&str; 5] = ["/proc", "/sys", "/dev", "/run", "/tmp"];

/// Brings the guest up.
pub(crate) fn boot() -> anyhow::Result<()> {
    umask(Mode::from_bits_truncate(0o022));
    let root = replace_root();
    let mounts = mount_system();
    kmsg::start(true);
    // Only now is there somewhere to report it.
    root.context("cannot leave the initial root")?;
    mounts?;
    set_limits()?;
    // The kernel drops messages of user space beyond a rate by default.
    guest::set_sysctl("kernel.printk_devkmsg", "on\n")?;
    cgroup::prepare()?;
    net::loopback_up().context("cannot bring the loopback interface up")?;
    fs::create_dir_all(ASSEMBLY_POINT).context("cannot make a directory in /run")?;
    Ok(())
}

/// Puts a mount of the initial root over itself and moves onto it. The initial root has no parent
/// mount, so nothing could be pivoted away from it, as containers are; its copy can.
fn replace_root() -> io::Result<()> {
    for directory in DIRECTORIES {
        make_directory(directory)?;
    }
    let point = "/run";
    let none = None::<&str>;
    mount(Some("/"), point, none, MsFlags::MS_BIND, none)?;
    nix::unistd::chdir(point)?;
    mount(Some("."), "/", none, MsFlags::MS_MOVE, none)?;
    nix::unistd::chroot(".")?;
    nix::unistd::chdir("/")?;
    // Nothing is written to the root from here on, the agent's program least of all, through whichever
    // mount: it is the file system that becomes read-only. Containers take part in what is mounted later
    // where they ask for it.
    let read_only = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    mount(none, "/", none, read_only, none)?;
    mount(none, "/", none, MsFlags::MS_SHARED | MsFlags::MS_REC, none)?;
    Ok(())
}

fn make_directory(path: &str) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// One file system of the guest.
struct System {
    kind: &'static str,
    target: &'static str,
    flags: MsFlags,
    data: &'static str,
}

fn mount_system() -> anyhow::Result<()> {
    let plain = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let data = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let system = |kind, target, flags, data| System {
        kind,
        target,
        flags,
        data,
    };
    for system in [
        system("proc", "/proc", data, ""),
        system("sysfs", "/sys", data, ""),
        system("devtmpfs", "/dev", MsFlags::MS_NOSUID, "mode=755"),
        system(
            "devpts",
            "/dev/pts",
            MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC,
            "gid=5,mode=620,ptmxmode=666",
        ),
        system("tmpfs", "/dev/shm", plain, "mode=1777"),
        system("mqueue", "/dev/mqueue", data, ""),
        system("tmpfs", "/run", plain, "mode=755"),
        system("tmpfs", "/tmp", plain, "mode=1777"),
        system(
            "cgroup2",
            cgroup::MOUNT_POINT,
            data,
            "nsdelegate,memory_recursiveprot",
        ),
    ] {
        let System {
            kind,
            target,
            flags,
            data,
        } = system;
        make_directory(target).with_context(|| format!("cannot make {target}"))?;
        mount(Some(kind), target, Some(kind), flags, Some(data))
            .with_context(|| format!("cannot mount {target}"))?;
    }
    for (target, link) in [
        ("/proc/self/fd", "/dev/fd"),
        ("/proc/self/fd/0", "/dev/stdin"),
        ("/proc/self/fd/1", "/dev/stdout"),
        ("/proc/self/fd/2", "/dev/stderr"),
    ] {
        symlink(target, link).with_context(|| format!("cannot make {link}"))?;
    }
    Ok(())
}

/// What containers inherit where they set nothing: what a container engine's service has.
fn set_limits() -> anyhow::Result<()> {
    for (resource, limit) in [
        (Resource::RLIMIT_NOFILE, MAX_OPEN_FILES),
        (Resource::RLIMIT_NPROC, RLIM_INFINITY),
        (Resource::RLIMIT_CORE, RLIM_INFINITY),
    ] {
        setrlimit(resource, limit, limit)
            .with_context(|| format!("cannot set the limit {resource:?}"))?;
    }
    Ok(())
}

/// Whether this is the first process of a machine, and not one that a person started.
pub(crate) fn is_first_process() -> bool {
    std::process::id() == 1 && !Path::new("/proc/self").exists()
}
