//! Compares two directory trees.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// A path that differs between two trees, and in what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The path in the tree.
    pub path: PathBuf,
    /// What differs.
    pub what: &'static str,
}

/// The first differences, at most `most`, of `actual` from `expected`.
pub(crate) fn compare(expected: &Path, actual: &Path, most: usize) -> io::Result<Vec<Difference>> {
    let mut differences = Vec::new();
    let mut paths = vec![PathBuf::new()];
    while let Some(path) = paths.pop() {
        let (left, right) = (expected.join(&path), actual.join(&path));
        let (left_stat, right_stat) = (metadata(&left)?, metadata(&right)?);
        let what = match (&left_stat, &right_stat) {
            (Some(a), Some(b)) => difference(&left, a, &right, b)?,
            (Some(_), None) => Some("it is missing"),
            (None, Some(_)) => Some("it does not belong there"),
            (None, None) => None,
        };
        if let Some(what) = what {
            differences.push(Difference { path, what });
            if differences.len() >= most {
                break;
            }
        } else if left_stat.is_some_and(|stat| stat.is_dir()) {
            let mut names = names(&left)?;
            names.extend(self::names(&right)?);
            paths.extend(names.into_iter().map(|name| path.join(name)));
        }
    }
    Ok(differences)
}

fn difference(
    left: &Path,
    a: &Metadata,
    right: &Path,
    b: &Metadata,
) -> io::Result<Option<&'static str>> {
    let size = |stat: &Metadata| if stat.is_file() { stat.len() } else { 0 };
    let modified = |stat: &Metadata| (stat.mtime(), stat.mtime_nsec());
    Ok(if a.file_type() != b.file_type() || a.rdev() != b.rdev() {
        Some("its type differs")
    } else if a.mode() != b.mode() {
        Some("its permissions differ")
    } else if (a.uid(), a.gid()) != (b.uid(), b.gid()) {
        Some("its owner differs")
    } else if a.is_symlink() && fs::read_link(left)? != fs::read_link(right)? {
        Some("its target differs")
    } else if size(a) != size(b) || a.is_file() && !same_content(left, right)? {
        Some("its content differs")
    } else if modified(a) != modified(b) && !is_whiteout(a) {
        Some("its modification time differs")
    } else if xattrs(left)? != xattrs(right)? {
        Some("its extended attributes differ")
    } else {
        None
    })
}

/// Whiteouts are made when a layer is unpacked, and have the time of that.
fn is_whiteout(stat: &Metadata) -> bool {
    use std::os::unix::fs::FileTypeExt;
    stat.file_type().is_char_device() && stat.rdev() == 0
}

fn metadata(path: &Path) -> io::Result<Option<Metadata>> {
    match fs::symlink_metadata(path) {
        Ok(metadata) => Ok(Some(metadata)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn names(dir: &Path) -> io::Result<BTreeSet<OsString>> {
    fs::read_dir(dir)?
        .map(|entry| Ok(entry?.file_name()))
        .collect()
}

fn same_content(left: &Path, right: &Path) -> io::Result<bool> {
    let (mut left, mut right) = (File::open(left)?, File::open(right)?);
    let (mut a, mut b) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    loop {
        let count = left.read(&mut a)?;
        if count == 0 {
            // Both have the same size.
            return Ok(true);
        }
        match right.read_exact(&mut b[..count]) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            other => other?,
        }
        if a[..count] != b[..count] {
            return Ok(false);
        }
    }
}

/// Extended attributes by name.
fn xattrs(path: &Path) -> io::Result<BTreeSet<(Vec<u8>, Vec<u8>)>> {
    let mut list = vec![0; 64 << 10];
    let length = match rustix::fs::llistxattr(path, &mut list) {
        Err(Errno::NOTSUP) => return Ok(BTreeSet::new()),
        other => other?,
    };
    let names = list[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty());
    names
        .map(|name| {
            let mut value = vec![0; 64 << 10];
            let length = rustix::fs::lgetxattr(path, name, &mut value)?;
            value.truncate(length);
            Ok((name.to_owned(), value))
        })
        .collect()
}
