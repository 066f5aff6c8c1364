//! Recognises a stream's compression by its first bytes, as media types are often wrong.

use std::io::{BufRead, Cursor, Read};

use super::error::LayerError;
use crate::tar_stream::read_error;

/// A stream without its compression.
pub(crate) fn decompress<'a>(
    mut blob: impl BufRead + Send + 'a,
) -> Result<Box<dyn Read + Send + 'a>, LayerError> {
    let mut start = Vec::with_capacity(6);
    blob.by_ref()
        .take(6)
        .read_to_end(&mut start)
        .map_err(read_error)?;
    let format = Format::of(&start);
    let whole = Cursor::new(start).chain(blob);
    Ok(match format {
        Format::Plain => Box::new(whole),
        Format::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(whole)),
        Format::Zstd => Box::new(zstd::Decoder::with_buffer(whole).map_err(LayerError::Read)?),
        Format::Other(name) => return Err(LayerError::Compression(name)),
    })
}

/// Whether a file that starts with these bytes is compressed.
pub(crate) fn is_compressed(start: &[u8]) -> bool {
    Format::of(start) != Format::Plain
}

#[derive(Debug, PartialEq, Eq)]
enum Format {
    Plain,
    Gzip,
    Zstd,
    Other(&'static str),
}

impl Format {
    fn of(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, ..] => Self::Gzip,
            // A zstd frame, or one of the skippable frames that indexed layers begin with.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            [0xfd, b'7', b'z', b'X', b'Z', ..] => Self::Other("xz"),
            [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41] => Self::Other("bzip2"),
            _ => Self::Plain,
        }
    }
}
