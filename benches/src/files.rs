//! Reading and writing through the container's root, and in a directory of the host.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::pod::Pod;
use crate::sample::mebibytes;
use crate::timing;

/// Where the work is done: beside each other, by the same program.
#[derive(Debug)]
pub(crate) enum Place<'p, 'h> {
    /// The root of a container, with this program's path in it, and what it is called.
    Container(&'p Pod<'h>, String, &'static str),
    /// A directory of the host, on the file system that holds the container's root as well.
    Host(PathBuf),
}

/// MiB/s and files per second.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rates {
    pub(crate) write: f64,
    pub(crate) read: f64,
    pub(crate) files: f64,
}

impl Place<'_, '_> {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Container(_, _, name) => name,
            Self::Host(_) => "host directory",
        }
    }

    fn path(&self, name: &str) -> String {
        match self {
            Self::Container(..) => Path::new("/").join(name),
            Self::Host(dir) => dir.join(name),
        }
        .to_string_lossy()
        .into_owned()
    }

    fn work(&self, words: &[&str]) -> Result<Duration> {
        let mut command = match self {
            Self::Container(pod, program, _) => {
                let mut all = vec![program.as_str(), "inside"];
                all.extend(words);
                pod.exec(&[], &all)
            }
            Self::Host(_) => {
                let mut command = Command::new(std::env::current_exe()?);
                command.arg("inside").args(words);
                command
            }
        };
        let printed = timing::output(&mut command)?;
        let nanos = printed.trim().parse();
        Ok(Duration::from_nanos(
            nanos.context("a duration was expected")?,
        ))
    }

    /// Writes and reads a file of `bytes`, and makes and removes `count` small ones. The host's page
    /// cache holds what is read, the guest's does not.
    pub(crate) fn measure(&self, bytes: u64, count: u32) -> Result<Rates> {
        let file = self.path("bench-file");
        let write = self.work(&["write-file", &file, &bytes.to_string()])?;
        let mut read = vec!["read-file", &file];
        if matches!(self, Self::Container(..)) {
            read.push("--drop-cache");
        }
        let read = self.work(&read)?;
        let files = self.work(&["small-files", &self.path("bench-files"), &count.to_string()])?;
        Ok(Rates {
            write: mebibytes(bytes) / write.as_secs_f64(),
            read: mebibytes(bytes) / read.as_secs_f64(),
            files: f64::from(count) / files.as_secs_f64(),
        })
    }
}
