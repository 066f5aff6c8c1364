//! A disk for what is written to a root: a sparse file with an ext4 file system (`mkfs.ext4`, e2fsprogs).

use std::path::Path;
use std::process::Command;

use hull_vm::process::require_program;
use tempfile::NamedTempFile;

use super::{RootImageError, UNFINISHED, cannot, has_name};

const PROGRAM: &str = "mkfs.ext4";

/// Makes one of `bytes` in `dir`. It has a name as long as this has: until it is mounted.
pub(super) fn make(dir: &Path, bytes: u64) -> Result<NamedTempFile, RootImageError> {
    const ADVICE: &str =
        "install the package e2fsprogs, let PATH have /usr/sbin, or set root.disk_size to 0";
    let program = require_program(PROGRAM, ADVICE).map_err(RootImageError::Program)?;
    let disk = locked(dir)?;
    let file = disk.as_file();
    file.set_len(bytes)
        .map_err(cannot("enlarge", disk.path()))?;
    let output = Command::new(program)
        // It ends with its guest: nothing needs to be recovered, and nothing is kept free for a superuser. Tables are
        // written when they are needed, so the file is as large as what it holds.
        .args(["-q", "-F", "-O", "^has_journal", "-m", "0"])
        .args(["-E", "lazy_itable_init=1,nodiscard"])
        .arg(disk.path())
        .output()
        .map_err(cannot("run mkfs.ext4 for", disk.path()))?;
    super::made(PROGRAM, disk.path(), &output)?;
    Ok(disk)
}

/// An empty file. Should this process be killed, whoever makes room in the directory sees by the lock that it is nobody's.
fn locked(dir: &Path) -> Result<NamedTempFile, RootImageError> {
    loop {
        let file = tempfile::Builder::new()
            .suffix(&format!(".{UNFINISHED}"))
            .tempfile_in(dir)
            .map_err(cannot("create a disk in", dir))?;
        file.as_file().lock().map_err(cannot("lock", file.path()))?;
        if has_name(file.as_file(), file.path())? {
            return Ok(file);
        }
        // It was taken for one between the two.
    }
}
