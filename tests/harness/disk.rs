//! A disk that can be full.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::namespaces::own_mounts;

/// A file system in memory at a directory, for this thread and the programs that it starts.
#[derive(Debug)]
pub struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    /// Mounts it, as root can, in a mount namespace of its own. `size` is tmpfs's.
    ///
    /// # Panics
    /// When the kernel refuses.
    #[must_use]
    pub fn mount(dir: &'a Path, size: &str) -> Self {
        let none = None::<&str>;
        let options = format!("size={size}");
        own_mounts();
        let options = Some(options.as_str());
        mount(none, dir, Some("tmpfs"), MsFlags::empty(), options).expect("mounted");
        Self(dir)
    }

    /// Takes all room but `left` bytes.
    ///
    /// # Panics
    /// When that cannot be done.
    pub fn fill(&self, left: u64) {
        let filler = File::create(self.0.join("filler")).expect("a file");
        let error = io::copy(&mut io::repeat(0), &mut &filler).expect_err("it is full");
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        let length = filler.metadata().expect("its size").len();
        filler.set_len(length - left).expect("shortened");
    }

    /// Gives back what [`Self::fill`] took.
    ///
    /// # Panics
    /// When nothing was taken.
    pub fn free(&self) {
        // Not only removed: a program that another thread starts at this moment may have it open.
        let path = self.0.join("filler");
        fs::write(&path, "").expect("emptied");
        fs::remove_file(path).expect("removed");
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        // The namespace ends with the thread in any case; the directory can be removed before.
        let _ = umount2(self.0, MntFlags::MNT_DETACH);
    }
}
