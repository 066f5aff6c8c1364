//! `mkfs.erofs` (erofs-utils).

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use hull_vm::process::require_program;

use super::{RootImageError, cannot};
use crate::mount::{MountSpec, own_namespace};

const PROGRAM: &str = "mkfs.erofs";

/// The program: `chosen`, or the one in `PATH`.
pub(super) fn program(chosen: Option<&Path>) -> Result<PathBuf, RootImageError> {
    const ADVICE: &str = "install the package erofs-utils, or set root.kind to \"shared\"";
    match chosen {
        Some(program) => Ok(program.to_owned()),
        None => require_program(PROGRAM, ADVICE).map_err(RootImageError::Program),
    }
}

/// Makes an image of what `root` shows in the file `image`, which is empty. The directory `scratch` exists for that long,
/// and for everybody else there is nothing in it. The program has `lock`, too: it stays locked while it works, whatever
/// becomes of this process.
pub(super) fn make(
    program: &Path,
    root: &MountSpec,
    image: &Path,
    lock: &File,
    scratch: &Path,
) -> Result<(), RootImageError> {
    let lock = lock.try_clone().map_err(cannot("pass on", image))?;
    fs::create_dir(scratch).map_err(cannot("create", scratch))?;
    let made = with_mounted(root, scratch, || {
        let mut command = Command::new(program);
        // Not compressed: a guest would pay for it with its own time.
        command.arg("--quiet").arg(image).arg(scratch).stdin(lock);
        let output = command
            .output()
            .map_err(cannot("run mkfs.erofs for", image))?;
        super::made(PROGRAM, image, &output)
    });
    fs::remove_dir(scratch).map_err(cannot("remove", scratch))?;
    made
}

/// Runs `task` where `root` is mounted on `target`, read-only: in a mount namespace of its own, with which the mount
/// ends.
fn with_mounted(
    root: &MountSpec,
    target: &Path,
    task: impl FnOnce() -> Result<(), RootImageError> + Send,
) -> Result<(), RootImageError> {
    let mut root = root.clone();
    root.options.push("ro".to_owned());
    let run = || {
        own_namespace().map_err(cannot("make a namespace for", target))?;
        let mounted = root.mount(target);
        mounted.map_err(|error| RootImageError::Mount(Box::new(error)))?;
        task()
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().spawn_scoped(scope, run);
        let thread = thread.map_err(cannot("start a thread for", target))?;
        thread.join().expect("making an image does not panic")
    })
}
