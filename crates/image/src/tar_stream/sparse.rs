//! Sparse files: GNU's old format and the three PAX formats.

use super::header::{BLOCK, Block, number};
use super::pax::{Records, decimal};

/// A piece of a file that is not a hole, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// Where a file's sparse map is.
pub(super) enum Format {
    Dense,
    /// The map is complete.
    Mapped {
        segments: Vec<Segment>,
        size: u64,
    },
    /// GNU's old format with more of the map in blocks behind the header.
    GnuExtended {
        segments: Vec<Segment>,
        size: u64,
    },
    /// PAX 1.0: the map stands before the content.
    InBody {
        size: u64,
    },
}

impl Format {
    /// The format; none if what is said about it is malformed.
    pub(super) fn of(block: &Block, records: &mut Records) -> Option<Self> {
        if block.type_flag() == b'S' {
            let header = block.gnu()?;
            let size = number(&header.realsize)?;
            let mut segments = Vec::new();
            gnu_segments(&header.sparse, &mut segments)?;
            return Some(if header.isextended[0] == 1 {
                Self::GnuExtended { segments, size }
            } else {
                Self::Mapped { segments, size }
            });
        }
        Some(match (records.sparse_size, records.sparse_map.take()) {
            (Some(size), _) if records.sparse_map_in_body => Self::InBody { size },
            (Some(size), Some(segments)) => Self::Mapped { segments, size },
            _ => Self::Dense,
        })
    }
}

impl Segment {
    /// A file without holes.
    pub(super) fn whole(size: u64) -> Vec<Self> {
        vec![Self {
            offset: 0,
            length: size,
        }]
    }
}

fn gnu_segments(entries: &[tar::GnuSparseHeader], segments: &mut Vec<Segment>) -> Option<()> {
    for entry in entries {
        // An entry of zero bytes ends the map.
        if entry.offset[0] == 0 || entry.numbytes[0] == 0 {
            break;
        }
        segments.push(Segment {
            offset: number(&entry.offset)?,
            length: number(&entry.numbytes)?,
        });
    }
    Some(())
}

/// Reads a block that continues a map of GNU's old format; says whether another one follows.
pub(super) fn gnu_extension(block: &[u8; BLOCK], segments: &mut Vec<Segment>) -> Option<bool> {
    const IS_EXTENDED: usize = 504;
    let (entries, _) = block[..IS_EXTENDED].as_chunks::<24>();
    for entry in entries {
        let (offset, length) = entry.split_at(12);
        if offset[0] == 0 || length[0] == 0 {
            break;
        }
        segments.push(Segment {
            offset: number(offset)?,
            length: number(length)?,
        });
    }
    Some(block[IS_EXTENDED] == 1)
}

/// The segments must be in order, inside the file, and together as long as the body.
pub(super) fn check(segments: &[Segment], stored: u64, size: u64) -> Option<()> {
    let mut end = 0;
    let mut total = 0u64;
    for segment in segments {
        if segment.offset < end {
            return None;
        }
        end = segment.offset.checked_add(segment.length)?;
        total = total.checked_add(segment.length)?;
    }
    (end <= size && total == stored && i64::try_from(size).is_ok()).then_some(())
}

/// What became of a block that was fed to a [`MapParser`].
pub(super) enum Fed {
    More,
    Done(Vec<Segment>),
    Bad,
}

/// Reads the map of PAX format 1.0: the number of segments, then offset and length of each, one
/// decimal number a line.
#[derive(Default)]
pub(super) struct MapParser {
    line: Vec<u8>,
    expected: Option<u64>,
    numbers: Vec<u64>,
}

impl MapParser {
    pub(super) fn feed(&mut self, block: &[u8; BLOCK]) -> Fed {
        for byte in block {
            if *byte != b'\n' {
                self.line.push(*byte);
                if self.line.len() > 20 {
                    return Fed::Bad;
                }
                continue;
            }
            let Some(value) = decimal(&self.line) else {
                return Fed::Bad;
            };
            self.line.clear();
            match self.expected {
                None => {
                    let Some(expected) = value.checked_mul(2) else {
                        return Fed::Bad;
                    };
                    self.expected = Some(expected);
                }
                Some(_) => self.numbers.push(value),
            }
            if self.expected == Some(self.numbers.len() as u64) {
                let (pairs, _) = self.numbers.as_chunks::<2>();
                let segment = |&[offset, length]: &[u64; 2]| Segment { offset, length };
                return Fed::Done(pairs.iter().map(segment).collect());
            }
        }
        Fed::More
    }
}
