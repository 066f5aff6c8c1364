//! Files below a directory or in a tar file, by their paths.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::error::ImageError;
use crate::layer::{LayerError, is_compressed, plain_reader};
use crate::store::{Temp, TempArea};
use crate::tar_stream::{Kind, Source, TarStream};

/// Most members of an image archive.
const MAX_MEMBERS: usize = 100_000;
/// Most symbolic links that stand for one member.
const MAX_LINKS: usize = 8;

/// A directory or tar file.
#[derive(Debug)]
pub(crate) enum Files {
    Dir(PathBuf),
    Tar(TarFile),
}

impl Files {
    /// What errors call it.
    pub(crate) fn place(&self) -> String {
        match self {
            Self::Dir(dir) => dir.display().to_string(),
            Self::Tar(tar) => tar.path.display().to_string(),
        }
    }

    /// Opens a file and says how long it is. `name` is a relative path.
    pub(crate) fn open(&self, name: &str) -> Result<(Box<dyn Read + '_>, u64), ImageError> {
        let missing = || ImageError::MissingMember {
            place: self.place(),
            member: name.to_owned(),
        };
        match self {
            Self::Dir(dir) => {
                let path = dir.join(name);
                // Who opens a pipe waits for its other end.
                let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let file = match rustix::fs::open(&path, flags, Mode::empty()) {
                    Err(Errno::NOENT) => return Err(missing()),
                    other => File::from(other.map_err(ImageError::io("open", &path))?),
                };
                let metadata = file.metadata().map_err(ImageError::io("examine", &path))?;
                if !metadata.is_file() {
                    return Err(missing());
                }
                Ok((Box::new(file), metadata.len()))
            }
            Self::Tar(tar) => {
                let (offset, size) = tar.find(name).ok_or_else(missing)?;
                let section = Section {
                    file: &tar.file,
                    offset,
                    left: size,
                };
                Ok((Box::new(section), size))
            }
        }
    }

    /// Reads a small file.
    pub(crate) fn read(&self, name: &str, limit: u64) -> Result<Vec<u8>, ImageError> {
        let (reader, _) = self.open(name)?;
        let place = self.place();
        let what = || format!("{name} in {place}");
        crate::store::read_limited(reader, limit, &what, Path::new(&place))
    }
}

/// A tar file whose members' places are known.
#[derive(Debug)]
pub(crate) struct TarFile {
    path: PathBuf,
    file: File,
    members: HashMap<Vec<u8>, Member>,
    /// The copy that is read instead.
    _plain: Option<Temp>,
}

#[derive(Debug)]
enum Member {
    File { offset: u64, size: u64 },
    Link(Vec<u8>),
}

impl TarFile {
    /// Opens a tar file and finds its members. A compressed one, and what comes through a pipe, is
    /// copied to `temp` first, at most `limit` bytes.
    pub(crate) fn open(path: &Path, temp: &TempArea, limit: u64) -> Result<Self, ImageError> {
        let mut file = File::open(path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => ImageError::NotFound(path.display().to_string()),
            _ => ImageError::io("open", path)(source),
        })?;
        let kind = file
            .metadata()
            .map_err(ImageError::io("examine", path))?
            .file_type();
        let mut copy = kind.is_fifo();
        if kind.is_file() {
            let mut start = Vec::new();
            let read = (&mut file).take(6).read_to_end(&mut start);
            read.and_then(|_| file.rewind())
                .map_err(ImageError::io("read", path))?;
            copy = is_compressed(&start);
        } else if !copy {
            return Err(ImageError::NotAnArchive {
                place: path.display().to_string(),
                why: "it is neither a regular file nor a pipe",
            });
        }
        let mut plain = None;
        if copy {
            let temp = temp.file()?;
            uncompress(path, file, &temp, limit)?;
            file = temp
                .file()
                .try_clone()
                .and_then(|mut file| file.rewind().map(|()| file))
                .map_err(ImageError::io("read", temp.path()))?;
            plain = Some(temp);
        }
        let members = find_members(&file, path)?;
        Ok(Self {
            path: path.to_owned(),
            file,
            members,
            _plain: plain,
        })
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// Offset and size of a member, through symbolic links: old Docker versions write them for
    /// layers that occur twice.
    fn find(&self, name: &str) -> Option<(u64, u64)> {
        let mut name = clean(name.as_bytes());
        for _ in 0..=MAX_LINKS {
            match self.members.get(&name)? {
                Member::File { offset, size } => return Some((*offset, *size)),
                Member::Link(target) => {
                    let dir = name.iter().rposition(|byte| *byte == b'/');
                    let mut path = name[..dir.map_or(0, |slash| slash + 1)].to_vec();
                    path.extend_from_slice(target);
                    name = clean(&path);
                }
            }
        }
        None
    }
}

