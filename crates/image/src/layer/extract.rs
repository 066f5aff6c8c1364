//! Makes an archive's entries in a directory tree.

use std::collections::{HashSet, VecDeque};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::attributes::{self, Owned};
use super::beneath::{self, Found, Tree};
use super::error::{Escape, LayerError};
use super::remove::remove_tree;
use super::whiteout::{self, Meaning};
use super::{Note, UnpackOptions, Unpacked, within};
use crate::digest::Digest;
use crate::tar_stream::{Entry, Kind, Source, TarStream, Timestamp};

/// Most notes that are kept.
const MAX_NOTES: usize = 100;
/// Most bytes of directory paths that are kept until the end.
const MAX_REMEMBERED_BYTES: u64 = 256 << 20;
/// Size of the copy buffer.
const BUFFER_BYTES: usize = 128 << 10;

/// Makes entries in a tree.
pub(super) struct Extractor<'a> {
    tree: Tree,
    options: &'a UnpackOptions,
    /// Directories whose permissions and times are set at the end, as making files in them needs
    /// the one and changes the other.
    dirs: VecDeque<(PathBuf, Mode, Timestamp)>,
    implicit: HashSet<PathBuf>,
    remembered_bytes: u64,
    size_bytes: u64,
    entries: u64,
    notes: Vec<Note>,
    note_count: u64,
    buffer: Vec<u8>,
}

impl<'a> Extractor<'a> {
    pub(super) fn new(tree: Tree, options: &'a UnpackOptions) -> Self {
        Self {
            tree,
            options,
            dirs: VecDeque::new(),
            // The root, until an entry for it comes.
            implicit: HashSet::from([PathBuf::new()]),
            remembered_bytes: 0,
            size_bytes: 0,
            entries: 0,
            notes: Vec::new(),
            note_count: 0,
            buffer: vec![0; BUFFER_BYTES],
        }
    }

    /// Makes one entry. `check` is asked now and then whether to go on.
    pub(super) fn entry<S: Source>(
        &mut self,
        entry: &Entry,
        stream: &mut TarStream<S>,
        check: &impl Fn(&TarStream<S>) -> Result<(), LayerError>,
    ) -> Result<(), LayerError> {
        let limits = &self.options.limits;
        self.entries += 1;
        within(self.entries, limits.max_entries, "entries")?;
        let path = beneath::relative(&entry.path, limits.max_path_bytes)?;
        let Some(name) = path.file_name() else {
            return self.root(entry);
        };
        match whiteout::meaning(name, &path)? {
            Meaning::Bookkeeping => return Ok(()),
            Meaning::Hide(hidden) => return self.hide(&path, hidden),
            Meaning::Opaque => return self.make_opaque(&path),
            Meaning::None => {}
        }
        let parent = self.parent(&path)?;
        match entry.kind {
            Kind::File => self.file(&parent, name, &path, entry, stream, check),
            Kind::Directory => self.directory(&parent, name, &path, entry),
            Kind::Symlink => self.symlink(&parent, name, &path, entry),
            Kind::HardLink => self.hard_link(&parent, name, &path, entry),
            Kind::Fifo => self.node(&parent, name, &path, entry, FileType::Fifo, 0),
            Kind::Device { char, major, minor } => {
                self.device(&parent, name, &path, entry, char, (major, minor))
            }
        }
    }

