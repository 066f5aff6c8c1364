//! Throughput of a published port of a container, both ways.

use std::io::Read;
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::process::{Child, Stdio};
use std::time::Instant;

use anyhow::{Context, Result};
use harness::expect_line;

use crate::inside::SERVING;
use crate::pod::Pod;
use crate::sample::mebibytes;
use crate::streams::{feed, receive};

/// The container's port.
const PORT: u16 = 7000;

/// A port of the host that nobody has.
pub(crate) fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot find a port")?;
    Ok(listener.local_addr()?.port())
}

/// Options of `hull run` that publish it.
pub(crate) fn publish(port: u16) -> [String; 2] {
    ["-p".to_owned(), format!("127.0.0.1:{port}:{PORT}")]
}

/// A server in a pod whose port is published.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    port: u16,
    bytes: u64,
}

impl Server {
    /// Runs this program, which is at `program` in the pod; each measurement passes `bytes` on.
    pub(crate) fn start(pod: &Pod<'_>, program: &str, port: u16, bytes: u64) -> Result<Self> {
        let (own, count) = (PORT.to_string(), bytes.to_string());
        let mut child = pod
            .exec(&[], &[program, "inside", "serve", &own, &count])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        expect_line(&mut child, SERVING);
        Ok(Self { child, port, bytes })
    }

    fn connect(&self) -> Result<TcpStream> {
        TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))
            .with_context(|| format!("cannot connect to the published port {}", self.port))
    }

    /// MiB/s from the container.
    pub(crate) fn sent_rate(&self) -> Result<f64> {
        let mut stream = self.connect()?;
        stream.shutdown(Shutdown::Write)?;
        receive(&mut stream, self.bytes)
    }

    /// MiB/s to the container, until it has all.
    pub(crate) fn received_rate(&self) -> Result<f64> {
        let start = Instant::now();
        let mut stream = feed(self.connect()?, self.bytes)?;
        stream.shutdown(Shutdown::Write)?;
        stream.read_exact(&mut [0])?;
        Ok(mebibytes(self.bytes) / start.elapsed().as_secs_f64())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The server ends with its pod.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
