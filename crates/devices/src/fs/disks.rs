//! Disks of the host as files of the guest.
//!
//! A guest has its own devices, so a node of a device of the host's means nothing there, or something else.
//! The nodes in one directory of the share are shown as plain files of their devices' sizes instead, from which
//! a guest makes block devices again (loop devices). Nodes anywhere else, a guest can make them, stay what they
//! are, and are never opened here. So it has to be a directory in which the guest can make nothing: one that is
//! mounted read-only.
//!
//! A node that its owner may not write to is a disk that the guest may not write to.

use std::collections::HashMap;
use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use virtiofsd::filesystem::{
    Context, Entry, Extensions, FileSystem, FsOptions, GetxattrReply, ListxattrReply, OpenOptions,
    SerializableFileSystem, SetattrValid, SetxattrFlags, ZeroCopyReader, ZeroCopyWriter,
};
use virtiofsd::fuse;

use super::mounts::Mounts;

/// What the guest calls the root of the share (`FUSE_ROOT_ID`).
const ROOT: u64 = 1;

/// Set in the handles of disks; the file system below counts its own from 0.
const OURS: u64 = 1 << 63;

/// A file system in one directory of which disks are files.
pub(super) struct Disks<F> {
    below: F,
    dir: Option<Dir>,
    /// Where the guest does not tell mounts apart by itself.
    mounts: Option<Mounts>,
    /// The disks that the guest knows, by inode.
    known: Mutex<HashMap<u64, Known>>,
    open: Mutex<HashMap<u64, Arc<File>>>,
    next_handle: AtomicU64,
}

/// The directory with the nodes.
struct Dir {
    name: String,
    path: PathBuf,
    /// 0 until the guest has looked it up.
    inode: AtomicU64,
}

struct Known {
    path: PathBuf,
    /// As often as the guest was told of it and has not forgotten it.
    lookups: u64,
}

impl<F> Disks<F> {
    /// Over `below`, which serves `root`. `dir` is the name of a directory in it.
    pub(super) fn new(below: F, root: &Path, dir: Option<&str>, mounts: Option<Mounts>) -> Self {
        Self {
            below,
            dir: dir.map(|name| Dir {
                name: name.to_owned(),
                path: root.join(name),
                inode: AtomicU64::new(0),
            }),
            mounts,
            known: Mutex::default(),
            open: Mutex::default(),
            next_handle: AtomicU64::new(0),
        }
    }

    /// Where the entry `name` of `parent` is if that is the directory of disks.
    fn node(&self, parent: u64, name: &CStr) -> Option<PathBuf> {
        let dir = self.dir.as_ref()?;
        let name = name.to_str().ok()?;
        let plain = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
        (plain && parent == dir.inode.load(Ordering::Relaxed)).then(|| dir.path.join(name))
    }

    fn path_of(&self, inode: u64) -> Option<PathBuf> {
        lock(&self.known).get(&inode).map(|disk| disk.path.clone())
    }

    fn file(&self, handle: u64) -> Option<Arc<File>> {
        lock(&self.open).get(&handle).cloned()
    }

    /// The guest is told of the entry `name` of a directory.
    fn tell(&self, parent: u64, name: &CStr, mut entry: Entry) -> Entry {
        if let Some(mounts) = &self.mounts {
            mounts.tell(parent, name, &mut entry);
        }
        entry
    }

    /// The guest is told of an inode that it knows.
    fn tell_again(&self, inode: u64, mut attr: fuse::Attr) -> fuse::Attr {
        if let Some(mounts) = &self.mounts {
            mounts.tell_again(inode, &mut attr);
        }
        attr
    }

