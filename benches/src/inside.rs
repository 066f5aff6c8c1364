//! What runs in the guest, or on the host beside it: this program, mounted into the container with
//! its libraries.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, VsockAddr, connect, socket};

/// How much is written and read at a time, in bytes.
const BLOCK: usize = 64 * 1024;
/// The host's address on vsock.
const HOST_CID: u32 = 2;
/// What a server says when it listens.
pub(crate) const SERVING: &str = "serving";

/// A piece of work; those with a duration print it in nanoseconds.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Work {
    /// Write so many bytes to standard output.
    Send { bytes: u64 },
    /// The same to a vsock port of the host.
    VsockSend { port: u32, bytes: u64 },
    /// Send back what a vsock port of the host sends.
    VsockEcho { port: u32 },
    /// Serve a TCP port: a connection that ends gets so many bytes, one that sends a byte is read to its end.
    Serve { port: u16, bytes: u64 },
    /// Write a file of so many bytes and sync it.
    WriteFile { path: PathBuf, bytes: u64 },
    /// Read a file.
    ReadFile {
        path: PathBuf,
        /// After it was dropped from the page cache
        #[arg(long)]
        drop_cache: bool,
    },
    /// Make, write, close, look at and remove so many files of 4 KiB.
    SmallFiles { dir: PathBuf, count: u32 },
}

pub(crate) fn carry_out(work: &Work) -> Result<()> {
    let took = match work {
        Work::Send { bytes } => {
            return Ok(send(&mut io::stdout().lock(), *bytes)?);
        }
        Work::VsockSend { port, bytes } => {
            return Ok(send(&mut vsock(*port)?, *bytes)?);
        }
        Work::VsockEcho { port } => return Ok(echo(&mut vsock(*port)?)?),
        Work::Serve { port, bytes } => return serve(*port, *bytes),
        Work::WriteFile { path, bytes } => write_file(path, *bytes)?,
        Work::ReadFile { path, drop_cache } => read_file(path, *drop_cache)?,
        Work::SmallFiles { dir, count } => small_files(dir, *count)?,
    };
    println!("{}", took.as_nanos());
    Ok(())
}

fn send(to: &mut impl Write, bytes: u64) -> io::Result<()> {
    let block = vec![b'x'; BLOCK];
    let mut left = bytes;
    while left > 0 {
        let count = usize::try_from(left).unwrap_or(BLOCK).min(BLOCK);
        to.write_all(&block[..count])?;
        left -= count as u64;
    }
    Ok(())
}

fn echo(stream: &mut File) -> io::Result<()> {
    let mut block = vec![0; BLOCK];
    loop {
        let count = stream.read(&mut block)?;
        if count == 0 {
            return Ok(());
        }
        stream.write_all(&block[..count])?;
    }
}

/// Says "serving" when it listens, and then answers for ever.
fn serve(port: u16, bytes: u64) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?;
    println!("{SERVING}");
    for stream in listener.incoming() {
        let mut stream = stream?;
        let mut block = vec![0; BLOCK];
        if stream.read(&mut block)? == 0 {
            send(&mut stream, bytes)?;
        } else {
            while stream.read(&mut block)? > 0 {}
            stream.write_all(b"x")?;
        }
    }
    Ok(())
}

/// A connection to a port of the host.
fn vsock(port: u32) -> Result<File> {
    let socket: OwnedFd = socket(
        AddressFamily::Vsock,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .context("cannot make a vsock socket")?;
    connect(socket.as_raw_fd(), &VsockAddr::new(HOST_CID, port))
        .with_context(|| format!("cannot connect to port {port} of the host"))?;
    Ok(socket.into())
}

fn write_file(path: &Path, bytes: u64) -> Result<Duration> {
    let start = Instant::now();
    let mut file = File::create(path).with_context(|| format!("cannot make {}", path.display()))?;
    send(&mut file, bytes)?;
    file.sync_all()?;
    Ok(start.elapsed())
}

fn read_file(path: &Path, drop_cache: bool) -> Result<Duration> {
    let open = || File::open(path).with_context(|| format!("cannot open {}", path.display()));
    if drop_cache {
        posix_fadvise(open()?, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
    }
    let start = Instant::now();
    let mut file = open()?;
    let mut block = vec![0; BLOCK];
    while file.read(&mut block)? > 0 {}
    Ok(start.elapsed())
}

fn small_files(dir: &Path, count: u32) -> Result<Duration> {
    let start = Instant::now();
    fs::create_dir(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    for index in 0..count {
        fs::write(dir.join(index.to_string()), [b'x'; 4096])?;
    }
    for index in 0..count {
        if fs::metadata(dir.join(index.to_string()))?.len() != 4096 {
            bail!("a file has lost its content");
        }
    }
    for index in 0..count {
        fs::remove_file(dir.join(index.to_string()))?;
    }
    fs::remove_dir(dir)?;
    Ok(start.elapsed())
}

/// Options of `hull run` that show this program and its libraries to a container, at the same paths.
pub(crate) fn mounts() -> Result<Vec<String>> {
    let maps = fs::read_to_string("/proc/self/maps").context("cannot read /proc/self/maps")?;
    let mut files: Vec<&str> = maps
        .lines()
        .filter_map(|line| Some(&line[line.find('/')?..]))
        .collect();
    files.sort_unstable();
    files.dedup();
    let mut options = Vec::new();
    for file in files {
        // The program interpreter is asked for by a path of its own.
        let targets = match Path::new(file).file_name().and_then(|name| name.to_str()) {
            Some("ld-linux-x86-64.so.2") => vec!["/lib64/ld-linux-x86-64.so.2", file],
            _ => vec![file],
        };
        for target in targets {
            options.extend(["--volume".to_owned(), format!("{file}:{target}:ro")]);
        }
    }
    Ok(options)
}