    /// Sets what had to wait for the end.
    pub(super) fn finish(mut self) -> Result<Unpacked, LayerError> {
        let mut implicit_dirs: Vec<PathBuf> = self.implicit.drain().collect();
        implicit_dirs.sort();
        for path in &implicit_dirs {
            let mode = Mode::from_raw_mode(0o755);
            self.dirs
                .push_front((path.clone(), mode, Timestamp::default()));
        }
        // Deepest first, so that a parent that its owner may not search comes after its children;
        // of several entries for one directory the last counts.
        let mut dirs: Vec<_> = self.dirs.drain(..).rev().collect();
        dirs.sort_by_key(|(path, _, _)| std::cmp::Reverse(path.components().count()));
        let mut done = HashSet::new();
        for (path, mode, mtime) in dirs {
            let dir = match self.tree.open_dir(&path, OFlags::RDONLY) {
                Ok(dir) => dir,
                // A later entry took its place.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => continue,
                Err(error) => return Err(LayerError::entry("open", &path)(error)),
            };
            let stat = rustix::fs::fstat(&dir).map_err(LayerError::entry("examine", &path))?;
            if !done.insert((stat.st_dev, stat.st_ino)) {
                continue;
            }
            rustix::fs::fchmod(&dir, mode)
                .and_then(|()| rustix::fs::futimens(&dir, &attributes::times(mtime)))
                .map_err(LayerError::entry("set permissions and time of", &path))?;
        }
        Ok(Unpacked {
            // The stream's owner knows it.
            diff_id: Digest::of(b""),
            size_bytes: self.size_bytes,
            entries: self.entries,
            notes: self.notes,
            note_count: self.note_count,
            implicit_dirs,
        })
    }

    fn root(&mut self, entry: &Entry) -> Result<(), LayerError> {
        let path = Path::new("");
        if entry.kind != Kind::Directory {
            return Err(LayerError::bad(path, "the layer's root is no directory"));
        }
        self.implicit.remove(path);
        self.directory_attributes(path, entry)
    }

    fn file<S: Source>(
        &mut self,
        parent: &OwnedFd,
        name: &OsStr,
        path: &Path,
        entry: &Entry,
        stream: &mut TarStream<S>,
        check: &impl Fn(&TarStream<S>) -> Result<(), LayerError>,
    ) -> Result<(), LayerError> {
        self.size_bytes = self.size_bytes.saturating_add(entry.size);
        within(
            self.size_bytes,
            self.options.limits.max_unpacked_bytes,
            "bytes of files",
        )?;
        self.clear(parent, name, path)?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file: File = rustix::fs::openat(parent, name, flags, Mode::RUSR | Mode::WUSR)
            .map_err(LayerError::entry("create", path))?
            .into();
        let mut end = 0;
        for segment in &entry.segments {
            if segment.offset != end {
                file.seek(SeekFrom::Start(segment.offset))
                    .map_err(LayerError::entry("write", path))?;
            }
            let mut left = segment.length;
            while left > 0 {
                check(stream)?;
                let wanted =
                    usize::try_from(left).map_or(BUFFER_BYTES, |left| left.min(BUFFER_BYTES));
                let count = stream.read_body(&mut self.buffer[..wanted])?;
                file.write_all(&self.buffer[..count])
                    .map_err(LayerError::entry("write", path))?;
                left -= count as u64;
            }
            end = segment.offset + segment.length;
        }
        if end != entry.size {
            rustix::fs::ftruncate(&file, entry.size).map_err(LayerError::entry("extend", path))?;
        }
        let owned = self.own(&file, path, entry)?;
        rustix::fs::fchmod(&file, attributes::mode(entry, owned))
            .and_then(|()| rustix::fs::futimens(&file, &attributes::times(entry.mtime)))
            .map_err(LayerError::entry("set permissions and time of", path))
    }

    fn directory(
        &mut self,
        parent: &OwnedFd,
        name: &OsStr,
        path: &Path,
        entry: &Entry,
    ) -> Result<(), LayerError> {
        let found =
            beneath::look(parent.as_fd(), name).map_err(LayerError::entry("examine", path))?;
        if found != Found::Directory {
            self.clear(parent, name, path)?;
            self.make_dir(parent, name, path, found == Found::Whiteout)?;
        }
        self.implicit.remove(path);
        self.directory_attributes(path, entry)
    }

