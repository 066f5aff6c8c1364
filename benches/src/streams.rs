//! Throughput of a process's streams, and of a vsock stream that the same guest's process opens itself.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use nix::poll::{PollFd, PollFlags, poll};

use crate::pod::Pod;
use crate::sample::mebibytes;

/// A port of the host that nobody else listens on.
const PORT: u32 = 7000;
const BLOCK: usize = 64 * 1024;

/// A pod with this program in it, at `program`.
#[derive(Debug)]
pub(crate) struct Streams<'p, 'h> {
    pod: &'p Pod<'h>,
    program: String,
    listener: UnixListener,
    socket: PathBuf,
    bytes: u64,
}

impl<'p, 'h> Streams<'p, 'h> {
    /// Each measurement passes `bytes` on.
    pub(crate) fn new(pod: &'p Pod<'h>, program: &str, bytes: u64) -> Result<Self> {
        let mut socket = pod.vsock()?.into_os_string();
        socket.push(format!("_{PORT}"));
        let socket = PathBuf::from(socket);
        let listener = UnixListener::bind(&socket)
            .with_context(|| format!("cannot listen on {}", socket.display()))?;
        Ok(Self {
            pod,
            program: program.to_owned(),
            listener,
            socket,
            bytes,
        })
    }

    fn work(&self, options: &[&str], words: &[&str]) -> Command {
        let mut all = vec![self.program.as_str(), "inside"];
        all.extend(words);
        self.pod.exec(options, &all)
    }

    /// MiB/s from the container's standard output.
    pub(crate) fn stdout(&self) -> Result<f64> {
        let mut child = self
            .work(&[], &["send", &self.bytes.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let rate = receive(&mut child.stdout.take().context("a pipe")?, self.bytes)?;
        succeeded(child)?;
        Ok(rate)
    }

    /// MiB/s through `cat` in the container: in and out again.
    pub(crate) fn cat(&self) -> Result<f64> {
        let mut child = self
            .pod
            .exec(&["-i"], &["cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let stdin = child.stdin.take().context("a pipe")?;
        let bytes = self.bytes;
        // The end of its input ends `cat`.
        let sender = thread::spawn(move || feed(stdin, bytes).map(drop));
        let rate = receive(&mut child.stdout.take().context("a pipe")?, self.bytes)?;
        sender.join().expect("the sender does not panic")?;
        succeeded(child)?;
        Ok(rate)
    }

    /// MiB/s from a process in the container that writes to a vsock stream.
    pub(crate) fn vsock_out(&self) -> Result<f64> {
        let (port, bytes) = (PORT.to_string(), self.bytes.to_string());
        let (child, mut stream) = self.dialled(&["vsock-send", &port, &bytes])?;
        let rate = receive(&mut stream, self.bytes)?;
        succeeded(child)?;
        Ok(rate)
    }

    /// MiB/s through a process in the container that sends back what it receives on a vsock stream.
    pub(crate) fn vsock_echo(&self) -> Result<f64> {
        let (child, mut stream) = self.dialled(&["vsock-echo", &PORT.to_string()])?;
        let writer = stream.try_clone()?;
        let bytes = self.bytes;
        let sender = thread::spawn(move || -> std::io::Result<()> {
            feed(writer, bytes)?.shutdown(std::net::Shutdown::Write)
        });
        let rate = receive(&mut stream, self.bytes)?;
        sender.join().expect("the sender does not panic")?;
        succeeded(child)?;
        Ok(rate)
    }

    /// Starts a process in the container that connects to us.
    fn dialled(&self, words: &[&str]) -> Result<(Child, UnixStream)> {
        let mut command = self.work(&[], words);
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut ready = [PollFd::new(self.listener.as_fd(), PollFlags::POLLIN)];
        if poll(&mut ready, PATIENCE_MS)? == 0 {
            succeeded(child)?;
            bail!("nobody has connected to {}", self.socket.display());
        }
        Ok((child, self.listener.accept()?.0))
    }
}

/// How long a process may take until it connects, in milliseconds; if it fails, that tells why.
const PATIENCE_MS: u16 = 30_000;

fn succeeded(child: Child) -> Result<()> {
    let output = child.wait_with_output()?;
    ensure!(
        output.status.success(),
        "hull exec: {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

impl Drop for Streams<'_, '_> {
    fn drop(&mut self) {
        // The pod's directory goes anyway.
        let _ = fs::remove_file(&self.socket);
    }
}

pub(crate) fn feed<W: Write>(mut to: W, bytes: u64) -> std::io::Result<W> {
    let block = vec![b'y'; BLOCK];
    let mut left = bytes;
    while left > 0 {
        let count = usize::try_from(left).unwrap_or(BLOCK).min(BLOCK);
        to.write_all(&block[..count])?;
        left -= count as u64;
    }
    Ok(to)
}

/// Reads `bytes` to the end of the stream. The clock starts with the first of them: what comes before
/// is the start of a process.
pub(crate) fn receive(from: &mut impl Read, bytes: u64) -> Result<f64> {
    let mut block = vec![0; BLOCK];
    let mut received = from.read(&mut block)? as u64;
    let (start, first) = (Instant::now(), received);
    loop {
        let count = from.read(&mut block)?;
        if count == 0 {
            break;
        }
        received += count as u64;
    }
    let took = start.elapsed();
    ensure!(received == bytes, "{received} of {bytes} bytes arrived");
    Ok(mebibytes(received - first) / took.as_secs_f64())
}
