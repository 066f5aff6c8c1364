//! Where a pod process's log goes: a file, and the FIFO that an engine reads it from.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Writes to the standard error, which is the pod's log file, and to an engine's FIFO. An engine that
/// does not read keeps nobody waiting: what the FIFO does not take is in the file only.
#[derive(Debug)]
pub struct PodLog {
    fifo: Option<File>,
}

impl PodLog {
    /// Opens the FIFO, if there is one.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(fifo: Option<&Path>) -> io::Result<Self> {
        let open = |path| {
            File::options()
                // Also for reading: an engine that is started again finds it open.
                .read(true)
                .write(true)
                .custom_flags(libc::O_NONBLOCK)
                .open(path)
        };
        Ok(Self {
            fifo: fifo.map(open).transpose()?,
        })
    }
}

impl Write for &PodLog {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(mut fifo) = self.fifo.as_ref() {
            let _ = fifo.write(bytes);
        }
        // A disk that is full costs the log and not the pod: whoever logs would take it for a fault of the
        // program, say so on the standard error, and panic because that is full too.
        let _ = io::stderr().write_all(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let _ = io::stderr().flush();
        Ok(())
    }
}