    fn directory_attributes(&mut self, path: &Path, entry: &Entry) -> Result<(), LayerError> {
        let dir = self
            .tree
            .open_dir(path, OFlags::RDONLY)
            .map_err(LayerError::entry("open", path))?;
        let owned = self.own(&dir, path, entry)?;
        self.remember(path)?;
        self.dirs
            .push_back((path.to_owned(), attributes::mode(entry, owned), entry.mtime));
        Ok(())
    }

    fn symlink(
        &mut self,
        parent: &OwnedFd,
        name: &OsStr,
        path: &Path,
        entry: &Entry,
    ) -> Result<(), LayerError> {
        if entry.link.is_empty() || entry.link.contains(&0) {
            return Err(LayerError::bad(
                path,
                "its symbolic link has no valid target",
            ));
        }
        self.clear(parent, name, path)?;
        // A target may say anything: it is followed in the container, and here only beneath the
        // layer's root.
        rustix::fs::symlinkat(entry.link.as_slice(), parent, name)
            .map_err(LayerError::entry("create", path))?;
        self.own_at(parent, name, path, entry)?;
        self.set_times_at(parent, name, path, entry)
    }

    fn hard_link(
        &mut self,
        parent: &OwnedFd,
        name: &OsStr,
        path: &Path,
        entry: &Entry,
    ) -> Result<(), LayerError> {
        let outside = || LayerError::escape(path, Escape::HardLinkTarget);
        let missing = || LayerError::MissingLinkTarget {
            entry: path.to_string_lossy().into_owned(),
            target: String::from_utf8_lossy(&entry.link).into_owned(),
        };
        let limit = self.options.limits.max_path_bytes;
        let target = beneath::relative(&entry.link, limit).map_err(|error| match error {
            LayerError::Escape { .. } => outside(),
            other => other,
        })?;
        let (Some(target_parent), Some(target_name)) = (target.parent(), target.file_name()) else {
            return Err(LayerError::bad(path, "its hard link target is no file"));
        };
        let target_dir = match self.tree.open_dir(target_parent, OFlags::PATH) {
            Ok(dir) => dir,
            Err(Errno::XDEV | Errno::LOOP) => return Err(outside()),
            Err(Errno::NOENT | Errno::NOTDIR) => return Err(missing()),
            Err(error) => return Err(LayerError::entry("find the link target of", path)(error)),
        };
        let stat = |dir: &OwnedFd, name: &OsStr| match rustix::fs::statat(
            dir,
            name,
            AtFlags::SYMLINK_NOFOLLOW,
        ) {
            Ok(stat) => Ok(Some((stat.st_dev, stat.st_ino, stat.st_mode))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(LayerError::entry("examine", path)(error)),
        };
        let found = stat(&target_dir, target_name)?.ok_or_else(missing)?;
        if FileType::from_raw_mode(found.2) == FileType::Directory {
            return Err(LayerError::bad(path, "it is a hard link to a directory"));
        }
        if stat(parent, name)? == Some(found) {
            return Ok(());
        }
        self.clear(parent, name, path)?;
        match rustix::fs::linkat(&target_dir, target_name, parent, name, AtFlags::empty()) {
            // Making room removed the directory that the target was in.
            Err(Errno::NOENT) => Err(missing()),
            other => other.map_err(LayerError::entry("link", path)),
        }
    }

    fn device(
        &mut self,
        parent: &OwnedFd,
        name: &OsStr,
        path: &Path,
        entry: &Entry,
        char: bool,
        (major, minor): (u64, u64),
    ) -> Result<(), LayerError> {
        let skipped = Note::DeviceSkipped {
            path: path.to_string_lossy().into_owned(),
            major,
            minor,
        };
        let (Ok(major), Ok(minor)) = (u32::try_from(major), u32::try_from(minor)) else {
            return Err(LayerError::bad(path, "its device number is out of range"));
        };
        let device = rustix::fs::makedev(major, minor);
        // To overlayfs this one is a whiteout, which a layer says in another way.
        if char && device == 0 {
            self.note(skipped);
            return Ok(());
        }
        let kind = if char {
            FileType::CharacterDevice
        } else {
            FileType::BlockDevice
        };
        match self.node(parent, name, path, entry, kind, device) {
            Err(LayerError::Entry { source, .. })
                if source.kind() == std::io::ErrorKind::PermissionDenied =>
            {
                self.note(skipped);
                Ok(())
            }
            other => other,
        }
    }

    fn node(
        &mut self,
        parent: &OwnedFd,
        name: &OsStr,
        path: &Path,
        entry: &Entry,
        kind: FileType,
        device: u64,
    ) -> Result<(), LayerError> {
        self.clear(parent, name, path)?;
        rustix::fs::mknodat(parent, name, kind, Mode::RUSR | Mode::WUSR, device)
            .map_err(LayerError::entry("create", path))?;
        let owned = self.own_at(parent, name, path, entry)?;
        // What stands there was made just now, so that there is no symbolic link to follow.
        rustix::fs::chmodat(
            parent,
            name,
            attributes::mode(entry, owned),
            AtFlags::empty(),
        )
        .map_err(LayerError::entry("set permissions of", path))?;
        self.set_times_at(parent, name, path, entry)
    }

    /// Handles `.wh.<hidden>`: it hides what is below this layer, never what is in it.
    fn hide(&mut self, path: &Path, hidden: &OsStr) -> Result<(), LayerError> {
        if self.options.lowest {
            return Ok(());
        }
        let parent = self.parent(path)?;
        match beneath::look(parent.as_fd(), hidden).map_err(LayerError::entry("examine", path))? {
            Found::Nothing => whiteout::make(parent.as_fd(), hidden, path),
            Found::Directory => {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let dir = rustix::fs::openat(&parent, hidden, flags, Mode::empty())
                    .map_err(LayerError::entry("open", path))?;
                whiteout::mark_opaque(dir.as_fd(), self.options.overlay_xattr, path)
            }
            Found::Whiteout | Found::Other => Ok(()),
        }
    }

    fn make_opaque(&mut self, path: &Path) -> Result<(), LayerError> {
        if self.options.lowest {
            return Ok(());
        }
        let parent = self.parent(path)?;
        whiteout::mark_opaque(parent.as_fd(), self.options.overlay_xattr, path)
    }

    /// Opens the directory that `path` is in, making what is missing of it.
    fn parent(&mut self, path: &Path) -> Result<OwnedFd, LayerError> {
        let parent = path.parent().unwrap_or(Path::new(""));
        match self.tree.open_dir(parent, OFlags::PATH) {
            Ok(dir) => return Ok(dir),
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(error) => return Err(parent_error(path, error)),
        }
        let mut dir = self
            .tree
            .open_dir(Path::new(""), OFlags::PATH)
            .map_err(|error| parent_error(path, error))?;
        let mut made = PathBuf::new();
        for name in parent {
            made.push(name);
            dir = match self.tree.open_dir(&made, OFlags::PATH) {
                Ok(next) => next,
                Err(Errno::NOENT | Errno::NOTDIR) => {
                    let found = beneath::look(dir.as_fd(), name)
                        .map_err(|error| parent_error(path, error))?;
                    match found {
                        Found::Whiteout => self.clear(&dir, name, path)?,
                        Found::Nothing => {}
                        // A file, or a symbolic link to nothing or to a file.
                        Found::Other | Found::Directory => {
                            return Err(LayerError::bad(path, "its parent is no directory"));
                        }
                    }
                    self.make_dir(&dir, name, &made, found == Found::Whiteout)?;
                    self.remember(&made)?;
                    self.implicit.insert(made.clone());
                    self.tree
                        .open_dir(&made, OFlags::PATH)
                        .map_err(|error| parent_error(path, error))?
                }
                Err(error) => return Err(parent_error(path, error)),
            };
        }
        Ok(dir)
    }

    /// Makes a directory; in the place of a whiteout an opaque one, which hides as much.
    fn make_dir(
        &self,
        parent: &OwnedFd,
        name: &OsStr,
        path: &Path,
        opaque: bool,
    ) -> Result<(), LayerError> {
        rustix::fs::mkdirat(parent, name, Mode::RWXU).map_err(LayerError::entry("create", path))?;
        if opaque {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let dir = rustix::fs::openat(parent, name, flags, Mode::empty())
                .map_err(LayerError::entry("open", path))?;
            whiteout::mark_opaque(dir.as_fd(), self.options.overlay_xattr, path)?;
        }
        Ok(())
    }

    /// Removes what an earlier entry made at `name`.
    fn clear(&self, parent: &OwnedFd, name: &OsStr, path: &Path) -> Result<(), LayerError> {
        remove_tree(parent.as_fd(), name).map_err(LayerError::entry("replace", path))
    }

    /// Sets owner and extended attributes of an open file. In this order: a new owner takes
    /// `security.capability` away.
    fn own(&mut self, file: impl AsFd, path: &Path, entry: &Entry) -> Result<Owned, LayerError> {
        let owner = attributes::owner(entry, path)?;
        let owned = attributes::chown(&file, owner, self.options.ownership, path)?;
        self.note_owner(owned, path, owner);
        for note in attributes::set_xattrs(file.as_fd(), entry, path)? {
            self.note(note);
        }
        Ok(owned)
    }

    /// The same for what cannot be opened, which has no extended attributes.
    fn own_at(
        &mut self,
        parent: &OwnedFd,
        name: &OsStr,
        path: &Path,
        entry: &Entry,
    ) -> Result<Owned, LayerError> {
        let owner = attributes::owner(entry, path)?;
        let ownership = self.options.ownership;
        let owned = attributes::chown_at(parent.as_fd(), name, owner, ownership, path)?;
        self.note_owner(owned, path, owner);
        for (name, _) in &entry.xattrs {
            self.note(Note::XattrSkipped {
                path: path.to_string_lossy().into_owned(),
                name: String::from_utf8_lossy(name).into_owned(),
            });
        }
        Ok(owned)
    }

    fn set_times_at(
        &self,
        parent: &OwnedFd,
        name: &OsStr,
        path: &Path,
        entry: &Entry,
    ) -> Result<(), LayerError> {
        let times = attributes::times(entry.mtime);
        rustix::fs::utimensat(parent, name, &times, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(LayerError::entry("set the time of", path))
    }

    fn note_owner(&mut self, owned: Owned, path: &Path, (uid, gid): (u32, u32)) {
        if owned == Owned::Dropped {
            self.note(Note::OwnerDropped {
                path: path.to_string_lossy().into_owned(),
                uid,
                gid,
            });
        }
    }

    fn note(&mut self, note: Note) {
        self.note_count += 1;
        if self.notes.len() < MAX_NOTES {
            self.notes.push(note);
        }
    }

    /// Accounts for a path that is kept until the end.
    fn remember(&mut self, path: &Path) -> Result<(), LayerError> {
        const OVERHEAD_BYTES: u64 = 100;
        self.remembered_bytes += path.as_os_str().as_bytes().len() as u64 + OVERHEAD_BYTES;
        within(
            self.remembered_bytes,
            MAX_REMEMBERED_BYTES,
            "bytes of directory names",
        )
    }
}

fn parent_error(path: &Path, error: Errno) -> LayerError {
    match error {
        Errno::XDEV | Errno::LOOP => LayerError::escape(path, Escape::SymlinkParent),
        Errno::NOTDIR => LayerError::bad(path, "its parent is no directory"),
        other => LayerError::entry("find the parent of", path)(other),
    }
}