fn uncompress(path: &Path, file: File, temp: &Temp, limit: u64) -> Result<(), ImageError> {
    let failed = |source| ImageError::Archive {
        place: path.display().to_string(),
        source,
    };
    let plain = plain_reader(BufReader::with_capacity(128 << 10, file)).map_err(failed)?;
    let mut plain = plain.take(limit.saturating_add(1));
    let mut buffer = vec![0; 128 << 10];
    let mut total = 0;
    loop {
        let count = plain
            .read(&mut buffer)
            .map_err(|error| failed(crate::tar_stream::read_error(error).into()))?;
        if count == 0 {
            return Ok(());
        }
        total += count as u64;
        if total > limit {
            return Err(ImageError::TooLarge {
                what: format!("the uncompressed archive {}", path.display()),
                limit,
            });
        }
        io::Write::write_all(&mut temp.file(), &buffer[..count])
            .map_err(ImageError::io("write", temp.path()))?;
    }
}

fn find_members(file: &File, path: &Path) -> Result<HashMap<Vec<u8>, Member>, ImageError> {
    let failed = |error: crate::tar_stream::TarError| ImageError::Archive {
        place: path.display().to_string(),
        source: LayerError::from(error),
    };
    let length = file
        .metadata()
        .map_err(ImageError::io("examine", path))?
        .len();
    let mut stream = TarStream::new(Seeking {
        file,
        at: 0,
        length,
    });
    let mut members = HashMap::new();
    while let Some(entry) = stream.next_entry().map_err(failed)? {
        let name = clean(&entry.path);
        let member = match entry.kind {
            Kind::File => Member::File {
                offset: stream.offset(),
                size: entry.stored_size,
            },
            Kind::Symlink => Member::Link(entry.link),
            Kind::HardLink => {
                // Hard links name their target from the archive's root.
                let depth = name.iter().filter(|byte| **byte == b'/').count();
                Member::Link([b"../".repeat(depth), entry.link].concat())
            }
            Kind::Directory | Kind::Fifo | Kind::Device { .. } => continue,
        };
        members.insert(name, member);
        if members.len() > MAX_MEMBERS {
            return Err(failed(crate::tar_stream::TarError::Malformed {
                offset: stream.offset(),
                what: "too many files",
            }));
        }
    }
    Ok(members)
}

/// A path without `.`, doubled slashes, and with `..` worked out.
fn clean(path: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join(&b'/')
}

/// Reads a file and seeks where it would only skip.
struct Seeking<'a> {
    file: &'a File,
    at: u64,
    length: u64,
}

impl Read for Seeking<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buffer, self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

impl Source for Seeking<'_> {
    fn skip(&mut self, count: u64) -> io::Result<u64> {
        let skipped = count.min(self.length.saturating_sub(self.at));
        self.at += skipped;
        Ok(skipped)
    }
}

/// A part of a file.
struct Section<'a> {
    file: &'a File,
    offset: u64,
    left: u64,
}

impl Read for Section<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = usize::try_from(self.left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let count = self.file.read_at(&mut buffer[..wanted], self.offset)?;
        self.offset += count as u64;
        self.left -= count as u64;
        Ok(count)
    }
}
