//! Holes in place of zeros: a VMM may write all of a guest's memory, and most of it was never touched.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::unistd::{Whence, lseek64};

/// What becomes a hole or does not, bytes: with smaller ones a file would have too many pieces.
const PIECE: usize = 64 << 10;

/// Frees what of a file is zeros. What it says stays the same.
///
/// # Errors
/// When it cannot be read or changed. A file system that has no holes keeps it as it is.
pub(super) fn dig(file: &File) -> io::Result<()> {
    let (mut piece, empty) = (vec![0; PIECE], [0; PIECE]);
    let mut zeros = None;
    let mut at = 0;
    let length = (&*file).seek(SeekFrom::End(0))?;
    while at < length {
        if zeros.is_none() {
            at = match lseek64(file, offset(at)?, Whence::SeekData) {
                Ok(data) => u64::try_from(data).map_err(io::Error::other)?,
                // Nothing but a hole is left.
                Err(Errno::ENXIO) => break,
                Err(errno) => return Err(errno.into()),
            };
            at -= at % PIECE as u64;
        }
        let size = PIECE.min(usize::try_from(length - at).unwrap_or(PIECE));
        file.read_exact_at(&mut piece[..size], at)?;
        let is_zero = piece[..size] == empty[..size];
        match (is_zero, zeros) {
            (true, None) => zeros = Some(at),
            (false, Some(start)) => {
                punch(file, start, at)?;
                zeros = None;
            }
            (true, Some(_)) | (false, None) => {}
        }
        at += PIECE as u64;
    }
    match zeros {
        Some(start) => punch(file, start, length),
        None => Ok(()),
    }
}

fn punch(file: &File, start: u64, end: u64) -> io::Result<()> {
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    match fallocate(file, flags, offset(start)?, offset(end - start)?) {
        Ok(()) | Err(Errno::EOPNOTSUPP) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

fn offset(at: u64) -> io::Result<i64> {
    i64::try_from(at).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn zeros_take_no_place_and_everything_else_stays() {
        let file = tempfile::tempfile().unwrap();
        let mut all = vec![0; 40 * PIECE + 100];
        for at in [0, 10 * PIECE - 1, 20 * PIECE, 40 * PIECE + 99] {
            all[at] = 7;
        }
        file.write_all_at(&all, 0).unwrap();
        // A hole is there already, and another at the end.
        file.set_len(50 * PIECE as u64).unwrap();
        punch(&file, 12 * PIECE as u64, 14 * PIECE as u64).unwrap();
        all.resize(50 * PIECE, 0);
        dig(&file).unwrap();
        let found = file.metadata().unwrap();
        assert_eq!(found.len(), all.len() as u64);
        assert!(
            found.blocks() * 512 <= 5 * PIECE as u64,
            "{}",
            found.blocks()
        );
        let mut read = vec![1; all.len()];
        file.read_exact_at(&mut read, 0).unwrap();
        assert!(read == all);
        dig(&tempfile::tempfile().unwrap()).unwrap();
    }
}
