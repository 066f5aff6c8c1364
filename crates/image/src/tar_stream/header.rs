//! The 512-byte header block.

use super::Timestamp;

/// Size of a block, bytes.
pub(super) const BLOCK: usize = 512;

/// A header block with a correct checksum.
pub(super) struct Block(tar::Header);

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Directory,
    Symlink,
    /// Another name of a file that stands before it in the archive.
    HardLink,
    Fifo,
    Device {
        /// A character device, else a block device.
        char: bool,
        major: u64,
        minor: u64,
    },
}

impl Kind {
    /// The kind; device numbers are not filled in.
    pub(super) fn new(block: &Block, path: &[u8]) -> Option<Self> {
        Some(match block.type_flag() {
            // Before ustar a directory was a file whose name ends in a slash.
            b'0' | 0 if path.ends_with(b"/") => Self::Directory,
            b'0' | 0 | b'7' | b'S' => Self::File,
            b'1' => Self::HardLink,
            b'2' => Self::Symlink,
            b'3' | b'4' => Self::Device {
                char: block.type_flag() == b'3',
                major: 0,
                minor: 0,
            },
            b'5' => Self::Directory,
            b'6' => Self::Fifo,
            _ => return None,
        })
    }
}

impl Block {
    pub(super) fn new(bytes: &[u8; BLOCK]) -> Option<Self> {
        const CHECKSUM: std::ops::Range<usize> = 148..156;
        let mut header = tar::Header::new_old();
        header.as_mut_bytes().copy_from_slice(bytes);
        let sum = |signed: bool| {
            bytes.iter().enumerate().fold(0i64, |sum, (index, byte)| {
                let byte = if CHECKSUM.contains(&index) {
                    b' '
                } else {
                    *byte
                };
                sum + if signed {
                    i64::from(byte.cast_signed())
                } else {
                    i64::from(byte)
                }
            })
        };
        let declared = i64::try_from(number(&header.as_old().cksum)?).ok()?;
        // Some old writers sum signed bytes.
        (declared == sum(false) || declared == sum(true)).then_some(Self(header))
    }

    pub(super) fn type_flag(&self) -> u8 {
        self.0.as_old().linkflag[0]
    }

    pub(super) fn path(&self) -> Vec<u8> {
        self.0.path_bytes().into_owned()
    }

    pub(super) fn link(&self) -> Vec<u8> {
        self.0
            .link_name_bytes()
            .map_or_else(Vec::new, |link| link.into_owned())
    }

    pub(super) fn mode(&self) -> Option<u32> {
        // Old writers put the file type above the permission bits.
        number(&self.0.as_old().mode).and_then(|mode| u32::try_from(mode & 0o177_7777).ok())
    }

    pub(super) fn uid(&self) -> Option<u64> {
        number(&self.0.as_old().uid)
    }

    pub(super) fn gid(&self) -> Option<u64> {
        number(&self.0.as_old().gid)
    }

    pub(super) fn size(&self) -> Option<u64> {
        number(&self.0.as_old().size)
    }

    pub(super) fn mtime(&self) -> Timestamp {
        let seconds = number(&self.0.as_old().mtime).and_then(|time| i64::try_from(time).ok());
        Timestamp {
            seconds: seconds.unwrap_or(0),
            nanoseconds: 0,
        }
    }

    pub(super) fn device_major(&self) -> Option<u64> {
        self.0
            .as_ustar()
            .map(|header| &header.dev_major)
            .or_else(|| self.0.as_gnu().map(|header| &header.dev_major))
            .and_then(|field| number(field))
    }

    pub(super) fn device_minor(&self) -> Option<u64> {
        self.0
            .as_ustar()
            .map(|header| &header.dev_minor)
            .or_else(|| self.0.as_gnu().map(|header| &header.dev_minor))
            .and_then(|field| number(field))
    }

    pub(super) fn gnu(&self) -> Option<&tar::GnuHeader> {
        self.0.as_gnu()
    }
}

/// A numeric field: octal digits, or big-endian binary when the first bit is set. Negative numbers
/// are none.
pub(super) fn number(field: &[u8]) -> Option<u64> {
    let (first, rest) = field.split_first()?;
    if first & 0x80 != 0 {
        if first & 0x40 != 0 {
            return None;
        }
        return rest
            .iter()
            .try_fold(u64::from(first & 0x3f), |value, byte| {
                Some(value.checked_mul(256)? | u64::from(*byte))
            });
    }
    let end = field
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(field.len());
    let digits = field[..end].trim_ascii();
    digits.iter().try_fold(0u64, |value, digit| {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit < 8)?;
        value.checked_mul(8)?.checked_add(u64::from(digit))
    })
}
