//! The FIFOs between this program and the pod process.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use hull_sandbox::stdio::StdioConfig;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

/// Bytes that a FIFO holds, where the kernel grants so many.
const FIFO_BYTES: libc::c_int = 1 << 20;

/// The FIFOs of one process. Their names are removed when this is dropped.
///
/// Each end is opened for reading and writing: that never blocks, and a pod process that is started
/// again finds its FIFOs as the one before left them.
#[derive(Debug)]
pub(crate) struct Fifos {
    names: Vec<PathBuf>,
    config: StdioConfig,
    pub(crate) stdin: Option<File>,
    pub(crate) stdout: Option<File>,
    pub(crate) stderr: Option<File>,
}

impl Fifos {
    /// Makes the FIFOs of a process in `dir`; `prefix` tells it from others there. A terminal has one
    /// output only.
    pub(crate) fn create(
        dir: &Path,
        prefix: &str,
        interactive: bool,
        terminal: bool,
    ) -> io::Result<Self> {
        let mut fifos = Self {
            names: Vec::new(),
            config: StdioConfig {
                terminal,
                ..StdioConfig::default()
            },
            stdin: None,
            stdout: None,
            stderr: None,
        };
        if interactive {
            (fifos.config.stdin, fifos.stdin) = fifos.make(dir, prefix, "stdin")?;
        }
        (fifos.config.stdout, fifos.stdout) = fifos.make(dir, prefix, "stdout")?;
        if !terminal {
            (fifos.config.stderr, fifos.stderr) = fifos.make(dir, prefix, "stderr")?;
        }
        Ok(fifos)
    }

    fn make(
        &mut self,
        dir: &Path,
        prefix: &str,
        stream: &str,
    ) -> io::Result<(String, Option<File>)> {
        let path = dir.join(format!("{prefix}{stream}"));
        let text = path
            .to_str()
            .ok_or(io::ErrorKind::InvalidFilename)?
            .to_owned();
        mkfifo(&path, Mode::from_bits_truncate(0o600))?;
        self.names.push(path.clone());
        let file = File::options().read(true).write(true).open(&path)?;
        // More room means fewer switches between the processes; less is no error.
        let _ = fcntl(file.as_fd(), FcntlArg::F_SETPIPE_SZ(FIFO_BYTES));
        Ok((text, Some(file)))
    }

    /// What the pod process is told.
    pub(crate) fn config(&self) -> StdioConfig {
        self.config.clone()
    }
}

impl Drop for Fifos {
    fn drop(&mut self) {
        for name in &self.names {
            // At the container's end the pod process has removed them with their directory.
            let _ = fs::remove_file(name);
        }
    }
}
