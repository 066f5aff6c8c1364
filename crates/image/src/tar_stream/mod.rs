//! Reads tar streams entry by entry: ustar, PAX and GNU, with long names and sparse files.
//!
//! The streams are untrusted. What one entry can make this reader keep in memory is capped, and no
//! declared size is believed before the bytes have arrived.

mod header;
mod pax;
mod sparse;

use std::io::{self, Read};

pub(crate) use header::Kind;
pub(crate) use sparse::Segment;

use header::{BLOCK, Block};
use pax::Records;
use sparse::Format;

/// Most bytes of extension records (names, extended attributes, sparse maps) before one entry.
const MAX_EXTENSION_BYTES: u64 = 1 << 20;

/// What is wrong with a tar stream.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The stream ended in the middle.
    #[error("the archive ends in the middle of {0}")]
    Truncated(&'static str),
    /// Bytes that are no tar.
    #[error("the archive is malformed at byte {offset}: {what}")]
    Malformed {
        /// Where, counted in uncompressed bytes.
        offset: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// A kind of entry that this program does not know.
    #[error("entry {path:?} has the unknown type {kind:?}")]
    UnknownKind {
        /// Path of the entry.
        path: String,
        /// Its type byte.
        kind: char,
    },
    /// Extension records larger than the cap.
    #[error("an entry's extension records at byte {offset} exceed {MAX_EXTENSION_BYTES} bytes")]
    ExtensionTooLarge {
        /// Where, counted in uncompressed bytes.
        offset: u64,
    },
    /// The source cannot be read or decompressed.
    #[error("cannot read the archive")]
    Read(#[source] io::Error),
}

/// One object in the archive. Its body, if any, is read with [`TarStream::read_body`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) path: Vec<u8>,
    /// Target of a hard or symbolic link.
    pub(crate) link: Vec<u8>,
    pub(crate) kind: Kind,
    /// Permission bits with set-id and sticky.
    pub(crate) mode: u32,
    pub(crate) uid: u64,
    pub(crate) gid: u64,
    pub(crate) mtime: Timestamp,
    /// Bytes of the body in the archive.
    pub(crate) stored_size: u64,
    /// Size of the file.
    pub(crate) size: u64,
    /// Where the body's bytes belong; one segment unless the file is sparse.
    pub(crate) segments: Vec<Segment>,
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Seconds since 1970 and nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Timestamp {
    pub(crate) seconds: i64,
    pub(crate) nanoseconds: u32,
}

/// A source whose bytes can be passed over.
pub(crate) trait Source: Read {
    /// Passes over up to `count` bytes and says how many there were.
    fn skip(&mut self, count: u64) -> io::Result<u64> {
        io::copy(&mut Read::take(self, count), &mut io::sink())
    }
}

/// Reads entries from `source`.
#[derive(Debug)]
pub(crate) struct TarStream<S> {
    source: S,
    offset: u64,
    /// Bytes of the current body that were not read.
    body_left: u64,
    /// Bytes between the body's end and the next header.
    padding: u64,
}

impl<S: Source> TarStream<S> {
    pub(crate) fn new(source: S) -> Self {
        Self {
            source,
            offset: 0,
            body_left: 0,
            padding: 0,
        }
    }

    /// Bytes of the archive passed so far.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// The source, positioned behind what was read.
    pub(crate) fn into_source(self) -> S {
        self.source
    }

    /// The next entry; none at the end.
    pub(crate) fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        self.finish_body()?;
        let mut records = Records::default();
        let mut long_path = None;
        let mut long_link = None;
        let mut extension_bytes = 0;
        loop {
            let Some(block) = self.read_header(extension_bytes > 0)? else {
                return Ok(None);
            };
            match block.type_flag() {
                b'x' => {
                    let offset = self.offset;
                    let body = self.read_extension(&block, &mut extension_bytes)?;
                    records.parse(&body).ok_or(TarError::Malformed {
                        offset,
                        what: "PAX records",
                    })?;
                }
                b'g' => {
                    // Global records would only set defaults that no image builder uses.
                    self.read_extension(&block, &mut extension_bytes)?;
                }
                b'L' => long_path = Some(self.read_long_name(&block, &mut extension_bytes)?),
                b'K' => long_link = Some(self.read_long_name(&block, &mut extension_bytes)?),
                _ => return self.entry(&block, records, long_path, long_link).map(Some),
            }
        }
    }

    /// Reads the current entry's body; `Ok(0)` at its end.
    pub(crate) fn read_body(&mut self, buffer: &mut [u8]) -> Result<usize, TarError> {
        let wanted =
            usize::try_from(self.body_left).map_or(buffer.len(), |left| left.min(buffer.len()));
        if wanted == 0 {
            return Ok(0);
        }
        let count = self.read_some(&mut buffer[..wanted])?;
        if count == 0 {
            return Err(TarError::Truncated("a file's content"));
        }
        self.body_left -= count as u64;
        Ok(count)
    }

    fn entry(
        &mut self,
        block: &Block,
        mut records: Records,
        long_path: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> Result<Entry, TarError> {
        let malformed = |offset, what| TarError::Malformed { offset, what };
        let at = self.offset.saturating_sub(BLOCK as u64);
        let number = |value: Option<u64>, what| value.ok_or(malformed(at, what));
        let path = match (records.sparse_name.take(), records.path.take(), long_path) {
            (Some(path), _, _) | (None, Some(path), _) | (None, None, Some(path)) => path,
            (None, None, None) => block.path(),
        };
        let link = records
            .link
            .take()
            .or(long_link)
            .unwrap_or_else(|| block.link());
        let kind = Kind::new(block, &path).ok_or_else(|| TarError::UnknownKind {
            path: String::from_utf8_lossy(&path).into_owned(),
            kind: char::from(block.type_flag()),
        })?;
        let kind = match kind {
            Kind::Device { char, .. } => Kind::Device {
                char,
                major: number(block.device_major(), "device number")?,
                minor: number(block.device_minor(), "device number")?,
            },
            other => other,
        };
        let declared = match records.size {
            Some(size) => size,
            None => number(block.size(), "size")?,
        };
        if i64::try_from(declared).is_err() {
            return Err(malformed(at, "size"));
        }
        // Only files have bodies; some writers give links the size of what they point to.
        let mut stored = if kind == Kind::File { declared } else { 0 };
        self.padding = padding(stored);
        self.body_left = stored;
        let sparse = if kind == Kind::File {
            Format::of(block, &mut records).ok_or(malformed(at, "sparse map"))?
        } else {
            Format::Dense
        };
        let (segments, size) = match sparse {
            Format::Dense => (Segment::whole(stored), stored),
            Format::Mapped { segments, size } => (segments, size),
            Format::GnuExtended { mut segments, size } => {
                // The extension blocks stand between the header and the body.
                let body = std::mem::take(&mut self.body_left);
                loop {
                    let mut block = [0; BLOCK];
                    self.read_exactly(&mut block, "a sparse map")?;
                    let more = sparse::gnu_extension(&block, &mut segments)
                        .ok_or(malformed(self.offset, "sparse map"))?;
                    if segments.len() as u64 * 16 > MAX_EXTENSION_BYTES {
                        return Err(TarError::ExtensionTooLarge { offset: at });
                    }
                    if !more {
                        break;
                    }
                }
                self.body_left = body;
                (segments, size)
            }
            Format::InBody { size } => {
                let segments = self.read_sparse_map()?;
                stored = self.body_left;
                (segments, size)
            }
        };
        sparse::check(&segments, stored, size).ok_or(malformed(at, "sparse map"))?;
        Ok(Entry {
            mode: block.mode().map_or(0, |mode| mode & 0o7777),
            uid: records.uid.or(block.uid()).unwrap_or(0),
            gid: records.gid.or(block.gid()).unwrap_or(0),
            mtime: records.mtime.unwrap_or_else(|| block.mtime()),
            path,
            link,
            kind,
            stored_size: stored,
            size,
            segments,
            xattrs: records.xattrs,
        })
    }

    /// The map that PAX format 1.0 puts before the content: decimal lines, padded to a block.
    fn read_sparse_map(&mut self) -> Result<Vec<Segment>, TarError> {
        let mut map = sparse::MapParser::default();
        let start = self.offset;
        loop {
            if self.offset - start >= MAX_EXTENSION_BYTES {
                return Err(TarError::ExtensionTooLarge { offset: start });
            }
            let mut block = [0; BLOCK];
            if self.body_left < BLOCK as u64 {
                return Err(TarError::Truncated("a sparse map"));
            }
            self.read_exactly(&mut block, "a sparse map")?;
            self.body_left -= BLOCK as u64;
            match map.feed(&block) {
                sparse::Fed::More => {}
                sparse::Fed::Done(segments) => return Ok(segments),
                sparse::Fed::Bad => {
                    return Err(TarError::Malformed {
                        offset: start,
                        what: "sparse map",
                    });
                }
            }
        }
    }

    fn read_long_name(&mut self, block: &Block, used: &mut u64) -> Result<Vec<u8>, TarError> {
        let mut name = self.read_extension(block, used)?;
        if let Some(end) = name.iter().position(|byte| *byte == 0) {
            name.truncate(end);
        }
        Ok(name)
    }

    fn read_extension(&mut self, block: &Block, used: &mut u64) -> Result<Vec<u8>, TarError> {
        let size = block.size().ok_or(TarError::Malformed {
            offset: self.offset,
            what: "size",
        })?;
        *used = used.saturating_add(size).saturating_add(BLOCK as u64);
        if *used > MAX_EXTENSION_BYTES {
            return Err(TarError::ExtensionTooLarge {
                offset: self.offset,
            });
        }
        let size = usize::try_from(size).map_err(|_| TarError::ExtensionTooLarge {
            offset: self.offset,
        })?;
        let mut body = vec![0; size];
        self.read_exactly(&mut body, "an extension record")?;
        self.padding = padding(size as u64);
        self.finish_body()?;
        Ok(body)
    }

    /// The next header block; none at the end of the archive.
    fn read_header(&mut self, within_entry: bool) -> Result<Option<Block>, TarError> {
        let mut bytes = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.read_some(&mut bytes[filled..])? {
                // Writers that leave the end marker out are common enough.
                0 if filled == 0 && !within_entry => return Ok(None),
                0 => return Err(TarError::Truncated("a header")),
                count => filled += count,
            }
        }
        if bytes.iter().all(|byte| *byte == 0) {
            return if within_entry {
                Err(TarError::Truncated("an entry"))
            } else {
                Ok(None)
            };
        }
        Block::new(&bytes).map(Some).ok_or(TarError::Malformed {
            offset: self.offset - BLOCK as u64,
            what: "header checksum",
        })
    }

    fn finish_body(&mut self) -> Result<(), TarError> {
        let body = std::mem::take(&mut self.body_left);
        let padding = std::mem::take(&mut self.padding);
        let wanted = body.checked_add(padding).ok_or(TarError::Malformed {
            offset: self.offset,
            what: "size",
        })?;
        let skipped = self.source.skip(wanted).map_err(read_error)?;
        self.offset += skipped;
        // The padding of the last entry may be missing with the end marker.
        if skipped < body {
            return Err(TarError::Truncated("a file's content"));
        }
        Ok(())
    }

    fn read_exactly(&mut self, buffer: &mut [u8], what: &'static str) -> Result<(), TarError> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.read_some(&mut buffer[filled..])? {
                0 => return Err(TarError::Truncated(what)),
                count => filled += count,
            }
        }
        Ok(())
    }

    fn read_some(&mut self, buffer: &mut [u8]) -> Result<usize, TarError> {
        loop {
            match self.source.read(buffer) {
                Ok(count) => {
                    self.offset += count as u64;
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(read_error(error)),
            }
        }
    }
}

/// A decompressor says with this error kind that its input ended too early.
pub(crate) fn read_error(error: io::Error) -> TarError {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        TarError::Truncated("the compressed data")
    } else {
        TarError::Read(error)
    }
}

fn padding(size: u64) -> u64 {
    (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64
}

#[cfg(test)]
mod tests;
