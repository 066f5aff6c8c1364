//! The file server: one directory by virtio-fs or by FUSE over streams, on the `virtiofsd` crate.

mod disks;
mod mounts;
mod stream;

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::stat::{Mode, umask};
use virtiofsd::filesystem::{FileSystem, SerializableFileSystem};
use virtiofsd::passthrough::read_only::PassthroughFsRo;
use virtiofsd::passthrough::xattrmap::XattrMap;
use virtiofsd::passthrough::{
    CachePolicy, Config, InodeFileHandlesMode, NegotiationMode, PassthroughFs,
};
use virtiofsd::soft_idmap::cmdline::IdMap;
use virtiofsd::vhost_user::VhostUserFsBackendBuilder;

use crate::daemon;
use crate::isolation::{self, seccomp};
use crate::process as prepare;
use disks::Disks;
use mounts::Mounts;

/// How the guest's names of extended attributes become the host's.
///
/// `trusted.*` belongs to the host's root and an unprivileged server could not even read it, so the
/// guest's are kept as `user.hull.trusted.*`: an overlay mounted in the guest works on a shared
/// directory, and never meets the marks of an overlay on the host. File capabilities and the rest go
/// through unchanged.
const XATTR_MAP: &str = "/prefix/all/trusted./user.hull./\
                         /bad/server//trusted./\
                         /bad/client/user.hull.//\
                         /ok/all///";

/// The most descriptors that the server asks for: one for every inode that the guest remembers.
const MAX_FILES: u64 = 1_000_000;

/// Descriptors kept back for the server itself: one for each region of guest memory, and some.
const OWN_FILES: u64 = 640;

/// What a file server does while it is alive, whatever the guest does.
const CAPABILITIES: &[&str] = &[
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "MKNOD",
    "SETFCAP",
    "SETGID",
    "SETUID",
];

/// How long the guest may trust what it knows of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cache {
    /// Names and attributes for a second, contents until a file is opened again.
    Auto,
    /// Nothing is kept; files cannot be mapped shared.
    Never,
    /// For good: only for directories that nobody but the guest changes.
    Always,
}

/// What to share, and how.
#[derive(Debug)]
pub struct Options {
    /// The directory, which becomes the server's root.
    pub shared_dir: PathBuf,
    /// The tag in the device's configuration; `None` where the VMM has its own.
    pub tag: Option<String>,
    /// How long the guest may keep what it read.
    pub cache: Cache,
    /// The guest cannot change anything.
    pub read_only: bool,
    /// Mounts below the directory are separate file systems in the guest too.
    pub announce_submounts: bool,
    /// The guest sees and sets extended attributes.
    pub xattr: bool,
    /// The guest sees and sets POSIX access control lists; needs `xattr`.
    pub posix_acl: bool,
    /// All of the guest's users and groups are the server's own, in whose user namespace there are no
    /// others: files that they make belong to root in the guest, and changes of owner do nothing.
    pub squash_ids: bool,
    /// How requests come.
    pub transport: Transport,
    /// A directory in the shared one whose nodes of disks the guest has as files. It has to be mounted read-only.
    pub disks: Option<String>,
    /// Whether the server shuts itself in.
    pub sandboxed: bool,
}

/// How a guest's requests reach the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// By a virtio-fs device: the VMM connects once and speaks vhost-user.
    VhostUser {
        /// Threads that serve requests; 0 serves them one after the other.
        threads: usize,
    },
    /// By connections, each with a thread of its own.
    Streams(usize),
}