    /// The guest has forgotten `count` of what it was told of an inode.
    fn forgotten(&self, inode: u64, count: u64) {
        if let Some(mounts) = &self.mounts {
            mounts.forget(inode, count);
        }
        let mut known = lock(&self.known);
        if let Some(disk) = known.get_mut(&inode) {
            disk.lookups = disk.lookups.saturating_sub(count);
            if disk.lookups == 0 {
                known.remove(&inode);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while one is held.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn os(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}

fn is_disk(mode: u32) -> bool {
    mode & libc::S_IFMT == libc::S_IFBLK
}

/// Opens a disk, for nothing that its node does not allow.
fn open_disk(path: &Path, write: bool) -> io::Result<File> {
    let node = std::fs::symlink_metadata(path)?;
    if !is_disk(node.mode()) {
        return Err(os(libc::ENXIO));
    }
    if write && node.mode() & 0o200 == 0 {
        return Err(os(libc::EROFS));
    }
    File::options()
        .read(true)
        .write(write)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
}

/// The attributes of the node at `path` as those of a file.
fn as_file(mut node: fuse::Attr, path: &Path) -> io::Result<fuse::Attr> {
    use std::io::{Seek, SeekFrom};
    node.size = open_disk(path, false)?.seek(SeekFrom::End(0))?;
    node.blocks = node.size / 512;
    node.mode = node.mode & !libc::S_IFMT | libc::S_IFREG;
    node.rdev = 0;
    Ok(node)
}

/// Methods that make an entry, by the file system below: in which directory, and its name there.
macro_rules! entries {
    ($($method:ident($($argument:ident: $kind:ty),*) in $parent:ident, $name:ident;)*) => {
        $(fn $method(&self, ctx: Context, $($argument: $kind),*) -> io::Result<Entry> {
            let entry = self.below.$method(ctx, $($argument),*)?;
            Ok(self.tell($parent, $name, entry))
        })*
    };
}

/// Methods that are the file system's below.
macro_rules! below {
    ($($name:ident($($argument:ident: $kind:ty),*) $(-> $answer:ty)?;)*) => {
        $(fn $name(&self, $($argument: $kind),*) $(-> $answer)? {
            self.below.$name($($argument),*)
        })*
    };
}

impl<F: FileSystem<Inode = u64, Handle = u64>> FileSystem for Disks<F> {
    type Inode = u64;
    type Handle = u64;
    type DirIter = F::DirIter;

    fn lookup(&self, ctx: Context, parent: u64, name: &CStr) -> io::Result<Entry> {
        let mut entry = self.below.lookup(ctx, parent, name)?;
        if let Some(dir) = self.dir.as_ref().filter(|_| parent == ROOT)
            && name.to_bytes() == dir.name.as_bytes()
        {
            dir.inode.store(entry.inode, Ordering::Relaxed);
        }
        if is_disk(entry.attr.mode)
            && let Some(path) = self.node(parent, name)
        {
            entry.attr = as_file(entry.attr, &path).inspect_err(|_| {
                self.below.forget(ctx, entry.inode, 1);
            })?;
            let mut known = lock(&self.known);
            let disk = known
                .entry(entry.inode)
                .or_insert(Known { path, lookups: 0 });
            disk.lookups += 1;
        }
        Ok(self.tell(parent, name, entry))
    }

    fn forget(&self, ctx: Context, inode: u64, count: u64) {
        self.forgotten(inode, count);
        self.below.forget(ctx, inode, count);
    }

    fn batch_forget(&self, ctx: Context, requests: Vec<(u64, u64)>) {
        for (inode, count) in &requests {
            self.forgotten(*inode, *count);
        }
        self.below.batch_forget(ctx, requests);
    }

    fn getattr(
        &self,
        ctx: Context,
        inode: u64,
        handle: Option<u64>,
    ) -> io::Result<(fuse::Attr, Duration)> {
        let (attr, timeout) = match self.path_of(inode) {
            None => self.below.getattr(ctx, inode, handle)?,
            Some(path) => {
                let (node, timeout) = self.below.getattr(ctx, inode, None)?;
                (as_file(node, &path)?, timeout)
            }
        };
        Ok((self.tell_again(inode, attr), timeout))
    }

    fn setattr(
        &self,
        ctx: Context,
        inode: u64,
        attr: fuse::SetattrIn,
        handle: Option<u64>,
        valid: SetattrValid,
    ) -> io::Result<(fuse::Attr, Duration)> {
        match self.path_of(inode) {
            // Neither the size nor the owner of a disk is the guest's to change.
            Some(_) => Err(os(libc::EPERM)),
            None => {
                let (attr, timeout) = self.below.setattr(ctx, inode, attr, handle, valid)?;
                Ok((self.tell_again(inode, attr), timeout))
            }
        }
    }

    fn open(
        &self,
        ctx: Context,
        inode: u64,
        kill_priv: bool,
        flags: u32,
    ) -> io::Result<(Option<u64>, OpenOptions)> {
        let Some(path) = self.path_of(inode) else {
            return self.below.open(ctx, inode, kill_priv, flags);
        };
        let write = flags.cast_signed() & libc::O_ACCMODE != libc::O_RDONLY;
        let file = open_disk(&path, write)?;
        let handle = OURS | self.next_handle.fetch_add(1, Ordering::Relaxed);
        lock(&self.open).insert(handle, Arc::new(file));
        Ok((Some(handle), OpenOptions::empty()))
    }

    fn read<W: ZeroCopyWriter>(
        &self,
        ctx: Context,
        inode: u64,
        handle: u64,
        mut w: W,
        size: u32,
        offset: u64,
        lock_owner: Option<u64>,
        flags: u32,
    ) -> io::Result<usize> {
        match self.file(handle) {
            Some(file) => w.read_from_file_at(&file, size as usize, offset, None),
            None => self
                .below
                .read(ctx, inode, handle, w, size, offset, lock_owner, flags),
        }
    }

    fn write<R: ZeroCopyReader>(
        &self,
        ctx: Context,
        inode: u64,
        handle: u64,
        mut r: R,
        size: u32,
        offset: u64,
        lock_owner: Option<u64>,
        delayed_write: bool,
        kill_priv: bool,
        flags: u32,
    ) -> io::Result<usize> {
        match self.file(handle) {
            Some(file) => r.write_to_file_at(&file, size as usize, offset, None),
            None => self.below.write(
                ctx,
                inode,
                handle,
                r,
                size,
                offset,
                lock_owner,
                delayed_write,
                kill_priv,
                flags,
            ),
        }
    }

    fn flush(&self, ctx: Context, inode: u64, handle: u64, lock_owner: u64) -> io::Result<()> {
        match self.file(handle) {
            Some(_) => Ok(()),
            None => self.below.flush(ctx, inode, handle, lock_owner),
        }
    }

    fn fsync(&self, ctx: Context, inode: u64, datasync: bool, handle: u64) -> io::Result<()> {
        match self.file(handle) {
            Some(file) => file.sync_data(),
            None => self.below.fsync(ctx, inode, datasync, handle),
        }
    }

    fn fallocate(
        &self,
        ctx: Context,
        inode: u64,
        handle: u64,
        mode: u32,
        offset: u64,
        length: u64,
    ) -> io::Result<()> {
        let Some(file) = self.file(handle) else {
            return self
                .below
                .fallocate(ctx, inode, handle, mode, offset, length);
        };
        let number = |number: u64| i64::try_from(number).map_err(|_| os(libc::EFBIG));
        let (offset, length) = (number(offset)?, number(length)?);
        // SAFETY: the descriptor is open, and the call takes no memory.
        match unsafe { libc::fallocate(file.as_raw_fd(), mode.cast_signed(), offset, length) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn release(
        &self,
        ctx: Context,
        inode: u64,
        flags: u32,
        handle: u64,
        flush: bool,
        flock_release: bool,
        lock_owner: Option<u64>,
    ) -> io::Result<()> {
        if lock(&self.open).remove(&handle).is_some() {
            return Ok(());
        }
        self.below
            .release(ctx, inode, flags, handle, flush, flock_release, lock_owner)
    }

    fn init(&self, capable: FsOptions) -> io::Result<FsOptions> {
        // The server below tells of mounts only whom it takes to know them.
        match self.mounts {
            Some(_) => self.below.init(capable | FsOptions::SUBMOUNTS),
            None => self.below.init(capable),
        }
    }

    fn create(
        &self,
        ctx: Context,
        parent: u64,
        name: &CStr,
        mode: u32,
        kill_priv: bool,
        flags: u32,
        umask: u32,
        extensions: Extensions,
    ) -> io::Result<(Entry, Option<u64>, OpenOptions)> {
        let (entry, handle, options) = self
            .below
            .create(ctx, parent, name, mode, kill_priv, flags, umask, extensions)?;
        Ok((self.tell(parent, name, entry), handle, options))
    }

    entries! {
        symlink(target: &CStr, parent: u64, name: &CStr, extensions: Extensions) in parent, name;
        mknod(parent: u64, name: &CStr, mode: u32, rdev: u32, umask: u32, extensions: Extensions) in parent, name;
        mkdir(parent: u64, name: &CStr, mode: u32, umask: u32, extensions: Extensions) in parent, name;
        link(inode: u64, parent: u64, name: &CStr) in parent, name;
    }

    below! {
        destroy();
        readlink(ctx: Context, inode: u64) -> io::Result<Vec<u8>>;
        unlink(ctx: Context, parent: u64, name: &CStr) -> io::Result<()>;
        rmdir(ctx: Context, parent: u64, name: &CStr) -> io::Result<()>;
        rename(ctx: Context, from: u64, name: &CStr, to: u64, new_name: &CStr, flags: u32)
            -> io::Result<()>;
        statfs(ctx: Context, inode: u64) -> io::Result<libc::statvfs64>;
        setxattr(ctx: Context, inode: u64, name: &CStr, value: &[u8], flags: u32,
            extra_flags: SetxattrFlags) -> io::Result<()>;
        getxattr(ctx: Context, inode: u64, name: &CStr, size: u32) -> io::Result<GetxattrReply>;
        listxattr(ctx: Context, inode: u64, size: u32) -> io::Result<ListxattrReply>;
        removexattr(ctx: Context, inode: u64, name: &CStr) -> io::Result<()>;
        opendir(ctx: Context, inode: u64, flags: u32) -> io::Result<(Option<u64>, OpenOptions)>;
        readdir(ctx: Context, inode: u64, handle: u64, size: u32, offset: u64)
            -> io::Result<Self::DirIter>;
        fsyncdir(ctx: Context, inode: u64, datasync: bool, handle: u64) -> io::Result<()>;
        releasedir(ctx: Context, inode: u64, flags: u32, handle: u64) -> io::Result<()>;
        access(ctx: Context, inode: u64, mask: u32) -> io::Result<()>;
        lseek(ctx: Context, inode: u64, handle: u64, offset: u64, whence: u32) -> io::Result<u64>;
        copyfilerange(ctx: Context, inode_in: u64, handle_in: u64, offset_in: u64, inode_out: u64,
            handle_out: u64, offset_out: u64, length: u64, flags: u64) -> io::Result<usize>;
        syncfs(ctx: Context, inode: u64) -> io::Result<()>;
    }
}

impl<F: SerializableFileSystem> SerializableFileSystem for Disks<F> {
    below! {
        prepare_serialization(cancel: Arc<AtomicBool>);
        serialize(state_pipe: File) -> io::Result<()>;
        deserialize_and_apply(state_pipe: File) -> io::Result<()>;
    }
}