/// Why the file server ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The shared directory cannot be used.
    #[error("cannot share {path}")]
    SharedDir {
        /// As given.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Access control lists are stored as extended attributes.
    #[error("access control lists need extended attributes, which are turned off")]
    AclWithoutXattr,
    /// Access control lists name users.
    #[error("access control lists cannot be kept where all users are one")]
    AclWithSquashedIds,
    /// Resource limits, inherited descriptors.
    #[error(transparent)]
    Process(#[from] prepare::Error),
    /// Too few descriptors to work with.
    #[error(
        "at most {limit} open files are allowed, and {OWN_FILES} of them are needed before the guest opens one"
    )]
    TooFewFiles {
        /// The limit that is in force.
        limit: u64,
    },
    /// The sandbox.
    #[error(transparent)]
    Isolation(#[from] isolation::Error),
    /// The shared directory cannot be opened in the sandbox.
    #[error("cannot open the shared directory in the sandbox")]
    Root(#[source] io::Error),
    /// The device.
    #[error("cannot create the virtio-fs device")]
    Device(#[source] virtiofsd::vhost_user::Error),
    /// The connection to the VMM.
    #[error(transparent)]
    VhostUser(#[from] daemon::Error),
    /// The streams.
    #[error(transparent)]
    Stream(#[from] stream::Error),
}

/// Serves the directory to the first VMM that connects to `listener`, once or for each stream, until it disconnects.
///
/// # Errors
/// When the server cannot start or the VMM breaks the protocol.
pub fn serve(options: Options, listener: OwnedFd) -> Result<(), Error> {
    if options.posix_acl && !options.xattr {
        return Err(Error::AclWithoutXattr);
    }
    if options.posix_acl && options.squash_ids {
        return Err(Error::AclWithSquashedIds);
    }
    let shared_dir = directory(&options.shared_dir).map_err(|source| {
        let path = options.shared_dir.clone();
        Error::SharedDir { path, source }
    })?;
    let limit = prepare::limit_resources(MAX_FILES)?;
    let guest_files = limit
        .checked_sub(OWN_FILES)
        .ok_or(Error::TooFewFiles { limit })?;
    // The guest's kernel has applied its processes' masks already.
    umask(Mode::empty());

    let mut config = config(&options, guest_files);
    if options.sandboxed {
        isolation::unshare_namespaces()?;
        let proc = isolation::enter_tree(&shared_dir)?;
        config.root_dir = "/".into();
        config.proc_sfd_rawfd = Some(proc.self_fd);
        config.proc_mountinfo_rawfd = Some(proc.mountinfo);
        isolation::keep_capabilities(CAPABILITIES)?;
        seccomp::confine_fs()?;
    } else {
        config.root_dir = shared_dir.to_string_lossy().into_owned();
    }

    let root = PathBuf::from(&config.root_dir);
    if options.read_only {
        let fs = PassthroughFsRo::new(config).map_err(Error::Root)?;
        run(fs, &root, &options, listener)
    } else {
        let fs = PassthroughFs::new(config).map_err(Error::Root)?;
        run(fs, &root, &options, listener)
    }
}

/// The absolute path of a directory, without links.
fn directory(path: &Path) -> io::Result<PathBuf> {
    let path = std::fs::canonicalize(path)?;
    if path.is_dir() {
        Ok(path)
    } else {
        Err(io::ErrorKind::NotADirectory.into())
    }
}

fn config(options: &Options, guest_files: u64) -> Config {
    let (cache_policy, timeout) = match options.cache {
        Cache::Auto => (CachePolicy::Auto, Duration::from_secs(1)),
        Cache::Never => (CachePolicy::Never, Duration::ZERO),
        Cache::Always => (CachePolicy::Always, Duration::from_secs(86_400)),
    };
    Config {
        entry_timeout: timeout,
        attr_timeout: timeout,
        cache_policy,
        xattr: options.xattr,
        xattrmap: options.xattr.then(xattr_map),
        announce_submounts: options.announce_submounts,
        // Handles need CAP_DAC_READ_SEARCH, with which every file of the file system can be opened,
        // the ones outside the shared directory too.
        inode_file_handles: InodeFileHandlesMode::Never,
        readdirplus: options.cache != Cache::Never,
        // Otherwise the guest asks for the capabilities of a file before every single write to it.
        killpriv_v2: true,
        posix_acl: if options.posix_acl {
            NegotiationMode::Always
        } else {
            NegotiationMode::Never
        },
        // A guest's root may open with O_NOATIME what the server may not.
        clean_noatime: true,
        guest_fd_limit: guest_files,
        uid_map: Some(id_map(options)),
        gid_map: Some(id_map(options)),
        ..Config::default()
    }
}

/// The guest's ids as the server uses them; an empty map is one to one.
fn id_map(options: &Options) -> Vec<IdMap> {
    let squash = IdMap::SquashGuest {
        from_guest: 0,
        to_host: 0,
        count: u32::MAX,
    };
    if options.squash_ids {
        vec![squash]
    } else {
        Vec::new()
    }
}

fn xattr_map() -> XattrMap {
    match XattrMap::try_from(XATTR_MAP) {
        Ok(map) => map,
        Err(error) => unreachable!("the map is a constant with a test: {error}"),
    }
}

fn run<F>(fs: F, root: &Path, options: &Options, listener: OwnedFd) -> Result<(), Error>
where
    F: FileSystem<Inode = u64, Handle = u64> + SerializableFileSystem + Send + Sync + 'static,
{
    let mounts = match options.transport {
        Transport::VhostUser { .. } => None,
        Transport::Streams(_) => Some(Mounts::default()),
    };
    let fs = Disks::new(fs, root, options.disks.as_deref(), mounts);
    let threads = match options.transport {
        Transport::VhostUser { threads } => threads,
        Transport::Streams(streams) => return Ok(stream::serve(fs, listener, streams)?),
    };
    let backend = VhostUserFsBackendBuilder::default()
        .set_thread_pool_size(threads)
        .set_tag(options.tag.clone())
        .build(fs)
        .map_err(Error::Device)?;
    let mut daemon = daemon::new("hull-fs", Arc::new(backend))?;
    Ok(daemon::serve(&mut daemon, listener)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_attribute_map_is_valid() {
        XattrMap::try_from(XATTR_MAP).unwrap();
    }
}
